"""What is to be erased by itself: consents whose time and retention are over (docs/erasure.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select, text

from face0_worker.contract.consent import ConsentState
from face0_worker.records import audit, revocation
from face0_worker.records.erasure import Eraser
from face0_worker.records.ledger import Ledger
from face0_worker.records.revocation import Cause
from face0_worker.records.tables import consents, enrolments, erasures, faces, held_faces


@dataclass(frozen=True)
class Due:
    """Consents that have ended: of `whole` everything is to be erased, of `faces` photo and embedding only."""

    whole: tuple[tuple[str, Cause], ...]
    faces: tuple[str, ...]


def due(ledger: Ledger, default_days: int) -> Due:
    """Return what is to be erased by now. `default_days`: retention of what a consent says nothing about."""
    ended = select(consents.c.id, consents.c.valid_until, consents.c.terms, func.clock_timestamp().label("now"))
    ended = ended.where(consents.c.state == ConsentState.GRANTED, consents.c.valid_until <= func.now())
    whole: list[tuple[str, Cause]] = []
    of_faces: list[str] = []
    with ledger.transaction() as connection:
        for row in connection.execute(ended.order_by(consents.c.valid_until, consents.c.id)):
            days = _days(row.terms, default_days)
            if _over(row.valid_until, days["pictures"], row.now):
                whole.append((row.id, Cause.RETENTION if days["pictures"] else Cause.EXPIRED))
            elif _over(row.valid_until, min(days["photo"], days["embedding"]), row.now):
                of_faces.append(row.id)
    return Due(tuple(whole), tuple(of_faces))


def _days(terms: dict[str, object], default_days: int) -> dict[str, int]:
    said = terms.get("retention")
    said = said if isinstance(said, dict) else {}
    return {
        kind: default_days if said.get(kind) is None else int(said[kind]) for kind in ("pictures", "photo", "embedding")
    }


def _over(ended: datetime, days: int, now: datetime) -> bool:
    # a record may say "for ever" with a number that no calendar holds
    return days < 100_000 and ended + timedelta(days=days) <= now


def begin(eraser: Eraser, default_days: int) -> int:
    """Begin every erasure that is due, and erase the faces that are; return how many. Repeatable.

    A consent that an older program revoked is taken up as well. Raises: ServiceDown.
    """
    begun = _adopt(eraser.ledger)
    found = due(eraser.ledger, default_days)
    for consent_id, cause in found.whole:
        begun += revocation.end(eraser.ledger, consent_id, cause)
    for consent_id in found.faces:
        begun += _erase_face(eraser, consent_id)
    return begun


def _adopt(ledger: Ledger) -> int:
    """Note the erasures of consents that were revoked by a program that knows no erasures."""
    missing = (
        select(consents.c.id, text("'revoked'"), consents.c.epoch, func.coalesce(consents.c.revoked_at, func.now()))
        .where(consents.c.state == ConsentState.REVOKED)
        .where(~select(erasures.c.consent_id).where(erasures.c.consent_id == consents.c.id).exists())
    )
    with ledger.transaction() as connection:
        new = insert(erasures).from_select(["consent_id", "cause", "epoch", "requested_at"], missing)
        return len(connection.execute(new.returning(erasures.c.consent_id)).all())


def _erase_face(eraser: Eraser, consent_id: str) -> int:
    """Erase photo and embedding with their key; the pictures stay. Return 0 where that was done before."""
    if eraser.vault.is_destroyed(consent_id) and not eraser.vault.has_key(consent_id):
        return 0
    erased = eraser.storage.delete_prefix(f"faces/{consent_id}/")
    with eraser.ledger.transaction() as connection:
        for table in (faces, enrolments, held_faces):
            connection.execute(delete(table).where(table.c.consent_id == consent_id))
        audit.append(connection, "face.erased", {"consent_id": consent_id, "objects": erased})
    # last: from here on it counts as done
    eraser.vault.destroy(consent_id, everything=False)
    return 1
