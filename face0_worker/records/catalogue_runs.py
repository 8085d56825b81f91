"""The runs of a catalogue, one a night: at most one is open, and repeating its command goes on with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.consent import Purpose, Use
from face0_worker.records.consents import job_use
from face0_worker.records.ledger import Ledger
from face0_worker.records.storage import check_id
from face0_worker.records.tables import catalogue_runs, catalogues
from face0_worker.records.tables import jobs as jobs_table


@dataclass(frozen=True)
class Run:
    """One run. `content` is the digest of all it asks for, `jobs` are ids in the order of the manifest.

    `state`: running; published; unchanged (nothing was to do); withheld (the pointer stayed); replaced (by a run with
    another list). `counts` are what the report says; times are UTC, `deadline` may be None.
    """

    id: str
    catalogue: str
    state: str
    content: str
    purpose: str
    deadline: datetime | None
    jobs: tuple[str, ...]
    counts: dict[str, int]
    manifest_key: str
    started_at: datetime
    ended_at: datetime | None

    @property
    def open(self) -> bool:
        """Whether it has not ended yet."""
        return self.state == "running"


def begin(
    ledger: Ledger,
    run_id: str,
    *,
    catalogue: str,
    content: str,
    purpose: str,
    deadline: datetime | None,
    jobs: Sequence[str],
) -> Run:
    """Write a new run and return it; the catalogue's open run instead, when there is one.

    `jobs` are the ids that its jobs will have, known before they are made so that none is forgotten in a crash.
    """
    values: dict[str, Any] = {
        "id": check_id(run_id),
        "catalogue": check_id(catalogue),
        "content": content,
        "purpose": purpose,
    }
    values |= {"deadline": deadline, "jobs": list(jobs)}
    with ledger.transaction() as connection:
        connection.execute(upsert(catalogues).values(name=catalogue).on_conflict_do_nothing())
        connection.execute(upsert(catalogue_runs).values(values).on_conflict_do_nothing())
        mine = (catalogue_runs.c.catalogue == catalogue) & (catalogue_runs.c.state == "running")
        return _run(connection.execute(select(catalogue_runs).where(mine)).one())


def note_unchanged(
    ledger: Ledger,
    run_id: str,
    *,
    catalogue: str,
    content: str,
    purpose: str,
    counts: Mapping[str, int],
    manifest_key: str,
) -> Run:
    """Write a run in which nothing was to do; it is over at once."""
    values: dict[str, Any] = {"id": check_id(run_id), "catalogue": catalogue, "content": content, "purpose": purpose}
    values |= {"state": "unchanged", "counts": dict(counts), "manifest_key": manifest_key, "ended_at": func.now()}
    with ledger.transaction() as connection:
        connection.execute(insert(catalogue_runs).values(values))
        return _run(connection.execute(select(catalogue_runs).where(catalogue_runs.c.id == run_id)).one())


def find_open(ledger: Ledger, catalogue: str) -> Run | None:
    """Return the catalogue's open run, or None."""
    query = select(catalogue_runs).where(catalogue_runs.c.catalogue == catalogue, catalogue_runs.c.state == "running")
    with ledger.transaction() as connection:
        row = connection.execute(query).first()
    return _run(row) if row else None


def end(ledger: Ledger, run_id: str, state: str, counts: Mapping[str, int], manifest_key: str = "") -> Run:
    """Close a run; one that is closed already stays as it is. Return it."""
    values = {"state": state, "counts": dict(counts), "manifest_key": manifest_key, "ended_at": func.clock_timestamp()}
    this = catalogue_runs.c.id == run_id
    with ledger.transaction() as connection:
        connection.execute(update(catalogue_runs).where(this, catalogue_runs.c.state == "running").values(values))
        return _run(connection.execute(select(catalogue_runs).where(this)).one())


def use_of(ledger: Ledger, run: Run) -> Use:
    """Return what a run's pictures are for, as its jobs say."""
    columns = (jobs_table.c.purpose, jobs_table.c.campaign, jobs_table.c.channel, jobs_table.c.territory)
    with ledger.transaction() as connection:
        row = connection.execute(select(*columns).where(jobs_table.c.id.in_(run.jobs)).limit(1)).first()
    return job_use(row) if row is not None else Use(Purpose(run.purpose), "", "", "")


def history(ledger: Ledger, catalogue: str | None = None, limit: int = 30) -> list[Run]:
    """Return the newest runs, of one catalogue or of all, newest first."""
    query = select(catalogue_runs).order_by(catalogue_runs.c.started_at.desc(), catalogue_runs.c.id).limit(limit)
    if catalogue is not None:
        query = query.where(catalogue_runs.c.catalogue == catalogue)
    with ledger.transaction() as connection:
        return [_run(row) for row in connection.execute(query)]


def newest(ledger: Ledger) -> list[Run]:
    """Return the newest run of every catalogue, by name."""
    runs = catalogue_runs
    place = func.row_number().over(partition_by=runs.c.catalogue, order_by=(runs.c.started_at.desc(), runs.c.id))
    ranked = select(runs.c.id, place.label("place")).subquery()
    query = select(runs).join(ranked, ranked.c.id == runs.c.id).where(ranked.c.place == 1).order_by(runs.c.catalogue)
    with ledger.transaction() as connection:
        return [_run(row) for row in connection.execute(query)]


def _run(row: Row[Any]) -> Run:
    values = {field.name: getattr(row, field.name) for field in fields(Run)}
    return Run(**values | {"jobs": tuple(row.jobs)})
