"""Change a consent: each change is a new version, and what takes rights away takes hold at once (promise P3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, true, update

from face0_worker.contract.consent import ALLOWED, ConsentRecord, ConsentState, Decision, decide, needs_approval
from face0_worker.contract.consent_document import succeed
from face0_worker.contract.consent_terms import Approval
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.contract.job import ItemState
from face0_worker.records import audit, consent_versions, consents
from face0_worker.records.consent_versions import Sign
from face0_worker.records.ledger import Ledger, database_clock, lock_items
from face0_worker.records.tables import OPEN, items, jobs
from face0_worker.records.tables import consents as consents_table

_AT_ONCE = 5000  # items in one statement


def amend(
    ledger: Ledger,
    consent_id: str,
    change: Callable[[ConsentRecord, datetime], ConsentRecord],
    *,
    sign: Sign | None = None,
    by: str = "",
    kind: str = "amended",
    also: Callable[[Connection], None] = lambda _: None,
) -> ConsentRecord:
    """Write what `change` makes of the consent, at the database's clock, as its next version, and return it.

    Where rights are taken away the epoch grows, so that no picture made before is committed after, and open items
    that the new version refuses are cancelled in the same transaction. `kind` says what happened, `by` who did it;
    `also` writes something more in the same transaction.
    Raises: BadInput: no such consent, nothing changed, or it would contradict itself. ConsentRefused: it was revoked.
    """
    with ledger.transaction() as connection:
        query = select(consents_table.c.id).where(consents_table.c.id == consent_id)
        # waits for commits in progress, as a revocation does
        if connection.execute(query.with_for_update()).first() is None:
            raise BadInput("no such consent is known; `face0 consent list` shows them")
        old = consents.read(connection, consent_id)
        now = database_clock(connection)
        if old is None or old.state is ConsentState.REVOKED:
            raise ConsentRefused(
                f"Consent {consent_id} was revoked and can't be changed; ask for a new one.", "revoked"
            )
        changed = change(old, now)
        if changed == old:
            raise BadInput(f"consent {consent_id} says that already; nothing was changed")
        new = succeed(old, changed, consent_versions.last_hash(connection, consent_id))
        consents.check(new)
        connection.execute(
            update(consents_table).where(consents_table.c.id == consent_id).values(consents.row_values(new))
        )
        also(connection)
        consent_versions.write(connection, new, {"kind": kind, "at": now, "by": by}, sign)
        cancelled = _cancel_refused(connection, new, now) if new.epoch > old.epoch else 0
        facts = {"consent_id": consent_id, "version": new.version, "epoch": new.epoch, "cancelled": cancelled}
        audit.append(connection, f"consent.{kind}", facts)
        return new


def approve(ledger: Ledger, consent_id: str, *, by: str, sign: Sign | None = None) -> ConsentRecord:
    """Note that `by` (a staff number or login) approves the consent as it stands; return its new version.

    Raises: BadInput: `by` is empty or has approved already, or nothing in the consent needs approval.
    """
    if not by.strip():
        raise BadInput("say who approves, with --by and a staff number or login")

    def with_approval(record: ConsentRecord, now: datetime) -> ConsentRecord:
        if not any(needs_approval(record, purpose) for purpose in record.purposes):
            raise BadInput(f"nothing in consent {consent_id} needs approval: it is an adult's, and not for ads")
        if by.strip().casefold() in {one.casefold() for one in record.terms.approvers}:
            raise BadInput(f"{by} has approved consent {consent_id} already; the second approval is another person's")
        approval = Approval(by.strip(), now)
        return replace(record, terms=replace(record.terms, approvals=(*record.terms.approvals, approval)))

    return amend(ledger, consent_id, with_approval, sign=sign, by=by, kind="approved")


def _cancel_refused(connection: Connection, record: ConsentRecord, now: datetime) -> int:
    """Cancel the open items that the consent does not allow any more; return how many."""
    query = select(jobs).where(jobs.c.consent_id == record.id, jobs.c.state.in_(("active", "paused")))
    cancelled = 0
    for job in connection.execute(query.order_by(jobs.c.id)).all():
        decision = decide(record, consents.job_use(job), now)
        theirs = (items.c.job_id == job.id) & OPEN
        if not decision.allowed:
            lock_items(connection, theirs)
            cancelled += connection.execute(update(items).where(theirs).values(_ended(decision))).rowcount
        elif record.terms.by_item:
            cancelled += _cancel_items(connection, record, job, now)
    return cancelled


def _cancel_items(connection: Connection, record: ConsentRecord, job: Row[Any], now: datetime) -> int:
    refused: dict[Decision, list[int]] = {}
    for item_id, decision in refused_items(connection, record, job, now, OPEN):
        refused.setdefault(decision, []).append(item_id)
    for decision, ids in refused.items():
        for start in range(0, len(ids), _AT_ONCE):
            some = items.c.id.in_(ids[start : start + _AT_ONCE]) & OPEN
            lock_items(connection, some)
            connection.execute(update(items).where(some).values(_ended(decision)))
    return sum(map(len, refused.values()))


def refused_items(
    connection: Connection, record: ConsentRecord, job: Any, now: datetime, which: ColumnElement[bool]
) -> list[tuple[int, Decision]]:
    """Return (item id, decision) of those of a job's items that the consent refuses by SKU or prompt, in order."""
    query = select(items.c.id, items.c.sku, items.c.spec["prompt"].astext.label("prompt"))
    query = query.where(items.c.job_id == job.id, which).order_by(items.c.position)
    rows = connection.execute(query.execution_options(yield_per=_AT_ONCE))
    use = consents.job_use(job)
    decided = ((row.id, decide(record, use.of_item(row.sku, row.prompt), now)) for row in rows)
    return [(item_id, decision) for item_id, decision in decided if not decision.allowed]


def first_refusal(connection: Connection, record: ConsentRecord, job: Any) -> Decision:
    """Return ALLOWED, or the first refusal among a job's items; it names the item."""
    for item_id, decision in refused_items(connection, record, job, database_clock(connection), true()):
        sku = connection.execute(select(items.c.sku).where(items.c.id == item_id)).scalar_one()
        return naming(decision, sku)
    return ALLOWED


def naming(decision: Decision, sku: str) -> Decision:
    """Return a refusal whose sentences begin with the SKU they are about."""
    return replace(decision, english=f"SKU {sku}: {decision.english}", japanese=f"SKU {sku}: {decision.japanese}")


def _ended(decision: Decision) -> dict[str, Any]:
    return {"state": ItemState.CANCELLED, "error_code": decision.code, "error": decision.english}
