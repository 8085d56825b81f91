"""Signed heads of the audit chain, kept in storage: what the ledger alone could rewrite, it can't rewrite there.

A checkpoint says: event number `seq` has this hash. Its bytes depend on the chain alone, so that two chainers make the
same ones, and it is written only where none stands: a ledger whose chain went another way meets the other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, Row, func, insert, select, update

from face0_worker.contract.errors import VerificationFailed
from face0_worker.contract.receipt import STATEMENT_TYPE
from face0_worker.records import audit
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer, verify_statement
from face0_worker.records.storage import Storage
from face0_worker.records.tables import CHAIN_LOCK, audit_events, checkpoints

CHECKPOINT_TYPE = "https://face0.dev/audit-checkpoint/v1"
PREFIX = "audit/checkpoints/"
EVERY_EVENTS = 1000
EVERY_S = 300.0
_AT_ONCE = 20


@dataclass(frozen=True)
class Checkpoint:
    """A signed head: event `seq` of the chain has this hash. `previous`: the hash that the checkpoint before names."""

    number: int
    seq: int
    hash: str
    previous: str


def checkpoint_key(number: int) -> str:
    """Return where a checkpoint stands."""
    return f"{PREFIX}{number:09d}.json"


def make(
    ledger: Ledger, signer: Signer, *, every_events: int = EVERY_EVENTS, every_s: float = EVERY_S
) -> Checkpoint | None:
    """Sign the chain's head when that is due: so many events, or a last checkpoint so old, and anything new at all.

    It stands in the ledger then; `publish` puts it into storage. None: not due, or another chainer is at work.
    """
    with ledger.transaction() as connection:
        if not connection.execute(select(func.pg_try_advisory_xact_lock(CHAIN_LOCK))).scalar_one():
            return None
        head = audit.head(connection)
        last = connection.execute(select(checkpoints).order_by(checkpoints.c.number.desc()).limit(1)).first()
        if head is None or not _due(connection, head.seq, last, every_events, every_s):
            return None
        made = Checkpoint(last.number + 1 if last else 1, head.seq, head.hash, last.hash if last else audit.GENESIS)
        envelope = signer.sign_statement(_statement(made))
        row = {"number": made.number, "seq": made.seq, "hash": made.hash, "envelope": envelope}
        connection.execute(insert(checkpoints).values(row))
        return made


def _due(connection: Connection, seq: int, last: Row[Any] | None, every_events: int, every_s: float) -> bool:
    if last is None:
        return True
    if seq <= last.seq:
        return False
    old = select(last.made_at + timedelta(seconds=every_s) <= func.now())
    return seq - last.seq >= every_events or bool(connection.execute(old).scalar_one())


def publish(ledger: Ledger, storage: Storage) -> int:
    """Put checkpoints into storage that do not stand there yet, oldest first; return how many.

    Raises: VerificationFailed: another chain's checkpoint stands there; the message says what to do. StorageDown.
    """
    query = select(checkpoints.c.number, checkpoints.c.envelope).where(checkpoints.c.stored_at.is_(None))
    with ledger.transaction() as connection:
        waiting = connection.execute(query.order_by(checkpoints.c.number).limit(_AT_ONCE)).all()
    for row in waiting:
        if not storage.put(checkpoint_key(row.number), bytes(row.envelope)):
            raise VerificationFailed(
                f"audit checkpoint {row.number} in storage is of another chain: the ledger was restored from a backup, "
                "or two ledgers write to one storage; run `face0 audit verify`, docs/audit.md says how to go on"
            )
        with ledger.transaction() as connection:
            mine = update(checkpoints).where(checkpoints.c.number == row.number)
            connection.execute(mine.values(stored_at=func.now()))
    return len(waiting)


def read_all(storage: Storage, public_key: Ed25519PublicKey) -> Iterator[Checkpoint]:
    """Yield the checkpoints that stand in storage, by number, each with its signature checked.

    Raises: VerificationFailed: one is not as it was signed, or one is missing between others.
    """
    keys = sorted(key for key in storage.list(PREFIX) if key.endswith(".json"))
    for expected, key in enumerate(keys, start=1):
        if key != checkpoint_key(expected):
            raise VerificationFailed(f"audit checkpoint {expected} is missing from storage")
        statement = verify_statement(storage.get(key), public_key, f"audit checkpoint {expected}")
        said = statement.get("predicate", {})
        if statement.get("predicateType") != CHECKPOINT_TYPE or said.get("number") != expected:
            raise VerificationFailed(f"audit checkpoint {expected} is signed, but for something else")
        yield Checkpoint(expected, int(said["seq"]), str(said["hash"]), str(said["previous"]))


def _statement(made: Checkpoint) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": f"audit event {made.seq}", "digest": {"sha256": made.hash}}],
        "predicateType": CHECKPOINT_TYPE,
        "predicate": {"number": made.number, "seq": made.seq, "hash": made.hash, "previous": made.previous},
    }


def accept_restore(ledger: Ledger, storage: Storage, public_key: Ed25519PublicKey) -> int:
    """Note that the ledger was restored from a backup and its newest events are lost; return how many are known lost.

    The chain goes on with an event that names the checkpoints it can't answer any more, and numbers go on after them,
    so that the gap stays visible for ever and nothing else hides behind it. Raises: VerificationFailed.
    """
    signed = list(read_all(storage, public_key))
    with ledger.transaction() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(CHAIN_LOCK)))
        head = audit.head(connection)
        seq = head.seq if head else 0
        lost = [one for one in signed if not _holds(connection, one)]
        if not lost:
            return 0
        facts = {"checkpoints": [one.number for one in lost], "events": max(one.seq for one in lost) - seq, "kept": seq}
        audit.append(connection, "audit.restored", facts)
        connection.execute(checkpoints.delete().where(checkpoints.c.number.in_([one.number for one in lost])))
        connection.execute(checkpoints.delete().where(checkpoints.c.stored_at.is_(None)))
        last = lost[-1]
        # the next number follows the last one in storage; this row is signed and stands there already
        envelope = storage.get(checkpoint_key(last.number))
        row = {"number": last.number, "seq": min(seq, last.seq), "hash": last.hash, "envelope": envelope}
        connection.execute(insert(checkpoints).values(**row, stored_at=func.now()))
        return max(0, max(one.seq for one in lost) - seq)


def _holds(connection: Connection, one: Checkpoint) -> bool:
    found = connection.execute(select(audit_events.c.hash).where(audit_events.c.seq == one.seq)).scalar()
    return found == one.hash
