"""A person is erased out of a running installation, whatever it is doing and whoever dies meanwhile (P3, P6)."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from face0_worker.contract.job import ItemState
from face0_worker.records import consents
from face0_worker.records.storage import consent_prefixes
from face0_worker.records.tables import OUTSTANDING, attempts
from producer import leftovers, stack
from producer.leftovers import Canary
from producer.sources import Source, embed
from producer.withdraw import eraser, withdraw
from tests.faults.conftest import PATIENCE_S, House, astronaut, events

# a batch of this takes tens of seconds: nobody can wait for its end and call that stopping
LONG = 900


def _busy(house: House) -> int:
    """How many batches are outstanding."""
    with house.services.ledger.transaction() as connection:
        return int(connection.execute(select(func.count()).select_from(attempts).where(OUTSTANDING)).scalar_one())


def _wait(reached: Callable[[], bool]) -> None:
    """Wait until it is so, for at most PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _left(house: House, consent_id: str) -> int:
    return sum(house.services.storage.versions(prefix) for prefix in consent_prefixes(consent_id))


def _queued(house: House, job_id: str) -> None:
    """At once: nothing of it has been sent, or no more than the first batch."""


def _rendering(house: House, job_id: str) -> None:
    house.until(lambda status: status.counts[ItemState.RUNNING] > 0, job_id)
    # the first steps are behind it
    time.sleep(0.5)


def _some_done(house: House, job_id: str) -> None:
    house.until_some_are_done(job_id)


@pytest.mark.parametrize(("stage", "count", "steps"), [(_queued, 8, LONG), (_rendering, 8, LONG), (_some_done, 60, 12)])
def test_revoked_at_any_stage_nothing_is_committed_the_worker_is_idle_and_nothing_is_left(
    house: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_testsuite_property: Callable[[str, object], None],
    stage: Callable[[House, str], None],
    count: int,
    steps: int,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    consent_id = house.grant(f"erased-{stage.__name__.strip('_')}")
    job_id = house.submit(consent_id, count, steps=steps)
    stage(house, job_id)
    begun = time.monotonic()
    withdraw(house.services, consent_id)
    committed = house.commits(job_id)
    _wait(lambda: not _busy(house))
    record_testsuite_property(f"idle_s {stage.__name__}", round(time.monotonic() - begun, 2))
    assert house.commits(job_id) == committed < count
    assert house.status(job_id).counts[ItemState.DONE] == 0
    # the worker waits for late writers; here none is left
    assert replace(eraser(house.services), settle_s=0).run(consent_id).finished
    embedding = embed(house.services, Source(((astronaut(), 1.0),)))
    canaries = [Canary.of_bytes("photo", astronaut()), leftovers.of_embedding("embedding", embedding)]
    found = leftovers.search(house.services, consent_id, canaries)
    assert found.clean, found


def test_what_a_killed_worker_left_and_what_a_backup_brought_back_is_erased_before_the_next_one_renders(
    house: House,
) -> None:
    killed, restored = house.grant("killed"), house.grant("restored")
    for consent_id in (killed, restored):
        house.until_ended(house.submit(consent_id, 4))
    storage = house.services.storage
    saved = {key: storage.get(key) for prefix in consent_prefixes(restored) for key in storage.list(prefix)}
    assert len(saved) >= 5
    withdraw(house.services, restored)
    assert replace(eraser(house.services), settle_s=0).run(restored).finished
    worker = stack.find_worker(house.settings)
    assert worker is not None
    child = house.child()
    os.kill(worker.pid, signal.SIGKILL)
    child.wait(PATIENCE_S)
    # as a command leaves it that dies right after its first transaction
    consents.revoke(house.services.ledger, killed)
    # a store as it was before: with her pictures, without tombstone and certificate
    for key, data in saved.items():
        storage.put(key, data)
    for key in (f"tombstones/{restored}.json", f"erasures/{restored}.json"):
        storage.delete(key)
    stack.up(house.settings, lambda _: None)
    # `up` may have found the dead worker's offer still standing
    house.until_logged("child.started", after="erasure.replayed")
    first, *_ = [line["event"] for line in events(house.log(), "child.started", "erasure.replayed")]
    assert first == "erasure.replayed"
    assert (_left(house, killed), _left(house, restored)) == (0, 0)
    assert not house.services.vault.has_key(killed)
