"""Where jobs stand, for readers: status, counts and items. Nothing here writes or asks a worker."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import OPEN_STATES, ItemState, Priority
from face0_worker.records.ledger import Ledger
from face0_worker.records.offers import is_live
from face0_worker.records.tables import items, jobs, models


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands. `counts` has every state of ItemState; times are UTC. `renders`: pictures made for it."""

    id: str
    state: str
    counts: dict[ItemState, int]
    kept: int
    total: int
    priority: Priority
    purpose: str
    consent_id: str
    model_digest: str
    model_name: str
    model_live: bool
    catalogue: str
    submitter: str
    created_at: datetime
    finished_at: datetime | None
    manifest_key: str | None
    campaign: str = ""
    channel: str = ""
    territory: str = ""
    renders: int = 0

    @property
    def renders_per_picture(self) -> float | None:
        """How many pictures were made for each accepted one, second chances included; None where none was made."""
        accepted = self.counts[ItemState.DONE] - self.kept
        return self.renders / accepted if accepted > 0 and self.renders else None

    @property
    def use(self) -> Use:
        """What the job was submitted for, as every gate asks about it."""
        return Use(Purpose(self.purpose), self.campaign, self.channel, self.territory)

    @property
    def ended(self) -> bool:
        """Whether no item can change any more without somebody asking for it."""
        return not any(self.counts[state] for state in OPEN_STATES)


@dataclass(frozen=True)
class ItemRow:
    """One item of a job as a reader sees it; `error` is a sentence, `error_code` is for machines."""

    item_id: int
    position: int
    sku: str
    variant: str
    state: ItemState
    kept: bool
    item_key: str
    picture_key: str | None
    picture_sha256: str | None
    error_code: str | None
    error: str | None


def job_status(ledger: Ledger, job_id: str) -> JobStatus:
    """Return where a job stands. Raises: BadInput: no such job."""
    with ledger.transaction() as connection:
        row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
        if row is None:
            raise BadInput("no such job is known; `face0 status` lists them")
        return _statuses(connection, [row])[0]


def list_jobs(ledger: Ledger, limit: int = 50) -> list[JobStatus]:
    """Return the newest jobs, newest first."""
    with ledger.transaction() as connection:
        rows = connection.execute(select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit)).all()
        return _statuses(connection, rows)


def _statuses(connection: Connection, rows: Collection[Row[Any]]) -> list[JobStatus]:
    counts = {row.id: dict.fromkeys(ItemState, 0) for row in rows}
    kept = dict.fromkeys(counts, 0)
    kept_now = func.count().filter(items.c.kept, items.c.state == ItemState.DONE)
    made = func.sum(items.c.renders).label("renders")
    query = select(items.c.job_id, items.c.state, func.count().label("number"), kept_now.label("kept"), made)
    renders = dict.fromkeys(counts, 0)
    for group in connection.execute(query.where(items.c.job_id.in_(counts)).group_by(items.c.job_id, items.c.state)):
        counts[group.job_id][ItemState(group.state)] = group.number
        kept[group.job_id] += group.kept
        renders[group.job_id] += group.renders
    wanted = models.c.digest.in_({row.model_digest for row in rows})
    offers = connection.execute(select(models.c.digest, models.c.name, is_live().label("live")).where(wanted)).all()
    names = {offer.digest: offer.name for offer in offers}
    live = {offer.digest for offer in offers if offer.live}
    return [
        JobStatus(
            id=row.id,
            state=row.state,
            counts=counts[row.id],
            kept=kept[row.id],
            total=row.total,
            priority=Priority(row.priority),
            purpose=row.purpose,
            consent_id=row.consent_id,
            model_digest=row.model_digest,
            model_name=names.get(row.model_digest, ""),
            model_live=row.model_digest in live,
            catalogue=row.catalogue,
            submitter=row.submitter,
            created_at=row.created_at,
            finished_at=row.finished_at,
            manifest_key=row.manifest_key,
            campaign=row.campaign,
            channel=row.channel,
            territory=row.territory,
            renders=renders[row.id],
        )
        for row in rows
    ]


def job_items(ledger: Ledger, job_id: str, states: Collection[ItemState] | None = None) -> Iterator[ItemRow]:
    """Yield a job's items in the order of its list, in one snapshot; `states` chooses some."""
    columns = [items.c[name] for name in ("position", "sku", "variant", "state", "kept", "item_key")]
    columns += [items.c[name] for name in ("picture_key", "picture_sha256", "error_code", "error")]
    query = select(items.c.id.label("item_id"), *columns).where(items.c.job_id == job_id).order_by(items.c.position)
    if states is not None:
        query = query.where(items.c.state.in_(states))
    with ledger.transaction() as connection:
        for row in connection.execution_options(yield_per=1000).execute(query):
            yield ItemRow(**{**row._mapping, "state": ItemState(row.state)})
