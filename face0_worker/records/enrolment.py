"""Which faces are enrolled under a consent and which are held for a human; the sealed bytes lie in storage."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.consent import ConsentRecord
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.records import audit, consents
from face0_worker.records.consent_changes import amend
from face0_worker.records.consent_versions import Sign
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import enrolments, faces, held_faces

ACCEPTED, REJECTED = "accepted", "rejected"


@dataclass(frozen=True)
class Enrolled:
    """One enrolled face. `digest` names the sealed face, `keyed_digest` is its HMAC that stands in the consent.

    `sealed_key`: what the HMAC is keyed with, sealed under the consent's data key; the same for all its faces.
    """

    digest: str
    face_key: str
    embedder_digest: str
    keyed_digest: str
    sealed_key: bytes


@dataclass(frozen=True)
class HeldFace:
    """A photo that a human has to look at. `distance` and `bar` are None where the face pack states no bar.

    `decision` is "" until somebody has decided, then ACCEPTED or REJECTED.
    """

    id: str
    consent_id: str
    digest: str
    face_key: str
    embedder_digest: str
    distance: float | None
    bar: float | None
    held_at: datetime
    decision: str
    decided_at: datetime | None


class AlreadyEnrolled(Exception):
    """Another face was enrolled first, or this very one, in the same moment."""


def enrolled(ledger: Ledger, consent_id: str) -> list[Enrolled]:
    """Return the faces enrolled under a consent, oldest first."""
    columns = [enrolments.c[name] for name in ("digest", "face_key", "embedder_digest", "keyed_digest", "sealed_key")]
    query = select(*columns).where(enrolments.c.consent_id == consent_id).order_by(enrolments.c.at)
    with ledger.transaction() as connection:
        return [Enrolled(**row._mapping) for row in connection.execute(query)]


def enrol(
    ledger: Ledger,
    consent_id: str,
    face: Enrolled,
    *,
    first: bool,
    sign: Sign | None = None,
    by: str = "",
    held: str = "",
) -> ConsentRecord:
    """Enrol a face that stands sealed in storage, and write the consent's next version with its keyed digest.

    `first`: only if no other is enrolled. `held`: the id under which it was held, which ends as accepted.
    Raises: AlreadyEnrolled: it is, or `first`, and another is. ConsentRefused: the consent was revoked or has ended.
    BadInput: `held` is unknown or decided.
    """

    def with_face(record: ConsentRecord, now: datetime) -> ConsentRecord:
        if face.keyed_digest in record.terms.faces or (first and record.terms.faces):
            raise AlreadyEnrolled
        return replace(record, terms=replace(record.terms, faces=(*record.terms.faces, face.keyed_digest)))

    def write(connection: Connection) -> None:
        _require_kept(connection, consent_id)
        if held:
            _decide(connection, held, ACCEPTED)
        connection.execute(insert(enrolments).values(consent_id=consent_id, **vars(face)))
        row = {"consent_id": consent_id, "digest": face.digest, "face_key": face.face_key}
        connection.execute(upsert(faces).values(row).on_conflict_do_nothing())

    return amend(ledger, consent_id, with_face, sign=sign, by=by, kind="enrolled", also=write)


def hold(
    ledger: Ledger,
    consent_id: str,
    digest: str,
    face_key: str,
    embedder_digest: str,
    apart: float | None,
    bar: float | None,
) -> HeldFace:
    """Hold a face for a human and note it for the audit. The same face again is held once.

    Raises: ConsentRefused: the consent was revoked or has ended: nothing of its erasure may come after it.
    """
    row = {"id": f"held-{secrets.token_hex(6)}", "consent_id": consent_id, "digest": digest, "face_key": face_key}
    row |= {"embedder_digest": embedder_digest}
    new = upsert(held_faces).values(**row, distance=apart, bar=bar).on_conflict_do_nothing(constraint="held_once")
    with ledger.transaction() as connection:
        _require_kept(connection, consent_id)
        if connection.execute(new.returning(held_faces.c.id)).first():
            audit.append(connection, "face.held", {"consent_id": consent_id, "held_id": row["id"]})
        return HeldFace(**connection.execute(select(held_faces).where(_same(consent_id, digest))).one()._mapping)


def find_held(ledger: Ledger, consent_id: str, digest: str) -> HeldFace | None:
    """Return the held face with this digest, decided or not; None when it was never held."""
    with ledger.transaction() as connection:
        row = connection.execute(select(held_faces).where(_same(consent_id, digest))).first()
    return None if row is None else HeldFace(**row._mapping)


def _same(consent_id: str, digest: str) -> ColumnElement[bool]:
    return (held_faces.c.consent_id == consent_id) & (held_faces.c.digest == digest)


def _require_kept(connection: Connection, consent_id: str) -> None:
    _, decision = consents.decide_kept(connection, consent_id)
    if not decision.allowed:
        raise ConsentRefused(decision.english, decision.code)


def list_held(ledger: Ledger, *, all_of_them: bool = False) -> list[HeldFace]:
    """Return the faces that wait for a human, oldest first; with `all_of_them` those decided on, too."""
    query = select(held_faces).order_by(held_faces.c.held_at, held_faces.c.id)
    if not all_of_them:
        query = query.where(held_faces.c.decision == "")
    with ledger.transaction() as connection:
        return [HeldFace(**row._mapping) for row in connection.execute(query)]


def get_held(ledger: Ledger, held_id: str) -> HeldFace:
    """Return one held face. Raises: BadInput: there is none, or it was erased with its consent."""
    with ledger.transaction() as connection:
        row = connection.execute(select(held_faces).where(held_faces.c.id == held_id)).first()
    if row is None:
        raise BadInput("no such held photo is known; `face0 consent held list` shows them")
    return HeldFace(**row._mapping)


def reject(ledger: Ledger, held_id: str) -> HeldFace:
    """Note that a human said no; repeating it changes nothing. Raises: BadInput: unknown, or accepted already."""
    with ledger.transaction() as connection:
        already = (held_faces.c.id == held_id) & (held_faces.c.decision == REJECTED)
        if connection.execute(select(held_faces.c.id).where(already)).first() is None:
            _decide(connection, held_id, REJECTED)
    return get_held(ledger, held_id)


def note_access(ledger: Ledger, kind: str, consent_id: str, by: str) -> None:
    """Note for the audit that `by` has read something of a person: `kind` is contact.read, face.viewed, ..."""
    with ledger.transaction() as connection:
        audit.append(connection, kind, {"consent_id": consent_id, "by": by})


def _decide(connection: Connection, held_id: str, decision: str) -> None:
    open_one = (held_faces.c.id == held_id) & (held_faces.c.decision == "")
    change = update(held_faces).where(open_one).values(decision=decision, decided_at=func.clock_timestamp())
    row = connection.execute(change.returning(held_faces.c.consent_id)).first()
    if row is None:
        raise BadInput("this held photo is unknown or was decided on already; `face0 consent held list` shows them")
    audit.append(connection, f"face.{decision}", {"consent_id": row.consent_id, "held_id": held_id})
