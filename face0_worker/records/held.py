"""Pictures that the quality gate rejected, held encrypted until a human decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.bars import Bars
from face0_worker.contract.consent import Use
from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import ItemState
from face0_worker.contract.receipt import Verdict
from face0_worker.records import consents, webhooks
from face0_worker.records import storage as keys
from face0_worker.records.attempts import ClaimedItem, hold, is_running
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import UNDECIDED, commits, held_pictures, items, jobs

NOT_HELD = "no picture of this item waits for a decision; `face0 review list` shows those that do"


@dataclass(frozen=True)
class Held:
    """A rejected picture and what is decided about it. `decision` is "", accepted or rejected; `ended` when it is done.

    `held_key` names the sealed picture; "" where the picture stands committed already (kept from an earlier job).
    `reason` is the sentence against it.
    """

    item_id: int
    job_id: str
    sku: str
    variant: str
    item_key: str
    consent_id: str
    reason: str
    verdict: Verdict
    bars: Bars
    held_key: str
    seed: int | None
    held_at: datetime
    decision: str
    decided_by: str
    ended: bool
    error: str
    use: Use


@dataclass(frozen=True)
class Sealed:
    """A picture in storage, sealed under its consent's key: where, the seed it was made with, and what it measured."""

    key: str
    seed: int
    verdict: Verdict
    sentence: str


def about(item_key: str) -> str:
    """Return what a held picture is sealed as: the bytes of one item never open as another's."""
    return f"held picture of {item_key}"


def hold_picture(ledger: Ledger, attempt_id: str, token: int, item: ClaimedItem, sealed: Sealed) -> bool:
    """End a running item as rejected, its stored and sealed picture waiting for a human; one transaction.

    False: the item was ended meanwhile (cancelled, revoked), and the picture is nobody's. Raises: LeaseLost.
    """
    wanted = keys.held_key(item.subject.consent_id, item.item_key, sealed.key.rpartition("/")[2].removesuffix(".enc"))
    if sealed.key != wanted:
        raise BadInput("the held picture is not stored under the key of its consent and item")
    end = {
        "state": ItemState.REJECTED,
        "error_code": sealed.verdict.reason,
        "error": sealed.sentence,
        "renders": sealed.verdict.tries,
    }
    row = {
        "item_id": item.item_id,
        "job_id": item.job_id,
        "consent_id": item.subject.consent_id,
        "held_key": sealed.key,
        "seed": sealed.seed,
        "verdict": asdict(sealed.verdict),
    }
    with ledger.transaction() as connection:
        hold(connection, attempt_id, token)
        mine = (items.c.id == item.item_id) & is_running(attempt_id)
        if not connection.execute(update(items).where(mine).values(end)).rowcount:
            return _is_held(connection, item.item_id, sealed.key)
        connection.execute(upsert(held_pictures).values(row).on_conflict_do_nothing())
        told = {"job_id": item.job_id, "item_key": item.item_key}
        webhooks.emit(connection, webhooks.WebhookEvent.ITEM_REJECTED, told)
        return True


def _is_held(connection: Connection, item_id: int, held_key: str) -> bool:
    """Whether this very picture is held: the answer to an earlier try was lost."""
    mine = (held_pictures.c.item_id == item_id) & (held_pictures.c.held_key == held_key)
    return connection.execute(select(held_pictures.c.item_id).where(mine)).first() is not None


def is_held(ledger: Ledger, item_id: int, held_key: str) -> bool:
    """Say whether this very picture is held for the item."""
    with ledger.transaction() as connection:
        return _is_held(connection, item_id, held_key)


def list_undecided(ledger: Ledger, job_id: str | None = None) -> Iterator[Held]:
    """Yield the pictures that wait for a decision, oldest first; `job_id`: of one job only."""
    wanted = query().where(UNDECIDED).order_by(held_pictures.c.held_at, held_pictures.c.item_id)
    if job_id is not None:
        wanted = wanted.where(held_pictures.c.job_id == job_id)
    with ledger.transaction() as connection:
        for row in connection.execute(wanted.execution_options(yield_per=1000)):
            yield read(row)


def get(ledger: Ledger, item_id: int) -> Held:
    """Return the held picture of an item, decided or not. Raises: BadInput: there is none."""
    with ledger.transaction() as connection:
        row = connection.execute(query().where(held_pictures.c.item_id == item_id)).first()
    if row is None:
        raise BadInput(NOT_HELD)
    return read(row)


def committed_key(ledger: Ledger, held: Held) -> str | None:
    """Return where the picture stands that an earlier job committed; None when it does not stand any more."""
    query = select(commits.c.picture_key).where(commits.c.item_key == held.item_key, commits.c.purged_at.is_(None))
    with ledger.transaction() as connection:
        return connection.execute(query).scalar()


_OF_ITEM = ("sku", "variant", "item_key", "spec", "error")
_OF_JOB = ("face_digest", "model_digest", "embedder_digest", "face_policy", "face_key", "purpose", "campaign")
_USE_AND_BARS = ("channel", "territory", "bars")
_OF_HELD = ("item_id", "job_id", "consent_id", "held_key", "seed", "verdict", "held_at", "decision", "decided_by")


def query() -> Select[Any]:
    """Return the query of held pictures with their items and jobs."""
    columns = [held_pictures.c[name] for name in (*_OF_HELD, "ended_at")]
    columns += [items.c[name] for name in _OF_ITEM] + [jobs.c[name] for name in _OF_JOB + _USE_AND_BARS]
    failed = held_pictures.c.error.label("why_not")
    whole = held_pictures.join(items, items.c.id == held_pictures.c.item_id)
    return select(*columns, failed).select_from(whole.join(jobs, jobs.c.id == items.c.job_id))


def read(row: Row[Any]) -> Held:
    told = {name: value for name, value in row._mapping.items() if name in {one.name for one in fields(Held)}}
    told |= {"verdict": Verdict(**row.verdict), "bars": Bars.from_json(row.bars), "use": use_of(row)}
    return Held(**told | {"reason": row.error or "", "ended": row.ended_at is not None, "error": row.why_not})


def use_of(row: Row[Any]) -> Use:
    asked: Use = consents.job_use(row)
    return asked.of_item(row.sku, row.spec["prompt"])
