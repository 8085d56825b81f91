"""Grant, require and revoke: the only writers of consents, and the gate that every use passes (promise P3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from face0_worker.contract.consent import ConsentRecord, ConsentState, Decision, Purpose, Use, decide
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.contract.job import ItemState
from face0_worker.records import audit
from face0_worker.records.ledger import Ledger, database_clock, lock_items
from face0_worker.records.storage import check_id
from face0_worker.records.tables import OPEN, commits, consents, faces, items, jobs


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


def grant(ledger: Ledger, record: ConsentRecord) -> None:
    """Write a new consent. Raises: BadInput: the id exists or is malformed, or the record contradicts itself."""
    _check(record)
    values = {
        "id": record.id,
        "subject": record.subject,
        "purposes": sorted(record.purposes),
        "valid_from": record.valid_from,
        "valid_until": record.valid_until,
        "state": record.state,
        "epoch": record.epoch,
    }
    try:
        with ledger.transaction() as connection:
            connection.execute(insert(consents).values(values))
            facts = {"consent_id": record.id, "purposes": values["purposes"], "epoch": record.epoch}
            audit.append(connection, "consent.granted", facts)
    except IntegrityError as error:
        raise BadInput(f"consent {record.id} exists already; a consent is never granted twice") from error


def _check(record: ConsentRecord) -> None:
    check_id(record.id)  # it becomes part of storage keys
    if record.state is not ConsentState.GRANTED:
        raise BadInput(f"consent {record.id} must be granted before it can be {record.state}")
    if record.valid_from.tzinfo is None or record.valid_until.tzinfo is None:
        raise BadInput(f"consent {record.id}: both ends of its time need a time zone")
    if record.valid_from >= record.valid_until:
        raise BadInput(f"consent {record.id} would end before it begins")
    if not record.purposes:
        raise BadInput(f"consent {record.id} names no purpose; choose from {', '.join(Purpose)}")


def get(ledger: Ledger, consent_id: str) -> ConsentRecord | None:
    """Return the consent, or None when it is unknown."""
    with ledger.transaction() as connection:
        return read(connection, consent_id)


def list_all(ledger: Ledger) -> list[ConsentRecord]:
    """Return every consent, oldest first."""
    with ledger.transaction() as connection:
        rows = connection.execute(select(consents).order_by(consents.c.granted_at, consents.c.id))
        return [_record(row) for row in rows]


def read(connection: Connection, consent_id: str, *, share: bool = False) -> ConsentRecord | None:
    """Return the consent in the caller's transaction; `share` locks it so that no revocation can come between."""
    query = select(consents).where(consents.c.id == consent_id)
    row = connection.execute(query.with_for_update(read=True) if share else query).first()
    return _record(row) if row else None


def _record(row: Row[Any]) -> ConsentRecord:
    return ConsentRecord(
        id=row.id,
        subject=row.subject,
        purposes=frozenset(Purpose(purpose) for purpose in row.purposes),
        valid_from=row.valid_from,
        valid_until=row.valid_until,
        state=ConsentState(row.state),
        epoch=row.epoch,
        revoked_at=row.revoked_at,
    )


def decide_now(
    connection: Connection, consent_id: str, purpose: str, *, share: bool = False
) -> tuple[ConsentRecord | None, Decision]:
    """Decide in the caller's transaction by the database's clock, read after any wait for the lock."""
    record = read(connection, consent_id, share=share)
    return record, decide(record, Use(Purpose(purpose)), database_clock(connection))


def decide_all(
    connection: Connection, uses: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], tuple[ConsentRecord | None, Decision]]:
    """Decide many (consent id, purpose) in two queries, without a lock: only a commit needs one."""
    wanted = set(uses)
    rows = connection.execute(select(consents).where(consents.c.id.in_({consent_id for consent_id, _ in wanted})))
    records = {row.id: _record(row) for row in rows}
    now = database_clock(connection)
    return {
        (consent_id, purpose): (record := records.get(consent_id), decide(record, Use(Purpose(purpose)), now))
        for consent_id, purpose in wanted
    }


def note_refusal(connection: Connection, record: ConsentRecord | None, purpose: str, stage: str, code: str) -> None:
    """Write the audit row of a refusal. The id of an unknown consent is not written: it may be a typed name."""
    known = {"consent_id": record.id, "epoch": record.epoch} if record else {}
    audit.append(connection, "consent.refused", {"purpose": purpose, "stage": stage, "code": code, **known})


def require(ledger: Ledger, consent_id: str, use: Use, *, stage: str) -> ConsentRecord:
    """Return the consent if it allows `use` now, by the database's clock.

    `stage` says where the gate stands (submit, pull, ...); a refusal is audited with it.
    Raises: ConsentRefused: unknown, revoked, not yet valid, expired or another purpose.
    """
    with ledger.transaction() as connection:
        record, decision = decide_now(connection, consent_id, use.purpose)
        if not decision.allowed:
            note_refusal(connection, record, use.purpose, stage, decision.code)
    if record is None or not decision.allowed:
        raise ConsentRefused(decision.english, decision.code)
    return record


def revoke(ledger: Ledger, consent_id: str, *, reason: str = "") -> Revocation:
    """Withdraw a consent for good: in one transaction no open item of it is left and its pictures are purged.

    Repeating it changes nothing and returns the same. The caller erases what lies in storage and the vault's key.
    Raises: BadInput: no such consent.
    """
    with ledger.transaction() as connection:
        # waits for commits in progress; later ones wait for this and then see the new state
        row = connection.execute(select(consents).where(consents.c.id == consent_id).with_for_update()).first()
        if row is None:
            raise BadInput("no such consent is known; `face0 consent list` shows them")
        if row.state != ConsentState.REVOKED:
            row = _withdraw(connection, consent_id, reason)
        pictures = connection.execute(
            select(func.count()).select_from(commits).where(commits.c.consent_id == consent_id)
        ).scalar_one()
        cancelled = connection.execute(
            select(func.count())
            .select_from(items.join(jobs))
            .where(jobs.c.consent_id == consent_id, items.c.error_code == "revoked")
        ).scalar_one()
        return Revocation(consent_id, pictures, cancelled, row.revoked_at, row.epoch)


def _withdraw(connection: Connection, consent_id: str, reason: str) -> Row[Any]:
    revoked_at = database_clock(connection)
    row = connection.execute(
        update(consents)
        .where(consents.c.id == consent_id)
        .values(state=ConsentState.REVOKED, epoch=consents.c.epoch + 1, revoked_at=revoked_at, reason=reason)
        .returning(consents)
    ).one()
    theirs = select(jobs.c.id).where(jobs.c.consent_id == consent_id)
    lock_items(connection, items.c.job_id.in_(theirs) & (OPEN | (items.c.state == ItemState.DONE)))
    cancelled = connection.execute(
        update(items)
        .where(items.c.job_id.in_(theirs), OPEN)
        .values(state=ItemState.CANCELLED, error_code="revoked", error="the consent was revoked")
    ).rowcount
    purged = connection.execute(
        update(items)
        .where(items.c.job_id.in_(theirs), items.c.state == ItemState.DONE)
        .values(state=ItemState.PURGED, picture_key=None, picture_sha256=None)
    ).rowcount
    connection.execute(
        update(commits)
        .where(commits.c.consent_id == consent_id, commits.c.purged_at.is_(None))
        .values(purged_at=revoked_at)
    )
    connection.execute(delete(faces).where(faces.c.consent_id == consent_id))
    facts = {"consent_id": consent_id, "epoch": row.epoch, "cancelled": cancelled, "purged": purged}
    audit.append(connection, "consent.revoked", facts)
    return row
