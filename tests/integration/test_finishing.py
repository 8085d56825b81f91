"""Receipts and manifests reach the store by themselves, whatever the store or one of the jobs does meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from face0_worker import finishing
from face0_worker.contract.errors import StorageDown
from face0_worker.errands import Errand, running
from face0_worker.finishing import Finisher
from face0_worker.records import commits, jobs
from face0_worker.records.ledger import Ledger
from face0_worker.records.manifest import write_manifest
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage, open_storage
from face0_worker.service import Dispatcher
from face0_worker.settings import Settings
from tests import ledgers

pytestmark = pytest.mark.services


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "storage"))


@pytest.fixture
def finisher(ledger: Ledger, storage: Storage, tmp_path: Path) -> Finisher:
    return Finisher(ledger, storage, Signer.create(tmp_path / "keys"))


@pytest.fixture
def ended(ledger: Ledger) -> list[str]:
    """Two jobs whose pictures are all committed."""
    ledgers.give_consent(ledger)
    made = [ledgers.submit(ledger, ledgers.some_items(2, first=first)) for first in (0, 10)]
    ledgers.run_to_end(ledger, ledgers.Broker())
    return made


def state(ledger: Ledger, job_id: str) -> str:
    return str(jobs.job_status(ledger, job_id).state)


def test_a_job_that_ended_gets_its_receipts_and_its_manifest_once(
    finisher: Finisher, ledger: Ledger, storage: Storage, ended: list[str]
) -> None:
    pending = commits.pending_receipts(ledger)
    assert len(pending) == 4
    assert finisher.round() == 4 + 2
    assert [storage.get(key) for _, key, _ in pending] == [receipt for _, _, receipt in pending]
    assert [state(ledger, job_id) for job_id in ended] == ["finished", "finished"]
    assert finisher.round() == 0


def test_what_stands_under_a_receipts_key_is_replaced_by_what_was_signed(
    finisher: Finisher, ledger: Ledger, storage: Storage, ended: list[str]
) -> None:
    _, key, receipt = commits.pending_receipts(ledger)[0]
    storage.put(key, b"half of an older one", if_absent=True)
    finisher.round()
    assert storage.get(key) == receipt


def test_one_job_that_can_not_be_finished_is_named_and_keeps_no_other_from_it(
    finisher: Finisher, ledger: Ledger, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ended[0]
    real = write_manifest

    def broken(at: Ledger, into: Storage, by: Signer, job_id: str) -> str:
        if job_id == first:
            raise ValueError("a row that nobody expected")
        return real(at, into, by, job_id)

    monkeypatch.setattr(finishing, "write_manifest", broken)
    with capture_logs() as said, pytest.raises(ValueError, match="nobody expected"):
        finisher.round()
    assert [state(ledger, job_id) for job_id in ended] == ["active", "finished"]
    assert [(one["job"], one["error"]) for one in said if one["event"] == "manifest.failed"] == [(first, "ValueError")]
    monkeypatch.undo()
    finisher.round()
    assert state(ledger, first) == "finished"


def test_a_store_that_is_away_is_said_and_what_is_due_stays_due(
    finisher: Finisher, ledger: Ledger, storage: Storage, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise StorageDown("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "put", away)
        with pytest.raises(StorageDown):
            finisher.round()
    assert len(commits.pending_receipts(ledger)) == 4
    assert finisher.round() == 6


def test_a_store_that_hangs_keeps_no_batch_waiting(
    finisher: Finisher,
    ledger: Ledger,
    storage: Storage,
    ledger_url: str,
    broker_url: str,
    ended: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(home=tmp_path / "home", ledger_url=ledger_url, broker_url=broker_url)
    dispatcher = Dispatcher(settings, ledger)
    asked, answer = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        asked.set()
        answer.wait(60)

    monkeypatch.setattr(storage, "put", hang)
    try:
        with running([Errand("finishing", finisher.round)]):
            assert asked.wait(20)
            ledgers.submit(ledger, ledgers.some_items(1, first=50))
            assert dispatcher.round().did == 1
            assert commits.pending_receipts(ledger, 1)  # nobody has been answered yet
            answer.set()
    finally:
        answer.set()
