"""face0 as a library: submit a product list, ask where it stands, take the pictures. The promises of the commands.

    from producer.api import Client

    with Client() as client:
        job = client.submit("list.csv", consent_id="consent-1a2b", face="photo.jpg")
        client.wait(job.job_id)
        for result in client.results(job.job_id): ...

Imports without torch and without click; nothing here prints, exits or reads the command line.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from face0_worker.contract.consent import PICTURES, Purpose, Use
from face0_worker.contract.errors import BadInput, Face0Error
from face0_worker.contract.job import Guidance, ItemState, Priority, RenderItem
from face0_worker.records import consents
from face0_worker.records.deliveries import Channel
from face0_worker.records.offers import find_model
from face0_worker.records.progress import ItemRow, JobStatus, job_items, job_status, list_jobs
from face0_worker.settings import load_settings
from producer import results, submit
from producer.catalogue import ItemDefaults, ListOptions, read_items
from producer.delivery.fetching import Exit, Picture, Request, fetch
from producer.delivery.selection import of_job
from producer.results import Pulled
from producer.services import Services
from producer.sources import Source, photo_files
from producer.submit import SubmitResult

__all__ = [
    "BadInput",
    "Client",
    "Face0Error",
    "Guidance",
    "ItemDefaults",
    "ItemRow",
    "ItemState",
    "JobStatus",
    "ListOptions",
    "Picture",
    "Priority",
    "Pulled",
    "Purpose",
    "RenderItem",
    "Result",
    "SubmitResult",
]

_POLL_S = 0.3


@dataclass(frozen=True)
class Result:
    """One done item of a job: its file name without ending, and its checked picture or what is wrong with it."""

    sku: str
    variant: str
    name: str
    picture: Picture | None
    problem: Face0Error | None


class Client:
    """One installation of face0. Use it in a `with`; parts are opened when they are first needed and may raise then.

    Settings are read as by the commands: the config file, FACE0_* variables, and what is given here, in order of
    increasing strength: `Client(home=Path("/srv/face0"), ledger_url="postgresql://...")`. One client is for one thread.
    Every method raises a Face0Error: BadInput, ConsentRefused, ServiceDown and so on; `error.exit_code` is the
    commands' exit code, `error.retryable` whether the same call may succeed later.
    """

    def __init__(self, *, config: Path | None = None, **settings: object) -> None:
        """Raises: BadInput: a setting is wrong; the message names it and where it was said."""
        self._services = Services(load_settings(config, **settings))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened."""
        self._services.__exit__(None, None, None)

    def defaults(self, model: str | None = None) -> ItemDefaults:
        """Return what an item of this model gets where nothing is said. Raises: ModelMissing, LedgerDown."""
        return ItemDefaults.of_model(find_model(self._services.ledger, model).facts)

    def items(
        self,
        skus: Path | str,
        *,
        template: str | None = None,
        model: str | None = None,
        options: ListOptions | None = None,
    ) -> Iterable[RenderItem]:
        """Return the items of a product list, to be iterated as often as needed. Nothing is written.

        Raises: BadInput: here for the whole file, while iterating for its lines. ModelMissing, LedgerDown.
        """
        return read_items(Path(skus), template, self.defaults(model), options)

    def submit(
        self,
        skus: Path | str | Iterable[RenderItem],
        *,
        consent_id: str,
        face: Path | str | bytes | Sequence[Path | str] | None = None,
        template: str | None = None,
        options: ListOptions | None = None,
        purpose: Purpose | str = Purpose.CATALOGUE,
        priority: Priority | str = Priority.NORMAL,
        model: str | None = None,
        catalogue: str = "",
        submitter: str = "",
        idempotency_key: str = "",
        dry_run: bool = False,
        campaign: str = "",
        channel: str = "",
        territory: str = "",
    ) -> SubmitResult:
        """Make a job of a product list (a file, or items made here) and one person's photo; return at once.

        The consent is required before list and photo are opened. `face`: a photo, its bytes, several photos that are
        averaged, or None for the face that is stored under the consent. All or nothing: a list with one wrong line
        enqueues nothing. The same `idempotency_key` of the same submitter returns the same job. `campaign`, `channel`
        and `territory` say what the pictures are for, where the consent names some.
        Raises: ConsentRefused, FaceRefused, FaceHeld, BadInput, ModelMissing, ServiceDown.
        """
        use = Use(_purpose(purpose), campaign, channel, territory)
        consents.require(self._services.ledger, consent_id, use, stage="submit")
        if isinstance(skus, Path | str):
            skus = self.items(skus, template=template, model=model, options=options)
        elif template is not None or options is not None:
            raise BadInput("template and options are for a list in a file; these items are made already")
        return submit.submit(
            self._services,
            face=_face(face),
            items=skus,
            consent_id=consent_id,
            purpose=use.purpose,
            priority=_priority(priority),
            model=model,
            catalogue=catalogue,
            submitter=submitter,
            idempotency_key=idempotency_key,
            dry_run=dry_run,
            campaign=campaign,
            channel=channel,
            territory=territory,
        )

    def status(self, job_id: str) -> JobStatus:
        """Return where a job stands; asks the ledger only. Raises: BadInput: no such job. LedgerDown."""
        return job_status(self._services.ledger, job_id)

    def jobs(self, most: int = 100) -> list[JobStatus]:
        """Return the newest jobs, newest first. Raises: LedgerDown."""
        return list_jobs(self._services.ledger, most)

    def rows(self, job_id: str, states: Iterable[ItemState] | None = None) -> Iterator[ItemRow]:
        """Yield a job's items in the list's order; `states`: only those. Raises: BadInput: no such job. LedgerDown."""
        self.status(job_id)  # an unknown job is told
        wanted = None if states is None else set(states)
        yield from job_items(self._services.ledger, job_id, wanted)

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Return where a job stands when its last item has ended, or after `timeout_s`: then `ended` is False.

        Raises: BadInput: no such job. LedgerDown.
        """
        begun = time.monotonic()
        while True:
            status = self.status(job_id)
            left_s = _POLL_S if timeout_s is None else begun + timeout_s - time.monotonic()
            if status.ended or left_s <= 0:
                return status
            time.sleep(min(_POLL_S, left_s))

    def results(self, job_id: str) -> Iterator[Result]:
        """Yield a job's done items with their pictures, each checked against its sha256 and its signed receipt.

        The consent is required first, and again in a long run; what leaves is noted in the distribution register.
        Raises: ConsentRefused, BadInput: no such job. ServiceDown.
        """
        way = Exit("pull", Channel.PULL, "a program")
        for one, got in fetch(self._services, Request(of_job(self._services, job_id), way)):
            if isinstance(got, Face0Error):
                yield Result(one.sku, one.variant, one.name, None, got)
            else:
                yield Result(one.sku, one.variant, one.name, got, None)

    def pull(self, job_id: str, to: Path | str) -> Pulled:
        """Write a job's pictures to a folder as `<sku>[-<variant>].png` with a sidecar `.json`, as `results pull` does.

        Raises: ConsentRefused, BadInput, ServiceDown.
        """
        return results.pull(self._services, job_id, Path(to))


def _face(face: Path | str | bytes | Sequence[Path | str] | None) -> Path | bytes | Source | None:
    if face is None or isinstance(face, bytes | Path):
        return face
    if isinstance(face, str):
        return Path(face)
    return photo_files([Path(photo) for photo in face])


def _purpose(said: Purpose | str) -> Purpose:
    if said not in PICTURES:  # TRAINING is for no pictures: no photo is to be stored for it
        raise BadInput(f"purpose {str(said)!r} is not known; choose from {', '.join(PICTURES)}")
    return Purpose(said)


def _priority(said: Priority | str) -> Priority:
    try:
        return said if isinstance(said, Priority) else Priority[said.upper()]
    except KeyError as error:
        names = ", ".join(priority.name.lower() for priority in Priority)
        raise BadInput(f"priority {said!r} is not known; choose from {names}") from error
