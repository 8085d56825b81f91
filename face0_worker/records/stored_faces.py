"""Which faces are stored under a consent; the sealed bytes lie in storage, the key in the vault."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import faces


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
