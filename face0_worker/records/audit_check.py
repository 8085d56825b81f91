"""Check the audit log as a stranger would: the chain, its signed checkpoints, and that it tells every commit (P5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, func, select, text

from face0_worker.contract.errors import VerificationFailed
from face0_worker.records import audit, checkpoints
from face0_worker.records.checkpoints import Checkpoint
from face0_worker.records.ledger import Ledger
from face0_worker.records.storage import Storage
from face0_worker.records.tables import audit_outbox

_HOW_MANY = 3  # examples in a sentence


@dataclass(frozen=True)
class Checked:
    """What was found to be right. `waiting`: events that are not chained yet; `lost`: checkpoints whose events a
    restored backup took away, as the log itself tells.
    """

    events: int
    waiting: int
    checkpoints: int
    signed: int
    commits: int
    lost: tuple[int, ...]


def check(ledger: Ledger, storage: Storage, public_key: Ed25519PublicKey) -> Checked:
    """Check everything, in one snapshot of the ledger; `signed` is the last event that a checkpoint vouches for.

    Raises: VerificationFailed: the message names the first event, checkpoint or commit that is wrong.
    """
    # read first: a checkpoint that is made meanwhile is of no concern, one that is there needs its event
    signed = list(checkpoints.read_all(storage, public_key))
    with ledger.transaction() as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        events, lost = _walk(connection, signed)
        waiting = connection.execute(select(func.count()).select_from(audit_outbox)).scalar_one()
        commits = _compare_commits(connection)
    held = [one for one in signed if one.number not in lost]
    return Checked(events, waiting, len(signed), held[-1].seq if held else 0, commits, tuple(sorted(lost)))


def _walk(connection: Connection, signed: Sequence[Checkpoint]) -> tuple[int, set[int]]:
    vouched: dict[int, list[Checkpoint]] = {}
    for one in signed:
        vouched.setdefault(one.seq, []).append(one)
    events, wrong, lost = 0, dict[int, str](), set[int]()
    for row in audit.walk(connection):
        events = row.seq
        for one in vouched.pop(row.seq, ()):
            if one.hash != row.hash:
                wrong[one.number] = (
                    f"audit event {row.seq} ({row.kind}) is not the one that checkpoint {one.number} signed: "
                    "it, or one before it, was rewritten"
                )
        if row.kind == "audit.restored":
            lost.update(json.loads(row.body)["checkpoints"])
    for ones in vouched.values():
        for one in ones:
            wrong[one.number] = (
                f"the audit log ends with event {events}, but checkpoint {one.number} signed event {one.seq}: "
                f"events {events + 1} to {one.seq} were cut off"
            )
    bad = sorted(set(wrong) - lost)
    if bad:
        raise VerificationFailed(wrong[bad[0]])
    return events, lost


_TOLD = """
    told AS (
        SELECT body::jsonb ->> 'item_key' AS item_key, body::jsonb ->> 'picture_sha256' AS sha256
        FROM audit_events WHERE kind = 'picture.committed'
        UNION ALL
        SELECT body ->> 'item_key', body ->> 'picture_sha256' FROM audit_outbox WHERE kind = 'picture.committed')
"""
_UNTOLD = text(f"""
    WITH {_TOLD}, counted AS (SELECT item_key, sha256, count(*) AS number FROM told GROUP BY 1, 2)
    SELECT commits.item_key, coalesce(counted.number, 0) AS number FROM commits LEFT JOIN counted
        ON counted.item_key = commits.item_key AND counted.sha256 = commits.picture_sha256
    WHERE coalesce(counted.number, 0) <> 1 ORDER BY commits.committed_at LIMIT {_HOW_MANY}
""")
_INVENTED = text(f"""
    WITH {_TOLD}
    SELECT told.item_key FROM told LEFT JOIN commits
        ON commits.item_key = told.item_key AND commits.picture_sha256 = told.sha256
    WHERE commits.item_key IS NULL ORDER BY told.item_key LIMIT {_HOW_MANY}
""")


def _compare_commits(connection: Connection) -> int:
    """Return how many commits there are, each with exactly one event and the reverse."""
    untold = connection.execute(_UNTOLD).all()
    if untold:
        raise VerificationFailed(
            f"commits without exactly one audit event: {', '.join(f'{row.item_key} ({row.number})' for row in untold)}"
        )
    invented = connection.execute(_INVENTED).scalars().all()
    if invented:
        raise VerificationFailed(f"audit events of pictures that were never committed: {', '.join(invented)}")
    return int(connection.execute(text("SELECT count(*) FROM commits")).scalar_one())


def export(ledger: Ledger, *, since: str = "", until: str = "", consent_id: str = "") -> Iterator[dict[str, Any]]:
    """Yield the chained events in order as plain values; `since` and `until` are ISO 8601 UTC times, [since, until).

    Events hold ids, states and counts, no name, photo or embedding. The chain is checked on the way.
    Raises: VerificationFailed: an event is missing or was changed.
    """
    with ledger.transaction() as connection:
        for row in audit.walk(connection):
            body = json.loads(row.body)
            if (since and row.at < since) or (until and row.at >= until):
                continue
            if consent_id and body.get("consent_id") != consent_id:
                continue
            yield {"seq": row.seq, "at": row.at, "kind": row.kind, "body": body, "hash": row.hash}
