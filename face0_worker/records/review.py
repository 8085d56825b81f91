"""What a human decides about rejected pictures: looked at, accepted or rejected, each in the audit log.

A decision is only noted here; an acceptance is carried out by `acceptances`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update

from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.records import audit, consents
from face0_worker.records.held import NOT_HELD, Held, get
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import UNDECIDED, held_pictures

ACCEPTED, REJECTED = "accepted", "rejected"


def note_shown(ledger: Ledger, held: Held, by: str) -> None:
    """Ask the consent for this look at the picture, and write the answer into the audit log, in one transaction.

    Raises: ConsentRefused.
    """
    with ledger.transaction() as connection:
        record, decision = consents.decide_now(connection, held.consent_id, held.use, share=True)
        if decision.allowed:
            audit.append(connection, "review.shown", {**_named(held), "by": by})
        else:
            consents.note_refusal(connection, record, held.use.purpose, "review", decision.code)
    if not decision.allowed:
        raise ConsentRefused(decision.english, decision.code)


def decide(ledger: Ledger, item_id: int, decision: str, by: str) -> Held:
    """Note what a human decided; return the picture as it stands then. Repeating the same decision changes nothing.

    An acceptance asks the consent first. Raises: BadInput: nothing is held, or the other was decided.
    ConsentRefused.
    """
    held = get(ledger, item_id)
    if decision == ACCEPTED:
        consents.require(ledger, held.consent_id, held.use, stage="review")
    with ledger.transaction() as connection:
        mine = held_pictures.c.item_id == item_id
        row = connection.execute(select(held_pictures.c.decision).where(mine).with_for_update()).first()
        if row is None:
            raise BadInput(NOT_HELD)
        if row.decision not in ("", decision):
            raise BadInput(f"item {item_id} was {row.decision} already; a decision is not taken back")
        if not row.decision:
            noted = {"decision": decision, "decided_by": by, "decided_at": func.clock_timestamp()}
            connection.execute(update(held_pictures).where(mine).values(noted))
            audit.append(connection, f"review.{decision}", {**_named(held), "by": by})
    return get(ledger, item_id)


def mark_erased(ledger: Ledger, item_id: int) -> None:
    """Note that the held object of a decided picture is erased."""
    mine = (held_pictures.c.item_id == item_id) & ~UNDECIDED
    with ledger.transaction() as connection:
        gone = {"held_key": "", "ended_at": func.coalesce(held_pictures.c.ended_at, func.clock_timestamp())}
        connection.execute(update(held_pictures).where(mine).values(gone))


def _named(held: Held) -> dict[str, Any]:
    return {"consent_id": held.consent_id, "job_id": held.job_id, "item_key": held.item_key}
