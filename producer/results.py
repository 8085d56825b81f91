"""Bring pictures to a place: under names people can read, each with a sidecar that tells its facts and its receipt."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from face0_worker.contract.errors import Face0Error
from face0_worker.contract.job import ItemState
from face0_worker.records.deliveries import Channel
from face0_worker.records.progress import JobStatus, job_status
from producer.delivery.fetching import Exit, Load, Request, work_through
from producer.delivery.fetching import Picture as Picture
from producer.delivery.places import Folder, Place
from producer.delivery.selection import Selection, Wanted, of_job
from producer.services import Services


@dataclass(frozen=True)
class Copy:
    """One picture as it lies in a place now, without its bytes; `size` is their number, None where it lay there."""

    picture: Picture
    name: str
    size: int | None


@dataclass(frozen=True)
class Brought:
    """What was brought; `problems` are sentences about pictures that could not be had."""

    copies: tuple[Copy, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """What a pull did. `files` are (picture without its bytes, path); `problems` are sentences."""

    job: JobStatus
    files: tuple[tuple[Picture, Path], ...]
    problems: tuple[str, ...]


def bring(
    services: Services, request: Request, place: Place, on_file: Callable[[str], None] = lambda _: None
) -> Brought:
    """Put each picture and its sidecar `.json` into a place; what is there and right is not fetched again.

    Raises: as `fetch`, and what the place raises.
    """
    ending = request.form.format.ending if request.form else "png"
    copies: list[Copy] = []
    problems: list[str] = []

    def work(wanted: Wanted, picture: Picture, load: Load) -> tuple[Picture, Copy]:
        name = f"{wanted.name}.{ending}"
        there = place.holds(name, picture.receipt.picture_sha256)
        whole = picture if there else picture.with_data(load())
        if not place.in_order:
            put(wanted, whole, name)
        return whole, Copy(picture, name, None if there else len(whole.data))

    def put(wanted: Wanted, picture: Picture, name: str) -> None:
        if picture.data:
            place.put(name, picture.data)
        place.put(f"{wanted.name}.json", _sidecar(request.selection, wanted, picture, name))

    for wanted, got in work_through(services, request, work):
        if isinstance(got, Face0Error):
            problems.append(f"SKU {wanted.sku}: {got}")
            continue
        picture, copy = got
        if place.in_order:
            put(wanted, picture, copy.name)
        copies.append(copy)
        on_file(copy.name)
    return Brought(tuple(copies), tuple(problems))


def pull(services: Services, job_id: str, to: Path, on_file: Callable[[Path], None] = lambda _: None) -> Pulled:
    """Write a job's finished pictures to a folder as `<sku>[-<variant>].png` with a sidecar `.json` beside each.

    Repeating it brings what has become ready since and changes nothing else.
    Raises: as `fetch`; BadInput: the folder can't be written.
    """
    job, folder = job_status(services.ledger, job_id), Folder(to)
    request = Request(of_job(services, job_id), Exit("pull", Channel.PULL, folder.where))
    brought = bring(services, request, folder, lambda name: on_file(to / name))
    return Pulled(job, tuple((copy.picture, to / copy.name) for copy in brought.copies), brought.problems)


def report(pulled: Pulled, *, verified: int, wall_s: float, root: Path) -> dict[str, object]:
    """Return report.json: design.md's form. `root`: the folder that the file names are relative to."""
    counts = pulled.job.counts
    return {
        "items": pulled.job.total,
        "done": counts[ItemState.DONE],
        "failed": counts[ItemState.FAILED],
        "refused": counts[ItemState.REJECTED] + counts[ItemState.CANCELLED] + counts[ItemState.PURGED],
        "kept": pulled.job.kept,
        "renders": pulled.job.renders,
        "verified": verified,
        "wall_s": round(wall_s, 3),
        "pictures": [
            {"sku": picture.sku, "file": path.relative_to(root).as_posix(), "sha256": picture.receipt.picture_sha256}
            for picture, path in pulled.files
        ],
    }


def _sidecar(selection: Selection, wanted: Wanted, picture: Picture, file: str) -> bytes:
    receipt = picture.receipt
    about = {
        "sku": picture.sku,
        "variant": picture.variant,
        "file": file.rpartition("/")[2],
        "sha256": receipt.picture_sha256,
        "prompt": picture.prompt,
        "seed": receipt.seed,
        **selection.about,
        "job": wanted.job_id,
        "item_key": receipt.item_key,
        "model_digest": receipt.model_digest,
        "verdict": asdict(receipt.verdict),
        "receipt_key": picture.receipt_key,
        "receipt": json.loads(picture.envelope),
    }
    if receipt.parent_sha256:
        about |= {"parent_sha256": receipt.parent_sha256, "form": receipt.form}
    return (json.dumps(about, ensure_ascii=False, indent=2) + "\n").encode()
