"""The hash chain notices whatever is done to it, and each event is chained once (promise P5)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, delete, func, select, update

from face0_worker.contract.errors import VerificationFailed
from face0_worker.records import audit
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import audit_events, audit_outbox


def note(ledger: Ledger, count: int) -> None:
    """Write `count` events."""
    with ledger.transaction() as connection:
        for number in range(count):
            audit.append(connection, "test", {"number": number, "ratio": 0.1, "text": "肖像"})


def test_an_event_stands_if_and_only_if_its_transaction_does(ledger: Ledger) -> None:
    def note_and_fail() -> None:
        with ledger.transaction() as connection:
            audit.append(connection, "test", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        note_and_fail()
    note(ledger, 3)
    assert audit.chain(ledger) == 3
    assert audit.chain(ledger) == 0
    assert audit.verify(ledger) == 3


def test_several_chainers_chain_each_event_once(ledger: Ledger) -> None:
    note(ledger, 40)
    with ThreadPoolExecutor(4) as pool:
        moved = sum(pool.map(lambda _: audit.chain(ledger), range(8)))
    note(ledger, 1)
    assert moved + audit.chain(ledger) == 41
    assert audit.verify(ledger) == 41
    with ledger.transaction() as connection:
        assert connection.execute(select(func.count()).select_from(audit_outbox)).scalar_one() == 0


def _change(connection: Connection) -> None:
    connection.execute(update(audit_events).where(audit_events.c.seq == 2).values(body='{"number":7}'))


def _drop(connection: Connection) -> None:
    connection.execute(delete(audit_events).where(audit_events.c.seq == 2))


def _swap(connection: Connection) -> None:
    for old, new in ((2, 99), (3, 2), (99, 3)):
        connection.execute(update(audit_events).where(audit_events.c.seq == old).values(seq=new))


def _backdate(connection: Connection) -> None:
    connection.execute(update(audit_events).where(audit_events.c.seq == 2).values(at="2020-01-01T00:00:00+00:00"))


@pytest.mark.parametrize("tamper", [_change, _drop, _swap, _backdate])
def test_an_event_that_was_tampered_with_is_named(ledger: Ledger, tamper: Callable[[Connection], None]) -> None:
    note(ledger, 4)
    audit.chain(ledger)
    with ledger.transaction() as connection:
        tamper(connection)
    with pytest.raises(VerificationFailed, match="audit event 2"):
        audit.verify(ledger)
