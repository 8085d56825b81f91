"""Bring a job's pictures to a folder: each checked against its sha256 and receipt, under a name people can read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy import select

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import BadInput, Face0Error, VerificationFailed
from face0_worker.contract.job import ItemState
from face0_worker.contract.receipt import Receipt
from face0_worker.records import consents
from face0_worker.records.commits import find_commit
from face0_worker.records.progress import ItemRow, JobStatus, job_items, job_status
from face0_worker.records.provenance import open_public_key, verify_receipt
from face0_worker.records.storage import StorageMissing
from face0_worker.records.tables import items as items_table
from producer.services import Services, keys_folder

_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST = 150  # bytes in UTF-8; file systems allow 255, and a number and an ending follow
_CONSENT_AGAIN = 50  # pictures; a withdrawal in the middle of a long pull stops the rest


@dataclass(frozen=True)
class Picture:
    """One finished picture whose bytes hash to what was committed and whose receipt is signed."""

    sku: str
    variant: str
    prompt: str
    kept: bool
    receipt_key: str
    envelope: bytes
    receipt: Receipt
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Pulled:
    """What a pull did. `files` are (picture, path); `problems` are sentences about pictures that could not be had."""

    job: JobStatus
    files: tuple[tuple[Picture, Path], ...]
    problems: tuple[str, ...]


def fetch(services: Services, job_id: str, *, stage: str) -> Iterator[tuple[ItemRow, Picture | Face0Error]]:
    """Yield a job's done items with their checked pictures, or with what is wrong with one; consent comes first.

    Raises: ConsentRefused: the consent does not allow the job's purpose now. BadInput: no such job. ServiceDown.
    """
    job = job_status(services.ledger, job_id)
    public_key = open_public_key(keys_folder(services.settings) / "signing.pub")
    prompts = _prompts(services, job_id)
    for number, row in enumerate(list(job_items(services.ledger, job_id, {ItemState.DONE}))):
        if number % _CONSENT_AGAIN == 0:
            consents.require(services.ledger, job.consent_id, Use(Purpose(job.purpose)), stage=stage)
        commit = find_commit(services.ledger, item_key=row.item_key)
        try:
            if commit is None or row.picture_key is None:
                raise VerificationFailed("the ledger has no commit for it")
            data = services.storage.get(row.picture_key)
            if hashlib.sha256(data).hexdigest() != row.picture_sha256:
                raise VerificationFailed("its stored bytes are not those that were committed")
            receipt = verify_receipt(commit.receipt, public_key)
            if receipt.picture_sha256 != row.picture_sha256:
                raise VerificationFailed("its receipt is about another picture")
        except (VerificationFailed, StorageMissing) as error:
            yield row, error
            continue
        prompt = prompts.get(row.position, "")
        yield row, Picture(row.sku, row.variant, prompt, row.kept, commit.receipt_key, commit.receipt, receipt, data)
    if not job.counts[ItemState.DONE]:
        consents.require(services.ledger, job.consent_id, Use(Purpose(job.purpose)), stage=stage)


def pull(services: Services, job_id: str, to: Path, on_file: Callable[[Path], None] = lambda _: None) -> Pulled:
    """Write every finished picture of a job as `<sku>[-<variant>].png` with a sidecar `.json` beside it.

    Repeating it brings what has become ready since and changes nothing else. The names depend on the whole list,
    so they stay the same from pull to pull.
    Raises: as `fetch`; BadInput: the folder can't be written.
    """
    job = job_status(services.ledger, job_id)
    names = file_names([(row.position, row.sku, row.variant) for row in job_items(services.ledger, job_id)])
    files: list[tuple[Picture, Path]] = []
    problems: list[str] = []
    for row, got in fetch(services, job_id, stage="pull"):
        if isinstance(got, Face0Error):
            problems.append(f"SKU {row.sku}: {got}")
            continue
        path = to / f"{names[row.position]}.png"
        _write(path, got.data)
        _write(path.with_suffix(".json"), _sidecar(job, got, path.name))
        files.append((got, path))
        on_file(path)
    return Pulled(job, tuple(files), tuple(problems))


def file_names(rows: Collection[tuple[int, str, str]]) -> dict[int, str]:
    """Return a file name without ending for each (position, sku, variant), by position; no two are equal.

    Names differ also where upper and lower case are the same, as on Windows and macOS.
    """
    taken: set[str] = set()
    names: dict[int, str] = {}
    for position, sku, variant in rows:
        plain = safe_name(f"{sku}-{variant}" if variant else sku)
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        names[position] = name
    return names


def safe_name(text: str) -> str:
    """Return text as a file name on any system; letters of every language stay, separators become `_`."""
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", text))
    name = "".join(sign for sign in name if unicodedata.category(sign) not in ("Cf", "Cs", "Co", "Cn"))
    name = name.encode()[:_LONGEST].decode(errors="ignore").strip(" .")
    if not name or set(name) == {"_"}:
        return "picture"
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def report(pulled: Pulled, *, verified: int, wall_s: float, root: Path) -> dict[str, object]:
    """Return report.json: design.md's form. `root`: the folder that the file names are relative to."""
    counts = pulled.job.counts
    return {
        "items": pulled.job.total,
        "done": counts[ItemState.DONE],
        "failed": counts[ItemState.FAILED],
        "refused": counts[ItemState.REJECTED] + counts[ItemState.CANCELLED] + counts[ItemState.PURGED],
        "kept": pulled.job.kept,
        "verified": verified,
        "wall_s": round(wall_s, 3),
        "pictures": [
            {"sku": picture.sku, "file": path.relative_to(root).as_posix(), "sha256": picture.receipt.picture_sha256}
            for picture, path in pulled.files
        ],
    }


def _sidecar(job: JobStatus, picture: Picture, file: str) -> bytes:
    receipt = picture.receipt
    about = {
        "sku": picture.sku,
        "variant": picture.variant,
        "file": file,
        "sha256": receipt.picture_sha256,
        "prompt": picture.prompt,
        "seed": receipt.seed,
        "job": job.id,
        "item_key": receipt.item_key,
        "model_digest": receipt.model_digest,
        "verdict": asdict(receipt.verdict),
        "receipt_key": picture.receipt_key,
        "receipt": json.loads(picture.envelope),
    }
    return (json.dumps(about, ensure_ascii=False, indent=2) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; one that is the same already is left alone."""
    fresh = path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.read_bytes() == data:
            return
        try:
            fresh.write_bytes(data)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{path} can't be written: {error.strerror}; choose another folder with --to") from error


def _prompts(services: Services, job_id: str) -> dict[int, str]:
    prompt = items_table.c.spec["prompt"].astext.label("prompt")
    query = select(items_table.c.position, prompt).where(items_table.c.job_id == job_id)
    with services.ledger.transaction() as connection:
        return {row.position: row.prompt for row in connection.execute(query)}
