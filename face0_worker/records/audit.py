"""The audit log: an outbox row in the transaction that acts, moved by one chainer into a hash chain.

Each event's hash is sha256 over the canonical JSON of its sequence number, kind, time, body and the hash before
it, so no event can be changed, dropped or moved without every later hash being wrong (promise P5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select

from face0_worker.contract.errors import VerificationFailed
from face0_worker.contract.job import canonical_json
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import CHAIN_LOCK, audit_events, audit_outbox

GENESIS = "0" * 64
CHUNK = 1000


def append(connection: Connection, kind: str, body: dict[str, Any]) -> None:
    """Note an event in the caller's transaction: it stands if and only if that transaction does.

    `body` holds ids, states and counts only, never a name, photo or embedding (promise P7).
    """
    connection.execute(insert(audit_outbox).values(kind=kind, body=body))


def chain(ledger: Ledger) -> int:
    """Move waiting outbox rows into the chain, at most a thousand; return how many.

    One chainer works at a time (advisory lock); a second returns 0 at once.
    """
    with ledger.transaction() as connection:
        if not connection.execute(select(func.pg_try_advisory_xact_lock(CHAIN_LOCK))).scalar_one():
            return 0
        waiting = connection.execute(select(audit_outbox).order_by(audit_outbox.c.id).limit(CHUNK)).all()
        if not waiting:
            return 0
        last = head(connection)
        seq, previous = (last.seq, last.hash) if last else (0, GENESIS)
        events = []
        for row in waiting:
            seq += 1
            body = canonical_json(row.body).decode()
            at = row.at.astimezone(UTC).isoformat()
            digest = event_hash(seq, row.kind, at, body, previous)
            events.append(
                {"seq": seq, "outbox_id": row.id, "kind": row.kind, "body": body, "at": at}
                | {"previous": previous, "hash": digest}
            )
            previous = digest
        connection.execute(insert(audit_events), events)
        connection.execute(delete(audit_outbox).where(audit_outbox.c.id.in_([row.id for row in waiting])))
        return len(events)


def event_hash(seq: int, kind: str, at: str, body: str, previous: str) -> str:
    """Return the sha256 hex of one event; `body` is canonical JSON text, `at` an ISO 8601 UTC time."""
    return hashlib.sha256(canonical_json([seq, kind, at, body, previous])).hexdigest()


def head(connection: Connection) -> Row[Any] | None:
    """Return the newest event's `seq` and `hash`, None where nothing is chained yet."""
    newest = select(audit_events).order_by(audit_events.c.seq.desc()).limit(1)
    return connection.execute(newest).first()


def walk(connection: Connection) -> Iterator[Row[Any]]:
    """Yield every event of the chain in order, each checked against the one before.

    Raises: VerificationFailed: an event is missing, was changed or moved; the message names the first.
    """
    previous, expected = GENESIS, 1
    # so many rows are in memory at a time; the option is the statement's own, not the connection's
    query = select(audit_events).order_by(audit_events.c.seq).execution_options(yield_per=CHUNK)
    for row in connection.execute(query):
        if row.seq != expected:
            raise VerificationFailed(f"audit event {expected} is missing")
        if row.previous != previous or row.hash != event_hash(row.seq, row.kind, row.at, row.body, row.previous):
            raise VerificationFailed(f"audit event {row.seq} ({row.kind}) was changed after it was written")
        yield row
        previous, expected = row.hash, expected + 1


def verify(ledger: Ledger) -> int:
    """Walk the whole chain and return its number of events. Raises: VerificationFailed: as `walk`."""
    with ledger.transaction() as connection:
        return sum(1 for _ in walk(connection))
