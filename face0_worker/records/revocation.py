"""Withdraw a consent in the ledger: the first step of every erasure, and the one that nothing can overtake (P3)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.consent import ConsentState
from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import ItemState
from face0_worker.records import audit, webhooks
from face0_worker.records.ledger import Ledger, database_clock, lock_items
from face0_worker.records.tables import OPEN, commits, consents, erasures, faces, items, jobs


class Cause(StrEnum):
    """Why everything of a person is erased: asked for, the consent's time is over, or its retention is."""

    REVOKED = "revoked"
    EXPIRED = "expired"
    RETENTION = "retention"


_SENTENCES = {
    Cause.REVOKED: "the consent was revoked",
    Cause.EXPIRED: "the consent has expired",
    Cause.RETENTION: "the time for which the consent's pictures may be kept is over",
}


@dataclass(frozen=True)
class Revocation:
    """What a revocation did and what must now be erased: everything stored under `consent_id`.

    `pictures` counts commits that are purged, `cancelled` items that will not be rendered.
    """

    consent_id: str
    pictures: int
    cancelled: int
    revoked_at: datetime
    epoch: int
    cause: Cause = Cause.REVOKED


def revoke(
    ledger: Ledger, consent_id: str, *, reason: str = "", cause: Cause = Cause.REVOKED, epoch: int = 0
) -> Revocation:
    """Withdraw a consent for good: in one transaction no open item of it is left and its pictures are purged.

    The same transaction notes the erasure of what lies in storage and of the vault's key, which `erasure.run` does;
    whoever withdraws calls it, and the dispatcher does when nobody did. Repeating it changes nothing and returns the
    same. `epoch`: the least that the consent has afterwards; a restored ledger may have forgotten some.
    Raises: BadInput: no such consent.
    """
    with ledger.transaction() as connection:
        # waits for commits in progress; later ones wait for this and then see the new state
        row = connection.execute(select(consents).where(consents.c.id == consent_id).with_for_update()).first()
        if row is None:
            raise BadInput("no such consent is known; `face0 consent list` shows them")
        if row.state != ConsentState.REVOKED:
            row = _withdraw(connection, consent_id, reason, cause, epoch)
        else:  # by a program that knew no erasures, perhaps
            note(connection, consent_id, cause, row.epoch, row.revoked_at)
        return _told(connection, row)


def end(ledger: Ledger, consent_id: str, cause: Cause) -> bool:
    """Withdraw a consent whose time is over; False where somebody has withdrawn or extended it meanwhile."""
    with ledger.transaction() as connection:
        over = (consents.c.valid_until <= func.clock_timestamp()) & (consents.c.state == ConsentState.GRANTED)
        locked = select(consents.c.id, over.label("over")).where(consents.c.id == consent_id).with_for_update()
        row = connection.execute(locked).first()
        if row is None or not row.over:
            return False
        _withdraw(connection, consent_id, "", cause, 0)
        return True


def _withdraw(connection: Connection, consent_id: str, reason: str, cause: Cause, epoch: int) -> Row[Any]:
    revoked_at = database_clock(connection)
    row = connection.execute(
        update(consents)
        .where(consents.c.id == consent_id)
        .values(
            state=ConsentState.REVOKED,
            epoch=func.greatest(consents.c.epoch + 1, epoch),
            revoked_at=revoked_at,
            reason=reason,
        )
        .returning(consents)
    ).one()
    cancelled, purged = _end_items(connection, consent_id, cause)
    connection.execute(
        update(commits)
        .where(commits.c.consent_id == consent_id, commits.c.purged_at.is_(None))
        .values(purged_at=revoked_at)
    )
    connection.execute(delete(faces).where(faces.c.consent_id == consent_id))
    note(connection, consent_id, cause, row.epoch, revoked_at)
    facts = {"consent_id": consent_id, "epoch": row.epoch, "cancelled": cancelled, "purged": purged, "cause": cause}
    audit.append(connection, "consent.revoked", facts)
    told = {"consent_id": consent_id, "cause": str(cause), "revoked_at": revoked_at.isoformat(), "pictures": purged}
    webhooks.emit(connection, webhooks.WebhookEvent.CONSENT_REVOKED, told)
    return row


def _end_items(connection: Connection, consent_id: str, cause: Cause) -> tuple[int, int]:
    """End what is open and purge what is done; return how many there were of each."""
    theirs = select(jobs.c.id).where(jobs.c.consent_id == consent_id)
    lock_items(connection, items.c.job_id.in_(theirs) & (OPEN | (items.c.state == ItemState.DONE)))
    cancelled = connection.execute(
        update(items)
        .where(items.c.job_id.in_(theirs), OPEN)
        .values(state=ItemState.CANCELLED, error_code=cause, error=_SENTENCES[cause])
    ).rowcount
    purged = connection.execute(
        update(items)
        .where(items.c.job_id.in_(theirs), items.c.state == ItemState.DONE)
        .values(state=ItemState.PURGED, picture_key=None, picture_sha256=None)
    ).rowcount
    return cancelled, purged


def note(connection: Connection, consent_id: str, cause: Cause, epoch: int, requested_at: datetime) -> None:
    """Note that everything of this person is to be erased. Nothing happens where that is noted."""
    row = {"consent_id": consent_id, "cause": cause, "epoch": epoch, "requested_at": requested_at}
    connection.execute(upsert(erasures).values(row).on_conflict_do_nothing())


def _told(connection: Connection, row: Row[Any]) -> Revocation:
    noted = select(erasures.c.cause).where(erasures.c.consent_id == row.id)
    cause = Cause(connection.execute(noted).scalar() or Cause.REVOKED)
    pictures = select(func.count()).select_from(commits).where(commits.c.consent_id == row.id)
    cancelled = (
        select(func.count())
        .select_from(items.join(jobs))
        .where(jobs.c.consent_id == row.id, items.c.state == ItemState.CANCELLED, items.c.error_code == cause)
    )
    return Revocation(
        row.id,
        connection.execute(pictures).scalar_one(),
        connection.execute(cancelled).scalar_one(),
        row.revoked_at,
        row.epoch,
        cause,
    )
