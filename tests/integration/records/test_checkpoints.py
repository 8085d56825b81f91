"""Signed chain heads outside the ledger: whoever rewrites or shortens the audit log is found out (promise P5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from face0_worker.contract.errors import VerificationFailed
from face0_worker.records import audit, audit_check, checkpoints
from face0_worker.records.audit_check import Checked
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage, open_storage
from face0_worker.records.tables import audit_events, audit_outbox, commits
from face0_worker.records.tables import checkpoints as checkpoints_table
from tests import ledgers
from tests.ledgers import Broker


@dataclass
class Log:
    """An audit log with its checkpoints."""

    ledger: Ledger
    storage: Storage
    signer: Signer

    def note(self, count: int) -> None:
        """Write and chain so many events."""
        with self.ledger.transaction() as connection:
            for number in range(count):
                audit.append(connection, "test", {"number": number, "consent_id": f"c{number % 2}"})
        audit.chain(self.ledger)

    def sign(self) -> None:
        """Sign the head and publish it."""
        assert checkpoints.make(self.ledger, self.signer, every_events=1) is not None
        assert checkpoints.publish(self.ledger, self.storage) == 1

    def check(self) -> Checked:
        """Check everything."""
        return audit_check.check(self.ledger, self.storage, self.signer.public_key)


@pytest.fixture
def log(ledger: Ledger, tmp_path: Path) -> Log:
    return Log(ledger, open_storage(str(tmp_path / "storage")), Signer.create(tmp_path / "keys"))


def test_a_chain_with_its_checkpoints_is_right_and_says_how_much_is_vouched_for(log: Log) -> None:
    log.note(3)
    log.sign()
    log.note(2)
    log.sign()
    log.note(1)
    with log.ledger.transaction() as connection:
        audit.append(connection, "test", {})
    assert log.check() == Checked(events=6, waiting=1, checkpoints=2, signed=5, commits=0, lost=())


def test_a_head_is_signed_after_so_many_events_or_so_much_time_and_only_when_there_is_news(log: Log) -> None:
    assert checkpoints.make(log.ledger, log.signer) is None
    log.note(1)
    assert checkpoints.make(log.ledger, log.signer) is not None
    assert checkpoints.make(log.ledger, log.signer, every_events=1, every_s=0) is None
    log.note(2)
    assert checkpoints.make(log.ledger, log.signer, every_events=3) is None
    second = checkpoints.make(log.ledger, log.signer, every_events=3, every_s=0)
    assert second is not None
    assert (second.number, second.seq) == (2, 3)


def _rechain(connection: Connection, start: int = 1) -> None:
    """Compute every hash from `start` anew, as a forger with write access would."""
    rows = connection.execute(select(audit_events).order_by(audit_events.c.seq)).all()
    previous = audit.GENESIS
    for row in rows:
        digest = audit.event_hash(row.seq, row.kind, row.at, row.body, previous)
        change = update(audit_events).where(audit_events.c.seq == row.seq).values(previous=previous, hash=digest)
        connection.execute(change)
        previous = digest


def _rewrite(connection: Connection) -> None:
    connection.execute(update(audit_events).where(audit_events.c.seq == 2).values(body='{"number":7}'))
    _rechain(connection)


def _cut_off(connection: Connection) -> None:
    connection.execute(delete(audit_events).where(audit_events.c.seq >= 4))
    _rechain(connection)


def _insert(connection: Connection) -> None:
    for seq in (4, 3, 2):
        connection.execute(update(audit_events).where(audit_events.c.seq == seq).values(seq=seq + 1))
    row = {"seq": 2, "outbox_id": 99, "kind": "test", "body": "{}", "at": "2026-01-01", "previous": "", "hash": ""}
    connection.execute(insert(audit_events).values(row))
    _rechain(connection)


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (_rewrite, r"event 4 \(test\) is not the one that checkpoint 1 signed"),
        (_cut_off, "ends with event 3, but checkpoint 1 signed event 4: events 4 to 4 were cut off"),
        (_insert, r"event 4 \(test\) is not the one that checkpoint 1 signed"),
    ],
)
def test_a_forger_who_computes_every_hash_anew_is_found_by_the_checkpoint(
    log: Log, forge: Callable[[Connection], None], says: str
) -> None:
    log.note(4)
    log.sign()
    with log.ledger.transaction() as connection:
        forge(connection)
    assert audit.verify(log.ledger) >= 3
    with pytest.raises(VerificationFailed, match=says):
        log.check()


def test_checkpoints_that_were_changed_or_taken_away_are_named(log: Log) -> None:
    for _ in range(3):
        log.note(1)
        log.sign()
    first, second, _ = sorted(log.storage.list("audit/checkpoints/"))
    whole = log.storage.get(second)
    log.storage.put(second, whole.replace(b"sig", b"gis"), if_absent=False)
    with pytest.raises(VerificationFailed, match="audit checkpoint 2"):
        log.check()
    log.storage.put(second, whole, if_absent=False)
    log.storage.delete(first)
    with pytest.raises(VerificationFailed, match="audit checkpoint 1 is missing"):
        log.check()


def test_two_ledgers_can_not_both_sign_into_one_storage(log: Log, tmp_path: Path) -> None:
    log.note(2)
    log.sign()
    with log.ledger.transaction() as connection:
        connection.execute(delete(audit_events))
        connection.execute(delete(checkpoints_table))
    log.note(1)
    assert checkpoints.make(log.ledger, log.signer) is not None
    with pytest.raises(VerificationFailed, match="checkpoint 1 in storage is of another chain"):
        checkpoints.publish(log.ledger, log.storage)


def test_after_a_restored_backup_the_loss_is_noted_for_ever_and_the_chain_goes_on(log: Log) -> None:
    log.note(2)
    log.sign()
    log.note(2)
    log.sign()
    with log.ledger.transaction() as connection:  # the backup knew two events and one checkpoint
        connection.execute(delete(audit_events).where(audit_events.c.seq > 2))
        connection.execute(delete(checkpoints_table).where(checkpoints_table.c.number > 1))
    log.note(1)
    with pytest.raises(VerificationFailed, match="checkpoint 2 signed event 4"):
        log.check()
    assert checkpoints.accept_restore(log.ledger, log.storage, log.signer.public_key) == 1
    audit.chain(log.ledger)
    log.sign()
    assert log.check() == Checked(events=4, waiting=0, checkpoints=3, signed=4, commits=0, lost=(2,))
    assert checkpoints.accept_restore(log.ledger, log.storage, log.signer.public_key) == 0


def test_each_commit_has_exactly_one_event_and_the_reverse(log: Log) -> None:
    ledgers.give_consent(log.ledger)
    ledgers.submit(log.ledger, ledgers.some_items(3))
    ledgers.run_to_end(log.ledger, Broker())
    assert log.check().commits == 3
    audit.chain(log.ledger)
    assert log.check().commits == 3
    with log.ledger.transaction() as connection:
        first = connection.execute(select(commits.c.item_key).order_by(commits.c.committed_at)).scalars().first()
        said = connection.execute(select(audit_events.c.body).where(audit_events.c.kind == "picture.committed"))
        (body, *_) = [one for one in said.scalars() if str(first) in one]
        connection.exec_driver_sql(
            "INSERT INTO audit_outbox (kind, body) VALUES ('picture.committed', %s::jsonb)", (body,)
        )
    with pytest.raises(VerificationFailed, match=rf"without exactly one audit event: {first} \(2\)"):
        log.check()
    with log.ledger.transaction() as connection:
        connection.execute(delete(audit_outbox))
        connection.execute(delete(commits).where(commits.c.item_key == first))
    with pytest.raises(VerificationFailed, match=f"never committed: {first}"):
        log.check()


def test_an_export_is_checked_on_the_way_and_can_be_narrowed(log: Log) -> None:
    log.note(4)
    everything = list(audit_check.export(log.ledger))
    assert [event["seq"] for event in everything] == [1, 2, 3, 4]
    assert [event["seq"] for event in audit_check.export(log.ledger, consent_id="c1")] == [2, 4]
    middle = everything[2]["at"]
    assert [event["seq"] for event in audit_check.export(log.ledger, since=middle)] == [3, 4]
    assert [event["seq"] for event in audit_check.export(log.ledger, until=middle)] == [1, 2]
    with log.ledger.transaction() as connection:
        connection.execute(update(audit_events).where(audit_events.c.seq == 3).values(body="{}"))
    with pytest.raises(VerificationFailed, match="audit event 3"):
        list(audit_check.export(log.ledger, consent_id="c1"))
