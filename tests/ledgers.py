"""Builders for tests that need a ledger with something in it: consents, models, jobs, claimed batches."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.consent_terms import Approval, Terms
from face0_worker.contract.job import CatalogueJob, ItemState, Priority, RenderItem, Subject, read_batch_message
from face0_worker.contract.receipt import Verdict
from face0_worker.queue.dispatch import dispatch
from face0_worker.records import attempts, commits, consents, jobs
from face0_worker.records.attempts import Claim, ClaimedItem
from face0_worker.records.ledger import Ledger
from face0_worker.records.storage import picture_key
from face0_worker.records.tables import attempts as attempts_table
from face0_worker.records.tables import consents as consents_table
from face0_worker.records.tables import items as items_table

MODEL = hashlib.sha256(b"model").hexdigest()
EMBEDDER = hashlib.sha256(b"embedder").hexdigest()
GOOD = Verdict(accepted=True, reason="", faces=1, identity=0.5, brightness=0.5, contrast=0.2)


def digest(text: str) -> str:
    """Return the sha256 hex of a text, as a stand-in for any digest."""
    return hashlib.sha256(text.encode()).hexdigest()


def give_consent(
    ledger: Ledger, consent_id: str = "c1", *, purposes: Sequence[Purpose] = (Purpose.CATALOGUE,), days: float = 1
) -> ConsentRecord:
    """Grant a consent that began an hour ago and ends in `days` days; two people have approved it."""
    now = datetime.now(UTC)
    begin, end = now - timedelta(hours=1), now + timedelta(days=days)
    approved = Terms(approvals=(Approval("staff-1", begin), Approval("staff-2", begin)))
    record = ConsentRecord(consent_id, f"subject-{consent_id}", frozenset(purposes), begin, end, terms=approved)
    consents.grant(ledger, record)
    return record


def subject(consent_id: str = "c1", model: str = MODEL) -> Subject:
    """Return the subject of a consent with a face of its own."""
    return Subject(consent_id, digest(f"face of {consent_id}"), model, EMBEDDER)


def some_items(count: int, *, first: int = 0, **fields: Any) -> tuple[RenderItem, ...]:
    """Return items that differ by their seed, which runs from `first`."""
    values = {"prompt": "a portrait", **fields}
    return tuple(RenderItem(sku=f"sku-{seed}", seed=seed, **values) for seed in range(first, first + count))


def submit(
    ledger: Ledger,
    items: Iterable[RenderItem],
    *,
    consent_id: str = "c1",
    priority: Priority = Priority.NORMAL,
    submitter: str = "",
    purpose: str = "catalogue",
    model: str = MODEL,
    idempotency_key: str = "",
) -> str:
    """Create a job and return its id."""
    job = CatalogueJob(
        id=secrets.token_hex(8),
        subject=subject(consent_id, model),
        purpose=purpose,
        priority=priority,
        items=items,
        submitter=submitter,
        idempotency_key=idempotency_key,
    )
    return jobs.create_job(ledger, job, f"faces/{consent_id}/{job.subject.face_digest}.enc")[0]


@dataclass
class Broker:
    """An in-memory broker with the promises of the real one: it keeps messages until they are taken or lost."""

    queues: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def send(self, queue: str, message: dict[str, Any]) -> None:
        """Put a message at the end of a queue."""
        self.queues.setdefault(queue, []).append(message)

    def length(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        return len(self.queues.get(queue, []))

    def take(self) -> list[str]:
        """Take every message out and return the attempt ids in the order they were sent, queue after queue."""
        taken = [read_batch_message(message) for queue in self.queues.values() for message in queue]
        self.flush()
        return taken

    def flush(self) -> None:
        """Lose everything, as FLUSHALL does."""
        self.queues.clear()


def dispatch_once(
    ledger: Ledger, broker: Broker, *, batch_size: int = 4, window: int = 2, resend_after_s: float = 3600
) -> int:
    """Dispatch with a worker that offers MODEL; return the number of new batches."""
    jobs.offer_model(ledger, "w1", MODEL, "test", {})
    return dispatch(
        ledger,
        broker.send,
        batch_size=batch_size,
        window=window,
        queue_length=broker.length,
        resend_after_s=resend_after_s,
    )


def claim_all(ledger: Ledger, broker: Broker, *, worker_id: str = "w1", lease_s: float = 60) -> list[Claim]:
    """Claim whatever lies in the broker."""
    claims = [attempts.claim(ledger, attempt_id, worker_id, lease_s) for attempt_id in broker.take()]
    return [claim for claim in claims if claim is not None]


def claim_items(ledger: Ledger, items: Sequence[RenderItem], **job: Any) -> Claim:
    """Submit items and claim them as one batch."""
    submit(ledger, items, **job)
    broker = Broker()
    dispatch_once(ledger, broker, batch_size=len(items), window=100)
    (claim,) = claim_all(ledger, broker)
    return claim


def commit_item(ledger: Ledger, claim: Claim, item: ClaimedItem, picture: str = "picture") -> str:
    """Commit one item with the digest of `picture` as its picture."""
    sha256 = digest(picture)
    key = picture_key(item.subject.consent_id, item.item_key, sha256)
    return commits.commit(ledger, claim.attempt_id, claim.token, item, key, sha256, b"receipt", GOOD)


def run_to_end(ledger: Ledger, broker: Broker, *, batch_size: int = 4, window: int = 2) -> list[list[ClaimedItem]]:
    """Dispatch, claim and commit until nothing waits; return the batches in the order they were rendered."""
    batches = []
    while dispatch_once(ledger, broker, batch_size=batch_size, window=window):
        for claim in claim_all(ledger, broker):
            batches.append(list(claim.items))
            for item in claim.items:
                commit_item(ledger, claim, item)
            attempts.finish_attempt(ledger, claim.attempt_id, claim.token)
    return batches


def states(ledger: Ledger, job_id: str) -> list[ItemState]:
    """Return the states of a job's items in the order of its list."""
    return [row.state for row in jobs.job_items(ledger, job_id)]


def expire_lease(ledger: Ledger, attempt_id: str) -> None:
    """Let the attempt's lease have run out an hour ago."""
    with ledger.transaction() as connection:
        past = datetime.now(UTC) - timedelta(hours=1)
        connection.execute(update(attempts_table).where(attempts_table.c.id == attempt_id).values(lease_until=past))


def end_consent_now(ledger: Ledger, consent_id: str) -> None:
    """Let the consent's time be over, as if it had been granted for a shorter one."""
    over = update(consents_table).where(consents_table.c.id == consent_id).values(valid_until=func.now())
    with ledger.transaction() as connection:
        connection.execute(over)


def item_rows(ledger: Ledger, job_id: str) -> list[Any]:
    """Return every column of a job's items in the order of its list."""
    with ledger.transaction() as connection:
        query = select(items_table).where(items_table.c.job_id == job_id).order_by(items_table.c.position)
        return list(connection.execute(query))
