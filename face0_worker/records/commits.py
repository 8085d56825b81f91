"""The commit: the one transaction that makes a picture exist (promises P2, P3, P4, P5)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Row, and_, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.errors import BadInput, ConsentRefused, Face0Error, ItemFailed
from face0_worker.contract.job import ItemState
from face0_worker.contract.receipt import Verdict
from face0_worker.records import audit, consents
from face0_worker.records import storage as keys
from face0_worker.records.attempts import ClaimedItem, end_item, hold, is_running, keep_committed
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import WAITING, commits, items, jobs


@dataclass(frozen=True)
class CommitRow:
    """One committed picture. `purged_at` says when its consent was revoked; `receipt` is the signed envelope."""

    item_key: str
    item_id: int
    job_id: str
    consent_id: str
    consent_epoch: int
    purpose: str
    picture_key: str
    picture_sha256: str
    receipt_key: str
    receipt: bytes
    committed_at: datetime
    published_at: datetime | None
    purged_at: datetime | None

    @property
    def purged(self) -> bool:
        """Whether the picture was withdrawn with its consent."""
        return self.purged_at is not None


def commit(
    ledger: Ledger,
    claim_attempt_id: str,
    token: int,
    item: ClaimedItem,
    picture_key: str,
    picture_sha256: str,
    receipt_bytes: bytes,
    verdict: Verdict,
) -> str:
    """Make the stored picture exist: "committed", or "kept" when an identical item was committed first.

    One transaction: lease and token, consent under a lock that a revocation waits for, unique item key, the item,
    the receipt's bytes and the audit row. Repeating a commit whose answer was lost returns the same answer.
    Raises: LeaseLost: the attempt is no longer the caller's. ConsentRefused: the consent does not allow it now;
    the item is cancelled (or, if the consent only changed, waits again). ItemFailed: the item was ended meanwhile.
    BadInput: the picture's key is not the one of this consent, item and digest.
    """
    if picture_key != keys.picture_key(item.subject.consent_id, item.item_key, picture_sha256):
        raise BadInput("the picture is not stored under the key of its consent, item and digest")
    with ledger.transaction() as connection:
        hold(connection, claim_attempt_id, token)
        refusal = _refuse(connection, item, claim_attempt_id)
        if refusal is None:
            state = _lock_item(connection, item.item_id, claim_attempt_id)
            if state != ItemState.RUNNING:
                return _already(connection, item, state, picture_sha256)
            values = {
                "item_key": item.item_key,
                "item_id": item.item_id,
                "job_id": item.job_id,
                "attempt_id": claim_attempt_id,
                "consent_id": item.subject.consent_id,
                "consent_epoch": item.consent_epoch,
                "purpose": item.purpose,
                "picture_key": picture_key,
                "picture_sha256": picture_sha256,
                "receipt_key": keys.receipt_key(item.subject.consent_id, item.item_key),
                "receipt": receipt_bytes,
                "verdict": asdict(verdict),
            }
            return _write(connection, values)
    raise refusal


def _refuse(connection: Connection, item: ClaimedItem, attempt_id: str) -> Face0Error | None:
    record, decision = consents.decide_now(connection, item.subject.consent_id, item.use, share=True)
    running = (items.c.id == item.item_id) & is_running(attempt_id)
    if not decision.allowed:
        consents.note_refusal(connection, record, item.purpose, "commit", decision.code)
        if connection.execute(select(items.c.id).where(running).with_for_update()).first():
            end_item(connection, item.item_id, ItemState.CANCELLED, decision.code, decision.english)
        return ConsentRefused(decision.english, decision.code)
    if record is not None and record.epoch != item.consent_epoch:
        # the receipt names another epoch than the one in force; a new claim builds a new receipt
        connection.execute(update(items).where(running).values(state=ItemState.WAITING, attempt_id=None))
        return ConsentRefused("The consent changed while the picture was made; it is made again.", "changed")
    return None


def _lock_item(connection: Connection, item_id: int, attempt_id: str) -> str:
    query = select(items.c.state, items.c.attempt_id).where(items.c.id == item_id).with_for_update()
    row = connection.execute(query).first()
    if row is None or row.attempt_id != attempt_id:
        raise ItemFailed(f"item {item_id} is not part of attempt {attempt_id}")
    return str(row.state)


def _already(connection: Connection, item: ClaimedItem, state: str, picture_sha256: str) -> str:
    if state != ItemState.DONE:
        raise ItemFailed(f"item {item.item_id} became {state} while it was rendered; its picture is dropped")
    query = select(commits.c.item_id, commits.c.picture_sha256).where(commits.c.item_key == item.item_key)
    row = connection.execute(query).one()
    return "committed" if (row.item_id, row.picture_sha256) == (item.item_id, picture_sha256) else "kept"


def _write(connection: Connection, values: dict[str, Any]) -> str:
    if write(connection, values):
        return "committed"
    keep_committed(connection, items.c.id == values["item_id"])
    return "kept"


def write(connection: Connection, values: dict[str, Any]) -> bool:
    """Write a commit's row, its item's end and its audit event; False, and nothing, where its key is committed.

    The caller holds the locks and has decided; `values` are the columns.
    """
    new = connection.execute(
        upsert(commits).values(values).on_conflict_do_nothing(index_elements=["item_key"]).returning(commits.c.item_key)
    ).first()
    if new is None:
        return False
    done = {"state": ItemState.DONE, "picture_key": values["picture_key"], "picture_sha256": values["picture_sha256"]}
    done |= {"renders": values["verdict"]["tries"], "error_code": None, "error": None}
    connection.execute(update(items).where(items.c.id == values["item_id"]).values(done))
    named = ("item_key", "job_id", "attempt_id", "consent_id", "consent_epoch", "purpose", "picture_sha256")
    audit.append(connection, "picture.committed", {name: values[name] for name in named})
    _keep_others(connection, values)
    return True


def _keep_others(connection: Connection, values: dict[str, Any]) -> None:
    """Keep the same item waiting in other jobs. Another use needs a decision of its own: dispatch takes it."""
    mine = select(jobs.c.campaign, jobs.c.channel, jobs.c.territory).where(jobs.c.id == values["job_id"])
    use = {"purpose": values["purpose"], **connection.execute(mine).one()._mapping}
    same = and_(*[jobs.c[name] == value for name, value in use.items()])
    # not a join: before its first ANALYZE PostgreSQL would walk through all waiting items of the job
    theirs = select(same).where(jobs.c.id == items.c.job_id).scalar_subquery()
    others = select(items.c.id).where(items.c.item_key == values["item_key"], WAITING, theirs)
    others = others.with_for_update(of=items, skip_locked=True)
    ids = list(connection.execute(others).scalars())
    if ids:
        keep_committed(connection, items.c.id.in_(ids))


def pending_receipts(ledger: Ledger, limit: int = 100) -> list[tuple[str, str, bytes]]:
    """Return (item key, receipt key, bytes) of commits whose receipt object does not stand yet, oldest first."""
    query = (
        select(commits.c.item_key, commits.c.receipt_key, commits.c.receipt)
        .where(commits.c.published_at.is_(None), commits.c.purged_at.is_(None))
        .order_by(commits.c.committed_at)
        .limit(limit)
    )
    with ledger.transaction() as connection:
        return [(row.item_key, row.receipt_key, bytes(row.receipt)) for row in connection.execute(query)]


def mark_published(ledger: Ledger, item_key: str) -> None:
    """Note that the receipt object of this item stands."""
    with ledger.transaction() as connection:
        change = update(commits).where(commits.c.item_key == item_key).values(published_at=func.now())
        connection.execute(change)


def find_commit(ledger: Ledger, *, item_key: str | None = None, picture_sha256: str | None = None) -> CommitRow | None:
    """Return the commit with this item key, or of the picture with this digest; None when there is none."""
    if item_key is None and picture_sha256 is None:
        raise BadInput("name an item key or a picture's sha256")
    query = select(*_columns())
    if item_key is not None:
        query = query.where(commits.c.item_key == item_key)
    if picture_sha256 is not None:
        query = query.where(commits.c.picture_sha256 == picture_sha256)
    with ledger.transaction() as connection:
        row = connection.execute(query.order_by(commits.c.committed_at).limit(1)).first()
    return _row(row) if row else None


def find_commits(ledger: Ledger, item_keys: Collection[str]) -> dict[str, CommitRow]:
    """Return the commits with these item keys, by key; those that there are not are left out."""
    query = select(*_columns()).where(commits.c.item_key.in_(item_keys))
    with ledger.transaction() as connection:
        return {row.item_key: _row(row) for row in connection.execute(query)}


def _columns() -> list[Column[Any]]:
    return [commits.c[field.name] for field in fields(CommitRow)]


def _row(row: Row[Any]) -> CommitRow:
    return CommitRow(**{**row._mapping, "receipt": bytes(row.receipt)})
