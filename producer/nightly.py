"""One night of a catalogue: render what changed, keep the rest, and switch the pointer when it is complete and good.

A night is one run in the ledger; each step may be repeated after a crash at any moment (docs/nightly.md).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import CatalogueJob, Priority
from face0_worker.records import catalogue_runs, catalogues, jobs
from face0_worker.records.catalogue_pointer import Entry, Pointer, read_entries, read_pointer
from face0_worker.records.catalogue_runs import Run
from face0_worker.records.offers import find_model
from face0_worker.records.progress import JobStatus, job_status
from face0_worker.records.storage import check_id
from producer.nights.outcome import Results, collect
from producer.nights.plan import Plan, Share, make_plan
from producer.nights.report import Counts, Difference, Night, compare, count, first_sentences
from producer.services import Services

_POLL_S = 0.2
_CATALOGUE = Use(Purpose.CATALOGUE, "", "", "")


@dataclass(frozen=True)
class Order:
    """What a night is asked for. `deadline` is timezone-aware; `min_done` is a share of the items that are allowed."""

    catalogue: str
    shares: tuple[Share, ...]
    use: Use = _CATALOGUE
    model: str | None = None
    bars: Path | None = None
    deadline: datetime | None = None
    publish_at_deadline: bool = True
    min_done: float = 0.98

    def __post_init__(self) -> None:
        try:
            check_id(self.catalogue)
        except BadInput as error:
            raise BadInput(f"a catalogue's name becomes part of storage keys: {error}") from error


@dataclass(frozen=True)
class Preview:
    """What a night would do now."""

    difference: Difference
    items: int
    to_render: int
    refused: int
    model: str


# told where the jobs of a run stand, again and again until they have ended
OnProgress = Callable[[Sequence[JobStatus]], None]


def preview(services: Services, order: Order) -> Preview:
    """Return what a night would do. A photo whose face is not stored yet is stored. Raises: as `run_night`."""
    offer = find_model(services.ledger, order.model)
    plan = make_plan(services, order.shares, order.use, offer, order.bars)
    shown = _shown(services, order.catalogue).entries
    kept = jobs.count_kept(services.ledger, (one.item_key for one in plan.wanted))
    difference = compare(shown, plan.wanted)
    return Preview(difference, len(plan.wanted), len(plan.wanted) - kept, plan.refused_items, offer.name)


def run_night(
    services: Services,
    order: Order,
    on_progress: OnProgress = lambda _: None,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    poll_s: float = _POLL_S,
) -> Night:
    """Make the catalogue be what the lists say; return how the night ended. Repeated, an open run goes on.

    Every `poll_s` seconds it looks how far the workers are.
    Raises: FaceRefused, BadInput: nothing was begun. ModelMissing, ServiceDown: repeat it when it is back.
    """
    begun = time.monotonic()
    offer = find_model(services.ledger, order.model)
    plan = make_plan(services, order.shares, order.use, offer, order.bars)
    _settle_earlier(services, order, plan, clock())
    if (night := _unchanged(services, order, plan, begun)) is not None:
        return night
    run_hex = secrets.token_hex(6)
    run = catalogue_runs.begin(
        services.ledger,
        f"run-{run_hex}",
        catalogue=order.catalogue,
        content=plan.content,
        purpose=order.use.purpose,
        deadline=order.deadline,
        jobs=[f"job-{run_hex}-{number}" for number in range(len(plan.cast))],
    )
    if run.content != plan.content:
        raise BadInput(f"another night of catalogue {order.catalogue} began in this moment; repeat the command")
    _make_jobs(services, order, plan, run)
    late = not _follow(services, run, on_progress, clock, poll_s)
    return _close(services, order, run, plan, late=late, begun=begun)


def _settle_earlier(services: Services, order: Order, plan: Plan, now: datetime) -> None:
    """Close an open run whose deadline has passed, by its rule, and one with another list, by the new one's arrival."""
    run = catalogue_runs.find_open(services.ledger, order.catalogue)
    if run is None:
        return
    if run.deadline is not None and run.deadline <= now:
        _close(services, order, run, None, late=True, begun=time.monotonic())
    elif run.content != plan.content:
        _cancel(services, run)
        catalogue_runs.end(services.ledger, run.id, "replaced", {})


def _unchanged(services: Services, order: Order, plan: Plan, begun: float) -> Night | None:
    """Note and return a night in which nothing is to do, or None: the pointer shows just this, and all of it stands."""
    if catalogue_runs.find_open(services.ledger, order.catalogue) is not None:
        return None
    shown = _shown(services, order.catalogue)
    run_id, content = catalogues.published_content(services.ledger, order.catalogue)
    if shown.pointer is None or (shown.pointer.run_id, content) != (run_id, plan.content):
        return None
    if jobs.count_kept(services.ledger, {one.item_key for one in plan.wanted}) != len(shown.entries):
        return None
    total = len(shown.entries)
    counts = Counts(items=total + plan.refused_items, done=total, kept=total, refused=plan.refused_items)
    run = catalogue_runs.note_unchanged(
        services.ledger,
        f"run-{secrets.token_hex(6)}",
        catalogue=order.catalogue,
        content=plan.content,
        purpose=order.use.purpose,
        counts=vars(counts),
        manifest_key=shown.pointer.manifest.key,
    )
    problems = first_sentences(plan.refused)
    return Night(run, counts, shown.pointer, shown.entries, problems, time.monotonic() - begun)


@dataclass(frozen=True)
class _Shown:
    pointer: Pointer | None
    entries: tuple[Entry, ...]


def _shown(services: Services, name: str, *, before: str = "") -> _Shown:
    """Return what the catalogue shows; `before`: a run that may have switched the pointer, and is looked behind."""
    public_key = services.signer.public_key
    pointer = read_pointer(services.storage, public_key, name)
    manifest = pointer.manifest if pointer else None
    if pointer is not None and before and pointer.run_id == before:
        manifest = pointer.previous
    return _Shown(pointer, tuple(read_entries(services.storage, public_key, manifest)) if manifest else ())


def _make_jobs(services: Services, order: Order, plan: Plan, run: Run) -> None:
    """Write each person's job: unchanged items are done at once, the others wait. Repeating it makes none twice.

    Raises: ConsentRefused: one ended since the plan was made; the command can be repeated, and leaves them out.
    """
    for job_id, person in zip(run.jobs, plan.cast, strict=True):
        job = CatalogueJob(
            id=job_id,
            subject=person.subject,
            purpose=order.use.purpose,
            priority=Priority.NIGHTLY,
            items=person.share.items,
            catalogue=order.catalogue,
            # fair between catalogues, and the same whoever repeats the command
            submitter=f"nightly {order.catalogue}",
            idempotency_key=job_id,
            campaign=order.use.campaign or "",
            channel=order.use.channel or "",
            territory=order.use.territory or "",
            bars=plan.bars,
        )
        jobs.create_job(services.ledger, job, person.face_key)


def _follow(
    services: Services, run: Run, on_progress: OnProgress, clock: Callable[[], datetime], poll_s: float
) -> bool:
    """Wait until the run's jobs have ended; False: the deadline came first."""
    while True:
        standing = [job_status(services.ledger, job_id) for job_id in run.jobs]
        on_progress(standing)
        if all(job.ended for job in standing):
            return True
        if run.deadline is not None and run.deadline <= clock():
            return False
        time.sleep(poll_s)


def _cancel(services: Services, run: Run) -> bool:
    """Cancel what is open of the run's jobs; False: not all of them were made."""
    all_made = True
    for job_id in run.jobs:
        try:
            if not job_status(services.ledger, job_id).ended:
                jobs.cancel_job(services.ledger, job_id)
        except BadInput:
            all_made = False
    return all_made


def _close(services: Services, order: Order, run: Run, plan: Plan | None, *, late: bool, begun: float) -> Night:
    """Collect and verify what was made, publish it if it is good enough, and close the run.

    `plan` is None for a run of an earlier command, whose lists nobody knows any more.
    """
    all_made = not late or _cancel(services, run)
    shown = _shown(services, order.catalogue, before=run.id)
    results = collect(services, run.jobs if all_made else (), shown.entries)
    problems = first_sentences([*(plan.refused if plan else ()), *results.problems])
    left_out = plan.refused_items if plan else 0
    counts = count(shown.entries, results, results.entries, refused=left_out)
    good = all_made and _good(order, results, late=late) and (results.entries or shown.pointer)
    if not good:
        catalogues.leave_out(services.ledger, services.storage, services.signer, order.catalogue)
        run = catalogue_runs.end(services.ledger, run.id, "withheld", vars(counts))
        shown = _shown(services, order.catalogue)
        return Night(run, counts, shown.pointer, shown.entries, problems, time.monotonic() - begun)
    content = run.content if plan and results.done == results.total else ""
    use = order.use if plan else catalogue_runs.use_of(services.ledger, run)
    draft = catalogues.Draft(order.catalogue, run.id, use, results.entries, content)
    pointer = catalogues.publish(services.ledger, services.storage, services.signer, draft)
    # a consent may have ended after its pictures were collected
    pictures = tuple(entry for entry in results.entries if entry.consent_id in pointer.consents)
    counts = count(shown.entries, results, pictures, refused=left_out)
    run = catalogue_runs.end(services.ledger, run.id, "published", vars(counts), pointer.manifest.key)
    return Night(run, counts, pointer, pictures, problems, time.monotonic() - begun)


def _good(order: Order, results: Results, *, late: bool) -> bool:
    if late:
        return order.publish_at_deadline
    return results.done >= order.min_done * (results.total - results.refused)
