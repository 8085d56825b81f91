"""Which faces are stored under a consent; the sealed bytes lie in storage, the key in the vault."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import faces, jobs


def keep_face(ledger: Ledger, consent_id: str, digest: str, face_key: str) -> None:
    """Note that a sealed face stands in storage. Nothing happens when it is known."""
    row = {"consent_id": consent_id, "digest": digest, "face_key": face_key}
    with ledger.transaction() as connection:
        connection.execute(upsert(faces).values(row).on_conflict_do_nothing())


def newest_face(ledger: Ledger, consent_id: str) -> tuple[str, str] | None:
    """Return (digest, storage key) of the face that was stored last under a consent, or None."""
    query = select(faces.c.digest, faces.c.face_key).where(faces.c.consent_id == consent_id)
    with ledger.transaction() as connection:
        row = connection.execute(query.order_by(faces.c.created_at.desc()).limit(1)).first()
    return None if row is None else (row.digest, row.face_key)


@dataclass(frozen=True)
class KnownFace:
    """A stored face, and which face of its photo it is (`policy`, as in jobs)."""

    digest: str
    face_key: str
    policy: str


def faces_of_pack(ledger: Ledger, consent_id: str, embedder_digest: str) -> list[KnownFace]:
    """Return the stored faces of a consent that this face pack found, as jobs tell, the last stored first."""
    policy = func.max(jobs.c.face_policy).label("policy")
    query = (
        select(faces.c.digest, faces.c.face_key, policy)
        .join(jobs, (jobs.c.consent_id == faces.c.consent_id) & (jobs.c.face_digest == faces.c.digest))
        .where(faces.c.consent_id == consent_id, jobs.c.embedder_digest == embedder_digest)
        .group_by(faces.c.digest, faces.c.face_key, faces.c.created_at)
        .order_by(faces.c.created_at.desc())
    )
    with ledger.transaction() as connection:
        return [KnownFace(row.digest, row.face_key, row.policy) for row in connection.execute(query)]
