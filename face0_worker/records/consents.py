"""Grant and require: the gate that every use passes (promise P3). Withdrawing is `revocation`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, insert, select
from sqlalchemy.exc import IntegrityError

from face0_worker.contract.consent import ALLOWED, ConsentRecord, ConsentState, Decision, Purpose, Use, decide
from face0_worker.contract.consent_document import plain, purposes_alone, read_terms
from face0_worker.contract.consent_terms import Terms
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.records import audit, consent_versions
from face0_worker.records.consent_versions import Sign
from face0_worker.records.ledger import Ledger, database_clock
from face0_worker.records.revocation import Revocation as Revocation
from face0_worker.records.revocation import revoke as revoke
from face0_worker.records.storage import check_id
from face0_worker.records.tables import consents

_U = TypeVar("_U", str, Use)
# decided before any purpose is looked at: under these nothing of the person is opened, enrolled or held
_OVER = ("unknown", "revoked", "expired")


def grant(ledger: Ledger, record: ConsentRecord, *, sign: Sign | None = None, by: str = "") -> None:
    """Write a new consent and its first version, signed where `sign` is given. `by`: who notes it.

    Raises: BadInput: the id exists or is malformed, or the record contradicts itself.
    """
    check(record)
    values = {"id": record.id, "state": record.state, **row_values(record)}
    try:
        with ledger.transaction() as connection:
            connection.execute(insert(consents).values(values))
            event = {"kind": "granted", "at": database_clock(connection), "by": by}
            consent_versions.write(connection, record, event, sign)
            facts = {"consent_id": record.id, "purposes": sorted(record.purposes), "epoch": record.epoch}
            audit.append(connection, "consent.granted", facts)
    except IntegrityError as error:
        raise BadInput(f"consent {record.id} exists already; a consent is never granted twice") from error


def row_values(record: ConsentRecord) -> dict[str, Any]:
    """Return the columns that a version decides: all but id, state and what a revocation writes."""
    return {
        "subject": record.subject,
        # what a program of before revision 0003 may decide by this column alone
        "purposes": sorted(purposes_alone(record)),
        "valid_from": record.valid_from,
        "valid_until": record.valid_until,
        "epoch": record.epoch,
        "version": record.version,
        "terms": {"purposes": sorted(record.purposes), "previous": record.previous, **plain(record.terms)},
    }


def check(record: ConsentRecord) -> None:
    """Check that a record makes sense. Raises: BadInput: it contradicts itself; the message says in what."""
    check_id(record.id)  # it becomes part of storage keys
    if record.state is not ConsentState.GRANTED:
        raise BadInput(f"consent {record.id} must be granted before it can be {record.state}")
    if record.valid_from.tzinfo is None or record.valid_until.tzinfo is None:
        raise BadInput(f"consent {record.id}: both ends of its time need a time zone")
    if record.valid_from >= record.valid_until:
        raise BadInput(f"consent {record.id} would end before it begins")
    if not record.purposes:
        raise BadInput(f"consent {record.id} names no purpose; choose from {', '.join(Purpose)}")
    terms = record.terms
    for name in ("products", "campaigns", "channels", "territories", "prohibited", "recipients"):
        if not all(one.strip() for one in getattr(terms, name) or ()):
            raise BadInput(f"consent {record.id}: an empty text stands among its {name}; leave it out")
    if terms.age_band.minor and terms.guardian is None:
        raise BadInput(f"consent {record.id}: a minor needs a guardian who agreed; name relation and pseudonym")
    days = (terms.retention.pictures, terms.retention.photo, terms.retention.embedding)
    if any(number is not None and not 0 <= number <= 36500 for number in days):
        raise BadInput(f"consent {record.id}: retention is a number of days from 0 to 36500")
    for sha256 in (terms.given.evidence, terms.notice.sha256 if terms.notice else ""):
        if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise BadInput(f"consent {record.id}: a sha256 has 64 lower-case hexadecimal digits")


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
    terms = dict(row.terms)
    return ConsentRecord(
        id=row.id,
        subject=row.subject,
        purposes=frozenset(Purpose(purpose) for purpose in terms.pop("purposes", row.purposes)),
        valid_from=row.valid_from,
        valid_until=row.valid_until,
        state=ConsentState(row.state),
        epoch=row.epoch,
        revoked_at=row.revoked_at,
        version=row.version,
        previous=terms.pop("previous", ""),
        terms=read_terms(terms) if terms else Terms(),
    )


def job_use(job: Any) -> Use:
    """Return the use that a job was submitted for. `job`: anything with purpose, campaign, channel and territory."""
    return Use(Purpose(job.purpose), job.campaign, job.channel, job.territory)


def decide_now(
    connection: Connection, consent_id: str, use: str | Use, *, share: bool = False
) -> tuple[ConsentRecord | None, Decision]:
    """Decide in the caller's transaction by the database's clock, read after any wait for the lock.

    `use`: a use, or a purpose's name where nothing else is asked.
    """
    record = read(connection, consent_id, share=share)
    return record, decide(record, _use(use), database_clock(connection))


def decide_kept(connection: Connection, consent_id: str) -> tuple[ConsentRecord | None, Decision]:
    """Decide, under the lock, whether the person's photos may be looked at and kept: for no use of them yet.

    Any purpose does, and before the consent begins, too: a photo is enrolled ahead of time.
    """
    record, decision = decide_now(connection, consent_id, Purpose.INTERNAL_POC, share=True)
    return record, decision if decision.code in _OVER else ALLOWED


def decide_all(
    connection: Connection, uses: Iterable[tuple[str, _U]]
) -> dict[tuple[str, _U], tuple[ConsentRecord | None, Decision]]:
    """Decide many (consent id, use or purpose) in two queries, without a lock: only a commit needs one."""
    wanted = set(uses)
    rows = connection.execute(select(consents).where(consents.c.id.in_({consent_id for consent_id, _ in wanted})))
    records = {row.id: _record(row) for row in rows}
    now = database_clock(connection)
    return {
        (consent_id, use): (record := records.get(consent_id), decide(record, _use(use), now))
        for consent_id, use in wanted
    }


def _use(use: str | Use) -> Use:
    return use if isinstance(use, Use) else Use(Purpose(use))


def note_refusal(connection: Connection, record: ConsentRecord | None, purpose: str, stage: str, code: str) -> None:
    """Write the audit row of a refusal. The id of an unknown consent is not written: it may be a typed name."""
    known = {"consent_id": record.id, "epoch": record.epoch} if record else {}
    audit.append(connection, "consent.refused", {"purpose": purpose, "stage": stage, "code": code, **known})


def require(ledger: Ledger, consent_id: str, use: Use, *, stage: str) -> ConsentRecord:
    """Return the consent if it allows `use` now, by the database's clock.

    `stage` says where the gate stands (submit, pull, ...); a refusal is audited with it.
    Raises: ConsentRefused: unknown, revoked, not yet valid, expired, another purpose, or as `decide` says.
    """
    with ledger.transaction() as connection:
        record, decision = decide_now(connection, consent_id, use)
        if not decision.allowed:
            note_refusal(connection, record, use.purpose, stage, decision.code)
    if record is None or not decision.allowed:
        raise ConsentRefused(decision.english, decision.code)
    return record


def require_kept(ledger: Ledger, consent_id: str, *, stage: str) -> None:
    """Ask, before a photo is opened, whether it may be kept, as `decide_kept` does; a refusal is audited with `stage`.

    Raises: ConsentRefused: unknown, revoked or ended.
    """
    with ledger.transaction() as connection:
        record, decision = decide_kept(connection, consent_id)
        if not decision.allowed:
            note_refusal(connection, record, "", stage, decision.code)
    if not decision.allowed:
        raise ConsentRefused(decision.english, decision.code)
