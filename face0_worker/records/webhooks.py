"""Who is told of what: webhooks, and the durable outbox of what they have still to be told."""

from __future__ import annotations

import base64
import difflib
import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import ItemState
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import UNDELIVERED, items, webhook_deliveries, webhooks
from face0_worker.records.webhook_keys import Keys

# seconds from a try that failed to the next; the schedule that Standard Webhooks recommends, 28 hours in all
BACKOFF_S = (5, 300, 1800, 7200, 18000, 36000, 36000)
TRIES = len(BACKOFF_S) + 1
# what else waits for a receiver that has just failed is kept back so long: one try shows whether it is back
HOLD_S = 60
KEEP_DAYS = 30
SECRET_PREFIX, _SECRET_BYTES = "whsec_", 32


class WebhookEvent(StrEnum):
    """What a webhook can be told of."""

    JOB_FINISHED = "job.finished"
    JOB_FAILED = "job.failed"
    ITEM_REJECTED = "item.rejected"
    CONSENT_REVOKED = "consent.revoked"
    CATALOGUE_PUBLISHED = "catalogue.published"


TEST = "webhook.test"
_UNKNOWN = "no such webhook is known; `face0 webhook list` shows them"
_COLUMNS = (webhooks.c.id, webhooks.c.url, webhooks.c.events, webhooks.c.created_at)


@dataclass(frozen=True)
class Webhook:
    """A receiver and what it wants to be told of."""

    id: str
    url: str
    events: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True)
class Delivery:
    """One message for one webhook. `status`: what the receiver answered last; `error` is a sentence."""

    id: str
    webhook_id: str
    kind: str
    state: str
    tries: int
    status: int | None
    error: str
    created_at: datetime
    due_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class Outgoing:
    """A message that is to be sent now; `secret` is sealed."""

    id: str
    webhook_id: str
    url: str
    secret: bytes
    body: str
    tries: int


def add(ledger: Ledger, keys: Keys, url: str, events: Collection[str], hosts: Collection[str]) -> tuple[Webhook, str]:
    """Note a new webhook and return it with its secret, which is never shown again.

    `hosts`: those that may be told over plain http. Raises: BadInput: a URL or an event that can't be meant.
    """
    check_url(url, hosts)
    known = [*WebhookEvent]
    for event in events:
        if event not in known:
            near = difflib.get_close_matches(event, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(f"--event {event}: expected {', '.join(known)}{meant}")
    if not events:
        raise BadInput(f"name what it is to be told of with --event: {', '.join(known)}")
    webhook_id, secret = f"wh_{secrets.token_hex(8)}", secrets.token_bytes(_SECRET_BYTES)
    values = {"id": webhook_id, "url": url, "events": sorted(set(events)), "secret": keys.seal(webhook_id, secret)}
    with ledger.transaction() as connection:
        row = connection.execute(insert(webhooks).values(values).returning(*_COLUMNS)).one()
    return _webhook(row), SECRET_PREFIX + base64.b64encode(secret).decode()


def check_url(url: str, hosts: Collection[str]) -> None:
    """Check the form of a receiver's URL. Raises: BadInput."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadInput(f"the receiver's URL is none: {error}") from error
    if parts.scheme not in ("https", "http") or not parts.hostname or re.search(r"[\s\x00-\x1f]", url) or port == 0:
        raise BadInput("the receiver's URL is not in the form https://host/path")
    if not url.isascii():
        raise BadInput("the receiver's URL holds letters that a URL can't; write them as %XX, and the host as xn--...")
    if parts.username or parts.password:
        raise BadInput("the receiver's URL holds a user or a password; the signature proves who sends")
    if parts.fragment:
        raise BadInput("the receiver's URL ends in #...; leave that part out")
    if parts.scheme == "http" and parts.hostname not in hosts:
        raise BadInput(
            f"{parts.hostname} would be told over plain http, which others can read; use https, or name the host in "
            "the setting webhook_hosts (FACE0_WEBHOOK_HOSTS)"
        )


def list_all(ledger: Ledger) -> list[Webhook]:
    """Return every webhook, oldest first."""
    query = select(*_COLUMNS).where(webhooks.c.removed_at.is_(None)).order_by(webhooks.c.created_at, webhooks.c.id)
    with ledger.transaction() as connection:
        return [_webhook(row) for row in connection.execute(query)]


def _webhook(row: Any) -> Webhook:
    return Webhook(row.id, row.url, tuple(row.events), row.created_at)


def remove(ledger: Ledger, webhook_id: str) -> int:
    """Tell a webhook nothing more; return how many messages were still waiting. Raises: BadInput: no such webhook."""
    with ledger.transaction() as connection:
        mine = (webhooks.c.id == webhook_id) & webhooks.c.removed_at.is_(None)
        # its secret goes at once
        gone = connection.execute(update(webhooks).where(mine).values(removed_at=func.now(), secret=b"")).rowcount
        if not gone:
            raise BadInput(_UNKNOWN)
        dropped = (webhook_deliveries.c.webhook_id == webhook_id) & UNDELIVERED
        values = {"state": "dead", "error": "the webhook was removed", "ended_at": func.now()}
        return connection.execute(update(webhook_deliveries).where(dropped).values(values)).rowcount


def emit(connection: Connection, event: WebhookEvent, data: Mapping[str, Any]) -> None:
    """Let every webhook that asked for it be told, if and only if the caller's transaction stands.

    `data` holds ids, states, counts and a catalogue's name, never of a person, a photo, a prompt or a SKU (promise P7).
    """
    wanted = webhooks.c.removed_at.is_(None) & webhooks.c.events.contains([str(event)])
    _enqueue(connection, list(connection.execute(select(webhooks.c.id).where(wanted)).scalars()), event, data)


def emit_job_ended(connection: Connection, job_id: str) -> None:
    """Let webhooks be told that a job has ended, and that some of it has failed where it has."""
    query = select(items.c.state, func.count().label("number")).where(items.c.job_id == job_id)
    counts = {row.state: row.number for row in connection.execute(query.group_by(items.c.state))}
    told = {"job_id": job_id, "counts": counts}
    emit(connection, WebhookEvent.JOB_FINISHED, told)
    if counts.get(ItemState.FAILED):
        emit(connection, WebhookEvent.JOB_FAILED, told)


def send_test(ledger: Ledger, webhook_id: str) -> str:
    """Let a webhook be told that this is a test; return the message's id. Raises: BadInput: no such webhook."""
    with ledger.transaction() as connection:
        mine = (webhooks.c.id == webhook_id) & webhooks.c.removed_at.is_(None)
        if connection.execute(select(webhooks.c.id).where(mine)).first() is None:
            raise BadInput(_UNKNOWN)
        return _enqueue(connection, [webhook_id], TEST, {"webhook_id": webhook_id})[0]


def _enqueue(connection: Connection, webhook_ids: Sequence[str], kind: str, data: Mapping[str, Any]) -> list[str]:
    if not webhook_ids:
        return []
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    body = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": dict(data)}, separators=(",", ":"))
    rows = [
        {"id": f"msg_{secrets.token_hex(12)}", "webhook_id": webhook_id, "kind": str(kind), "body": body}
        for webhook_id in webhook_ids
    ]
    connection.execute(insert(webhook_deliveries), rows)
    return [str(row["id"]) for row in rows]


def take(ledger: Ledger, limit: int, lease_s: float) -> list[Outgoing]:
    """Take at most `limit` messages that are due, one for each webhook; unless noted, each is due again later."""
    place = func.row_number().over(
        partition_by=webhook_deliveries.c.webhook_id, order_by=(webhook_deliveries.c.due_at, webhook_deliveries.c.id)
    )
    due = (webhook_deliveries.c.due_at <= func.now()) & UNDELIVERED
    ranked = select(webhook_deliveries.c.id, place.label("place")).where(due).subquery()
    first = select(ranked.c.id).where(ranked.c.place == 1)
    locked = select(webhook_deliveries.c.id).where(webhook_deliveries.c.id.in_(first), due).limit(limit)
    with ledger.transaction() as connection:
        ids = list(connection.execute(locked.with_for_update(skip_locked=True)).scalars())
        if not ids:
            return []
        taken = {"tries": webhook_deliveries.c.tries + 1, "due_at": func.now() + timedelta(seconds=lease_s)}
        connection.execute(update(webhook_deliveries).where(webhook_deliveries.c.id.in_(ids)).values(taken))
        query = select(
            webhook_deliveries.c.id,
            webhook_deliveries.c.webhook_id,
            webhooks.c.url,
            webhooks.c.secret,
            webhook_deliveries.c.body,
            webhook_deliveries.c.tries,
        ).join(webhooks)
        rows = connection.execute(query.where(webhook_deliveries.c.id.in_(ids)))
        return [Outgoing(**{**row._mapping, "secret": bytes(row.secret)}) for row in rows]


def note_delivered(ledger: Ledger, message_id: str, status: int) -> None:
    """Note that the receiver has it."""
    values = {"state": "delivered", "status": status, "error": "", "ended_at": func.now()}
    with ledger.transaction() as connection:
        mine = (webhook_deliveries.c.id == message_id) & UNDELIVERED
        connection.execute(update(webhook_deliveries).where(mine).values(values))


def note_failed(ledger: Ledger, sent: Outgoing, status: int | None, sentence: str, *, final: bool = False) -> bool:
    """Note that a try failed and when the next one is; return whether it was the last (`final`, or too many).

    What else waits for this webhook is held back for a moment.
    """
    dead = final or sent.tries >= TRIES
    wait_s = 0 if dead else BACKOFF_S[sent.tries - 1]
    values: dict[str, Any] = {"status": status, "error": sentence, "due_at": func.now() + timedelta(seconds=wait_s)}
    if dead:
        values |= {"state": "dead", "ended_at": func.now()}
    held = func.now() + timedelta(seconds=min(HOLD_S, BACKOFF_S[min(sent.tries, len(BACKOFF_S)) - 1]))
    mine = webhook_deliveries.c.id == sent.id
    theirs = and_(webhook_deliveries.c.webhook_id == sent.webhook_id, webhook_deliveries.c.due_at < held, ~mine)
    with ledger.transaction() as connection:
        connection.execute(update(webhook_deliveries).where(mine, UNDELIVERED).values(values))
        connection.execute(update(webhook_deliveries).where(theirs, UNDELIVERED).values(due_at=held))
    return dead


def deliveries(
    ledger: Ledger, *, webhook_id: str = "", state: str = "", message_id: str = "", limit: int = 100
) -> list[Delivery]:
    """Return the newest messages, newest first; of one webhook, or in one state."""
    names = ("id", "webhook_id", "kind", "state", "tries", "status", "error", "created_at", "due_at", "ended_at")
    query = select(*[webhook_deliveries.c[name] for name in names])
    if webhook_id:
        query = query.where(webhook_deliveries.c.webhook_id == webhook_id)
    if state:
        query = query.where(webhook_deliveries.c.state == state)
    if message_id:
        query = query.where(webhook_deliveries.c.id == message_id)
    query = query.order_by(webhook_deliveries.c.created_at.desc(), webhook_deliveries.c.id).limit(limit)
    with ledger.transaction() as connection:
        return [Delivery(**row._mapping) for row in connection.execute(query)]


def retry(ledger: Ledger, message_id: str) -> None:
    """Let a message that was given up be tried again, from the first pause on. Raises: BadInput: it was not."""
    again = {"state": "waiting", "tries": 0, "due_at": func.now(), "ended_at": None}
    live = select(webhooks.c.id).where(webhooks.c.removed_at.is_(None))
    dead = (webhook_deliveries.c.id == message_id) & (webhook_deliveries.c.state == "dead")
    with ledger.transaction() as connection:
        change = update(webhook_deliveries).where(dead, webhook_deliveries.c.webhook_id.in_(live)).values(again)
        if not connection.execute(change).rowcount:
            raise BadInput(
                "no message of this id was given up, or its webhook was removed; see `face0 webhook deliveries`"
            )


def forget(ledger: Ledger, days: int = KEEP_DAYS) -> int:
    """Remove messages that ended more than `days` ago; return how many."""
    old = webhook_deliveries.c.ended_at < func.now() - timedelta(days=days)
    with ledger.transaction() as connection:
        return connection.execute(delete(webhook_deliveries).where(old)).rowcount
