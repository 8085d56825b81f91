"""Attempts: one batch on one worker, held by a lease and a fencing token (promises P4, P8)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, func, or_, select, update

from face0_worker.contract.bars import Bars
from face0_worker.contract.consent import Use
from face0_worker.contract.errors import LeaseLost
from face0_worker.contract.job import ItemState, RenderItem, Subject
from face0_worker.records import consents, webhooks
from face0_worker.records.kept import reject_kept
from face0_worker.records.ledger import Ledger, lock_items
from face0_worker.records.tables import IN_FLIGHT, OUTSTANDING, attempts, commits, fencing_tokens, items, jobs

# Only a crash alone counts against an item, but an item that always comes back unfinished must end too.
ATTEMPT_LIMIT = 20


@dataclass(frozen=True)
class ClaimedItem:
    """One item a worker may render now. The receipt says `consent_epoch`; a commit refuses if it has changed."""

    item_id: int
    job_id: str
    subject: Subject
    face_key: str
    purpose: str
    spec: RenderItem
    item_key: str
    consent_epoch: int
    use: Use
    bars: Bars = field(default_factory=Bars)


@dataclass(frozen=True)
class Claim:
    """A worker's right to commit these items as long as it renews its lease; `token` grows with every claim.

    `solo`: a crash is counted against its one item, so nothing else may be at work in the process meanwhile.
    """

    attempt_id: str
    token: int
    items: tuple[ClaimedItem, ...]
    solo: bool = False


def claim(ledger: Ledger, attempt_id: str, worker_id: str, lease_s: float) -> Claim | None:
    """Take a dispatched attempt for `lease_s` seconds; exactly one of several callers gets it.

    Items whose key is committed are done and kept, items whose consent no longer allows them are cancelled.
    None: somebody else has it, it is gone, or nothing of it is left to render.
    """
    with ledger.transaction() as connection:
        taken = connection.execute(
            update(attempts)
            .where(attempts.c.id == attempt_id, attempts.c.state == "dispatched")
            .values(
                state="claimed",
                worker_id=worker_id,
                token=fencing_tokens.next_value(),
                lease_until=func.now() + timedelta(seconds=lease_s),
                claimed_at=func.now(),
            )
            .returning(attempts.c.token, attempts.c.solo)
        ).first()
        if taken is None:
            return None
        claimed = _take_items(connection, attempt_id)
        if not claimed:
            _end(connection, [attempt_id], "finished")
            return None
        return Claim(attempt_id, taken.token, tuple(claimed), taken.solo)


def _take_items(connection: Connection, attempt_id: str) -> list[ClaimedItem]:
    rows = _lock_dispatched(connection, attempt_id)
    uses = {row.item_id: (row.consent_id, _use(row)) for row in rows}
    decisions = consents.decide_all(connection, uses.values())
    allowed = []
    for row in rows:
        record, decision = decisions[uses[row.item_id]]
        if record is not None and decision.allowed:
            allowed.append((row, record.epoch))
            continue
        consents.note_refusal(connection, record, row.purpose, "claim", decision.code)
        end_item(connection, row.item_id, ItemState.CANCELLED, decision.code, decision.english)
    kept = keep_committed(connection, items.c.id.in_([row.item_id for row, _ in allowed]))
    running = [(row, epoch) for row, epoch in allowed if row.item_id not in kept]
    connection.execute(
        update(items)
        .where(items.c.id.in_([row.item_id for row, _ in running]))
        .values(state=ItemState.RUNNING, attempts=items.c.attempts + 1)
    )
    return [_claimed(row, epoch) for row, epoch in running]


def _lock_dispatched(connection: Connection, attempt_id: str) -> list[Row[Any]]:
    subject = ("consent_id", "face_digest", "model_digest", "embedder_digest", "face_policy", "face_key")
    names = (*subject, "purpose", "campaign", "channel", "territory", "bars")
    query = (
        select(items.c.id.label("item_id"), items.c.job_id, items.c.item_key, items.c.spec, *[jobs.c[n] for n in names])
        .join(jobs)
        .where(items.c.attempt_id == attempt_id, IN_FLIGHT, items.c.state == ItemState.DISPATCHED)
        .order_by(items.c.id)
        .with_for_update(of=items)
    )
    return list(connection.execute(query))


def _claimed(row: Row[Any], epoch: int) -> ClaimedItem:
    subject = Subject(row.consent_id, row.face_digest, row.model_digest, row.embedder_digest, row.face_policy)
    spec = RenderItem.from_json(row.spec)
    use, bars = _use(row), Bars.from_json(row.bars)
    return ClaimedItem(
        row.item_id, row.job_id, subject, row.face_key, row.purpose, spec, row.item_key, epoch, use, bars
    )


def _use(row: Row[Any]) -> Use:
    return consents.job_use(row).of_item(row.spec["sku"], row.spec["prompt"])


def keep_committed(connection: Connection, wanted: ColumnElement[bool]) -> set[int]:
    """End those of the wanted items whose key is committed; return their ids.

    They are done and kept, or rejected where that picture is below their job's bars. The caller has locked them and
    has decided that their consent allows their purpose.
    """
    rejected = reject_kept(connection, wanted)
    return rejected | keep(connection, wanted & items.c.id.not_in(rejected))


def keep(connection: Connection, wanted: ColumnElement[bool]) -> set[int]:
    """End those of the wanted items whose key is committed as done and kept, whatever their bars; return their ids."""
    rows = connection.execute(
        update(items)
        .where(wanted, items.c.item_key == commits.c.item_key, commits.c.purged_at.is_(None))
        .values(
            state=ItemState.DONE,
            kept=True,
            picture_key=commits.c.picture_key,
            picture_sha256=commits.c.picture_sha256,
            error_code=None,
            error=None,
        )
        .returning(items.c.id)
    )
    return set(rows.scalars())


def end_item(connection: Connection, item_id: int, state: ItemState, code: str, sentence: str) -> None:
    """End one item with what went wrong, for machines (`code`) and for people (`sentence`)."""
    change = {"state": state, "error_code": code, "error": sentence}
    connection.execute(update(items).where(items.c.id == item_id).values(change))


def hold(connection: Connection, attempt_id: str, token: int) -> None:
    """Lock the attempt in the caller's transaction and check that the caller still has it.

    Raises: LeaseLost: the lease ran out, or the attempt ended or was given away.
    """
    query = select(
        attempts.c.state,
        attempts.c.token,
        (attempts.c.lease_until > func.clock_timestamp()).label("in_time"),
    ).where(attempts.c.id == attempt_id)
    row = connection.execute(query.with_for_update()).first()
    if row is None or row.state != "claimed" or row.token != token or not row.in_time:
        raise _lost(attempt_id)


def _lost(attempt_id: str) -> LeaseLost:
    return LeaseLost(f"attempt {attempt_id} is no longer this worker's; its items are rendered by another")


def renew(ledger: Ledger, attempt_id: str, token: int, lease_s: float, *, late: bool = False) -> None:
    """Let the lease run for another `lease_s` seconds from now. Raises: LeaseLost: too late.

    `late`: also when it ran out while the ledger was away, as long as nobody has taken the attempt since.
    """
    mine = (attempts.c.id == attempt_id) & (attempts.c.state == "claimed") & (attempts.c.token == token)
    if not late:
        mine &= attempts.c.lease_until > func.now()
    change = {"lease_until": func.now() + timedelta(seconds=lease_s)}
    with ledger.transaction() as connection:
        if not connection.execute(update(attempts).where(mine).values(change)).rowcount:
            raise _lost(attempt_id)


def fail_item(
    ledger: Ledger,
    attempt_id: str,
    token: int,
    item_id: int,
    error_code: str,
    sentence: str,
    state: ItemState = ItemState.FAILED,
) -> None:
    """End one running item as failed or rejected. An item that ended meanwhile (cancelled) stays as it ended.

    Raises: LeaseLost: the attempt is no longer the caller's.
    """
    with ledger.transaction() as connection:
        hold(connection, attempt_id, token)
        row = connection.execute(
            update(items)
            .where(items.c.id == item_id, is_running(attempt_id))
            .values(state=state, error_code=error_code, error=sentence)
            .returning(items.c.job_id, items.c.item_key)
        ).first()
        if row is not None and state is ItemState.REJECTED:
            webhooks.emit(connection, webhooks.WebhookEvent.ITEM_REJECTED, dict(row._mapping))


def is_running(attempt_id: str) -> ColumnElement[bool]:
    """Return the condition that an item is being rendered in this attempt."""
    return (items.c.attempt_id == attempt_id) & IN_FLIGHT & (items.c.state == ItemState.RUNNING)


def still_running(ledger: Ledger, attempt_id: str) -> frozenset[int]:
    """Return the ids of the attempt's items that are still to be rendered: not revoked, not cancelled."""
    with ledger.transaction() as connection:
        return frozenset(connection.execute(select(items.c.id).where(is_running(attempt_id))).scalars())


def finish_attempt(ledger: Ledger, attempt_id: str, token: int) -> None:
    """End the attempt. Items it did not end wait again; one that came back ATTEMPT_LIMIT times has failed.

    Raises: LeaseLost: the attempt is no longer the caller's.
    """
    with ledger.transaction() as connection:
        hold(connection, attempt_id, token)
        lock_items(connection, is_running(attempt_id))
        spent = items.c.attempts >= ATTEMPT_LIMIT
        sentence = f"tried {ATTEMPT_LIMIT} times without a result"
        connection.execute(
            update(items)
            .where(is_running(attempt_id))
            .values(
                state=case((spent, ItemState.FAILED), else_=ItemState.WAITING),
                error_code=case((spent, "gave_up"), else_=None),
                error=case((spent, sentence), else_=None),
                attempt_id=None,
            )
        )
        _end(connection, [attempt_id], "finished")


def _end(connection: Connection, attempt_ids: list[str], state: str) -> None:
    change = {"state": state, "ended_at": func.now()}
    connection.execute(update(attempts).where(attempts.c.id.in_(attempt_ids)).values(change))


def release(
    ledger: Ledger, *, worker_id: str | None = None, expired: bool = False, crash_limit: int, spare_s: float = 0.0
) -> list[str]:
    """Take attempts away from a worker that died (`worker_id`) or whose lease ran out (`expired`); return their ids.

    Their unfinished items wait again and from now on go alone. An item that was alone when its worker died is
    counted, and after `crash_limit` such crashes it fails as poison; its neighbours never count (promise P8).
    For `spare_s` seconds after the database server's start no lease counts as run out: nobody could renew before.
    """
    gone = []
    if worker_id is not None:
        gone.append(attempts.c.worker_id == worker_id)
    if expired:
        up_long_enough = func.pg_postmaster_start_time() <= func.now() - timedelta(seconds=spare_s)
        gone.append((attempts.c.lease_until <= func.now()) & up_long_enough)
    if not gone:
        return []
    query = select(attempts.c.id).where(OUTSTANDING, attempts.c.state == "claimed", or_(*gone)).order_by(attempts.c.id)
    with ledger.transaction() as connection:
        lost = list(connection.execute(query.with_for_update(skip_locked=True)).scalars())
        if lost:
            _end(connection, lost, "lost")
            _send_back(connection, lost, crash_limit)
        return lost


def hand_back(ledger: Ledger, worker_id: str) -> int:
    """Give back what a worker held that was told to stop and has ended; return how many attempts there were.

    Their unfinished items wait again as before: nothing crashed, so nothing is counted and they need not go alone.
    """
    held = (attempts.c.worker_id == worker_id) & OUTSTANDING & (attempts.c.state == "claimed")
    with ledger.transaction() as connection:
        ids = list(
            connection.execute(select(attempts.c.id).where(held).order_by(attempts.c.id).with_for_update()).scalars()
        )
        if ids:
            theirs = items.c.attempt_id.in_(ids) & IN_FLIGHT
            lock_items(connection, theirs)
            connection.execute(update(items).where(theirs).values(state=ItemState.WAITING, attempt_id=None))
            _end(connection, ids, "finished")
        return len(ids)


def _send_back(connection: Connection, lost: list[str], crash_limit: int) -> None:
    lock_items(connection, items.c.attempt_id.in_(lost) & IN_FLIGHT)
    crashes = items.c.crashes + case((attempts.c.solo, 1), else_=0)
    poison = crashes >= crash_limit
    sentence = f"the worker died {crash_limit} times while it rendered this item alone"
    connection.execute(
        update(items)
        .where(items.c.attempt_id == attempts.c.id, attempts.c.id.in_(lost), IN_FLIGHT)
        .values(
            crashes=crashes,
            state=case((poison, ItemState.FAILED), else_=ItemState.WAITING),
            error_code=case((poison, "poison"), else_=None),
            error=case((poison, sentence), else_=None),
            solo=True,
            attempt_id=None,
        )
    )
