"""Waiting items: which are next, fairly, and their way into attempts - one transaction, every step by an index."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, text, update

from face0_worker.contract.job import ItemState
from face0_worker.records import consents
from face0_worker.records.attempts import keep_committed
from face0_worker.records.ledger import Ledger, lock_items
from face0_worker.records.tables import DISPATCH_LOCK, OUTSTANDING, WAITING, attempts, items, jobs

# Looked at beyond what is sent now, so that batches of rare shapes fill up.
LOOKAHEAD = 4


@dataclass(frozen=True)
class WaitingItem:
    """What decides with which others an item may be rendered. Sizes in pixels; `solo` items go alone."""

    item_id: int
    job_id: str
    model_digest: str
    width: int
    height: int
    steps: int
    sampler: str
    precision: str
    solo: bool = False


@dataclass(frozen=True)
class Batch:
    """Items that one worker renders together; all of one model and shape, or one item alone."""

    items: tuple[WaitingItem, ...]

    @property
    def solo(self) -> bool:
        """Whether a crash of this batch can only be this item's doing."""
        return len(self.items) == 1 and self.items[0].solo


@dataclass(frozen=True)
class JobQueue:
    """The next waiting items of one job, in the order of its list.

    A turn says when somebody was last served: the smallest is served next. `submitter_turn` is the largest of all
    jobs of that submitter, so that many small jobs get no more than one large one.
    """

    job_id: str
    submitter: str
    priority: int
    turn: int
    submitter_turn: int
    heads: tuple[int, ...]


def fair_order(queues: Sequence[JobQueue], count: int) -> list[int]:
    """Return at most `count` item ids in the order in which they shall be rendered. Pure.

    Smaller priorities come first. Within one, submitters take turns, one item each, and a submitter's jobs take
    turns within its turn; whoever was served longest ago begins.
    """
    order: list[int] = []
    for priority in sorted({queue.priority for queue in queues}):
        same = sorted((queue for queue in queues if queue.priority == priority), key=lambda queue: queue.turn)
        circle = deque(_by_submitter(same))
        while circle and len(order) < count:
            theirs = circle.popleft()
            heads = theirs.popleft()
            order.append(heads.popleft())
            if heads:
                theirs.append(heads)
            if theirs:
                circle.append(theirs)
    return order


def _by_submitter(queues: Iterable[JobQueue]) -> list[deque[deque[int]]]:
    circles: dict[str, tuple[int, deque[deque[int]]]] = {}
    for queue in queues:
        if queue.heads:
            circles.setdefault(queue.submitter, (queue.submitter_turn, deque()))[1].append(deque(queue.heads))
    return [circle for _, circle in sorted(circles.values(), key=lambda pair: pair[0])]


def take_waiting(
    ledger: Ledger,
    model_digest: str,
    limit_batches: int,
    batch_size: int,
    plan: Callable[[Sequence[WaitingItem], int], list[Batch]],
) -> list[str]:
    """Turn waiting items of one model into attempts until `limit_batches` are outstanding; return the new ones' ids.

    Consent is required again: refused items are cancelled. Items whose key is committed are kept; one whose key is
    being rendered for another job goes on waiting. One dispatcher works at a time; a second returns nothing.
    """
    with ledger.transaction() as connection:
        if not connection.execute(select(func.pg_try_advisory_xact_lock(DISPATCH_LOCK))).scalar_one():
            return []
        outstanding = select(func.count()).where(attempts.c.model_digest == model_digest, OUTSTANDING)
        free = limit_batches - connection.execute(outstanding).scalar_one()
        if free <= 0:
            return []
        wanted = free * batch_size * LOOKAHEAD
        chosen = _consented(connection, _next_jobs(connection, model_digest, wanted))
        queues, item_keys = _heads(connection, chosen, wanted)
        order = _once_per_key(fair_order(queues, wanted), item_keys)
        waiting = _lock_waiting(connection, order, model_digest)
        batches = plan(waiting, batch_size)[:free]
        return _write_attempts(connection, model_digest, batches)


# Of each submitter the jobs served longest ago, then the submitters served longest ago: the first jobs that
# fair_order could ask for. A job that somebody is changing at this moment is left for the next round.
# Whether a job has waiting items is asked by its first one, through the index: EXISTS would read a million items.
_NEXT_JOBS = text("""
    WITH open_jobs AS (
        SELECT id, priority, submitter, last_turn, created_at FROM jobs CROSS JOIN LATERAL (
            SELECT FROM items WHERE items.job_id = jobs.id AND items.state = 'waiting' ORDER BY position LIMIT 1) head
        WHERE state = 'active' AND model_digest = :model_digest
    ), ranked AS (
        SELECT open_jobs.*, turns.submitter_turn, row_number() OVER (
            PARTITION BY priority, submitter ORDER BY last_turn, created_at, id) AS place
        FROM open_jobs CROSS JOIN LATERAL (
            SELECT max(j.last_turn) AS submitter_turn FROM jobs j WHERE j.submitter = open_jobs.submitter) turns
    ), first_ones AS (
        SELECT * FROM ranked ORDER BY priority, place, submitter_turn, created_at, id LIMIT :count
    )
    SELECT jobs.id, jobs.consent_id, jobs.purpose, jobs.campaign, jobs.channel, jobs.territory,
        jobs.priority, jobs.submitter, jobs.last_turn, submitter_turn
    FROM first_ones JOIN jobs USING (id)
    WHERE jobs.state = 'active'
    ORDER BY jobs.priority, place, submitter_turn, jobs.created_at, jobs.id
    FOR NO KEY UPDATE OF jobs SKIP LOCKED
""")


def _next_jobs(connection: Connection, model_digest: str, count: int) -> list[Row[Any]]:
    return list(connection.execute(_NEXT_JOBS, {"model_digest": model_digest, "count": count}))


def _consented(connection: Connection, rows: list[Row[Any]]) -> list[Row[Any]]:
    """Leave the jobs whose consent allows them now; cancel what waits in the others."""
    uses = {row.id: (row.consent_id, consents.job_use(row)) for row in rows}
    decisions = consents.decide_all(connection, uses.values())
    allowed = []
    for row in rows:
        record, decision = decisions[uses[row.id]]
        if decision.allowed:
            allowed.append(row)
            continue
        consents.note_refusal(connection, record, row.purpose, "dispatch", decision.code)
        theirs = (items.c.job_id == row.id) & WAITING
        lock_items(connection, theirs)
        change = {"state": ItemState.CANCELLED, "error_code": decision.code, "error": decision.english}
        connection.execute(update(items).where(theirs).values(change))
    return allowed


_HEADS = text("""
    SELECT chosen.id AS job_id, heads.id, heads.item_key, heads.committed
    FROM unnest(CAST(:job_ids AS text[])) WITH ORDINALITY AS chosen(id, place) CROSS JOIN LATERAL (
        SELECT items.id, items.item_key, items.position, EXISTS (
            SELECT FROM commits WHERE commits.item_key = items.item_key AND commits.purged_at IS NULL) AS committed
        FROM items
        WHERE items.job_id = chosen.id AND items.state = 'waiting' AND NOT EXISTS (
            SELECT FROM items AS other
            WHERE other.item_key = items.item_key AND other.state IN ('dispatched', 'running'))
        ORDER BY items.position LIMIT :per_job
    ) AS heads
    ORDER BY chosen.place, heads.position
""")


def _heads(connection: Connection, chosen: list[Row[Any]], wanted: int) -> tuple[list[JobQueue], dict[int, str]]:
    """Return the next items per job and their keys; those committed already are kept on the way."""
    if not chosen:
        return [], {}
    # enough for any one job when there are few of them, and no more than eight times the need when there are many
    per_job = min(wanted, -(-8 * wanted // len(chosen)))
    rows = connection.execute(_HEADS, {"job_ids": [row.id for row in chosen], "per_job": per_job}).all()
    committed = items.c.id.in_([row.id for row in rows if row.committed])
    if any(row.committed for row in rows):
        lock_items(connection, committed & WAITING)
        keep_committed(connection, committed & WAITING)
    heads: dict[str, list[int]] = {row.id: [] for row in chosen}
    for row in rows:
        if not row.committed:
            heads[row.job_id].append(row.id)
    queues = [
        JobQueue(row.id, row.submitter, row.priority, row.last_turn, row.submitter_turn, tuple(heads[row.id]))
        for row in chosen
    ]
    return queues, {row.id: row.item_key for row in rows}


def _once_per_key(order: list[int], item_keys: dict[int, str]) -> list[int]:
    first: dict[str, int] = {}
    for item_id in order:
        first.setdefault(item_keys[item_id], item_id)
    return list(first.values())


def _lock_waiting(connection: Connection, order: list[int], model_digest: str) -> list[WaitingItem]:
    query = select(items.c.id, items.c.job_id, items.c.solo, items.c.spec).where(items.c.id.in_(order), WAITING)
    rows = {row.id: row for row in connection.execute(query.with_for_update(skip_locked=True))}
    shape = ("width", "height", "steps", "sampler", "precision")
    return [
        WaitingItem(row.id, row.job_id, model_digest, solo=row.solo, **{name: row.spec[name] for name in shape})
        for row in (rows[item_id] for item_id in order if item_id in rows)
    ]


def _write_attempts(connection: Connection, model_digest: str, batches: list[Batch]) -> list[str]:
    if not batches:
        return []
    ids = [secrets.token_hex(16) for _ in batches]
    connection.execute(
        insert(attempts),
        [
            {"id": attempt_id, "model_digest": model_digest, "solo": batch.solo}
            for attempt_id, batch in zip(ids, batches, strict=True)
        ],
    )
    turn = connection.execute(select(func.coalesce(func.max(jobs.c.last_turn), 0))).scalar_one()
    turns: dict[str, int] = {}
    for attempt_id, batch in zip(ids, batches, strict=True):
        taken = [item.item_id for item in batch.items]
        change = {"state": ItemState.DISPATCHED, "attempt_id": attempt_id}
        connection.execute(update(items).where(items.c.id.in_(taken)).values(change))
        for item in batch.items:
            turn += 1
            turns[item.job_id] = turn
    for job_id, last in turns.items():
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(last_turn=last))
    return ids


@dataclass(frozen=True)
class Unclaimed:
    """An attempt that no worker has claimed. `due`: never sent, or sent long enough ago to have been claimed."""

    attempt_id: str
    model_digest: str
    sent: bool
    due: bool


def unclaimed(ledger: Ledger, resend_after_s: float) -> list[Unclaimed]:
    """Return every attempt that waits for a worker, oldest first."""
    due = func.coalesce(attempts.c.sent_at <= func.now() - func.make_interval(0, 0, 0, 0, 0, 0, resend_after_s), True)
    query = (
        select(attempts.c.id, attempts.c.model_digest, attempts.c.sent_at.is_not(None).label("sent"), due.label("due"))
        .where(OUTSTANDING, attempts.c.state == "dispatched")
        .order_by(attempts.c.created_at, attempts.c.id)
    )
    with ledger.transaction() as connection:
        return [Unclaimed(row.id, row.model_digest, row.sent, row.due) for row in connection.execute(query)]


def mark_sent(ledger: Ledger, attempt_ids: Sequence[str]) -> None:
    """Note that messages for these attempts were handed to the broker now."""
    if attempt_ids:
        with ledger.transaction() as connection:
            change = update(attempts).where(attempts.c.id.in_(attempt_ids)).values(sent_at=func.now())
            connection.execute(change)
