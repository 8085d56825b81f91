"""Several workers on one ledger, each with its own model, and what happens when one is told to stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from face0_worker.contract.job import ItemState
from face0_worker.faces.packs import digest_folder, load_pack
from face0_worker.settings import Settings
from producer.services import Services
from tests.fakes import write_tiny_model
from tests.faults.conftest import PATIENCE_S, House, Worker, environment, events, prepared

# steps of a batch that is slow enough to be interrupted, and those of one that a worker finishes in its grace
SLOW, BRISK = 900, 150
# beyond the grace: to notice, to end the child and to tell the ledger; generous, for a busy machine
MARGIN_S = 25.0

Start = Callable[..., Worker]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, server_urls: dict[str, str]) -> dict[str, Any]:
    """What workers on several machines have in common: services by URL, storage, signing key and vault."""
    folder = tmp_path_factory.mktemp("shared")
    return {**server_urls, "storage": str(folder / "pictures"), "keys": folder / "keys", "vault": folder / "vault"}


@pytest.fixture(scope="module")
def second_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model than `tiny_model`."""
    folder = tmp_path_factory.mktemp("model") / "second"
    return write_tiny_model(folder, seed=1, name="second", embedder_digest=load_pack(None).digest)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, shared: dict[str, Any]) -> Settings:
    """The first machine: its home holds neither keys nor vault."""
    return prepared(tmp_path_factory.mktemp("machine-1"), tiny_model, batch=2, **shared)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, second_model: Path, shared: dict[str, Any]) -> Settings:
    """The second machine, with the second model."""
    return prepared(tmp_path_factory.mktemp("machine-2"), second_model, batch=2, **shared)


@pytest.fixture(scope="module")
def house(first: Settings) -> Iterator[House]:
    """The submitting side, on the first machine."""
    with Services(first) as services:
        yield House(first, services)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start `face0-worker run`; whatever the tests leave running is ended. Starting costs seconds: see `ready`."""
    begun: list[Worker] = []
    logs = tmp_path_factory.mktemp("logs")

    def go(settings: Settings, **changed: object) -> Worker:
        begun.append(Worker(settings.model_copy(update=changed), logs / f"worker-{len(begun)}.log"))
        return begun[-1]

    yield go
    for worker in begun:
        worker.end()


@pytest.fixture(scope="module")
def hasty(second: Settings, start: Start) -> Worker:
    """A worker with the second model that has a second to stop."""
    return start(second, grace_s=1.0)


@pytest.fixture(scope="module")
def calm(first: Settings, hasty: Worker, start: Start) -> Worker:
    """A worker with the first model, started beside the other one."""
    return start(first)


@pytest.fixture(scope="module")
def successor(second: Settings, hasty: Worker, start: Start) -> Worker:
    """The worker with the second model that comes after the hasty one."""
    hasty.process.send_signal(signal.SIGTERM)
    assert hasty.process.wait(PATIENCE_S) == 0
    return start(second)


def _status(settings: Settings, *words: str) -> tuple[str, dict[str, Any]]:
    """What `face0 status` prints, and the same with --json."""
    said = []
    for more in ((), ("--json",)):
        command = [sys.executable, "-P", "-m", "producer.cli", "status", *words, *more]
        done = subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=True)
        said.append(done.stdout)
    return said[0], json.loads(said[1])


def _until_running(house: House, job_id: str) -> None:
    house.until(lambda status: status.counts[ItemState.RUNNING] > 0, job_id)
    time.sleep(0.3)  # into the batch


def test_a_batch_that_is_not_finished_within_the_grace_goes_back_and_is_nobodys_crash(
    house: House, hasty: Worker, calm: Worker
) -> None:
    hasty.until_logged("child.ready")
    _goes_back(house, hasty, "second", within_s=1.0 + MARGIN_S, signals=[signal.SIGTERM])


def test_items_wait_for_a_worker_that_has_their_model_and_status_says_so(
    house: House,
    first: Settings,
    second: Settings,
    calm: Worker,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    calm.until_logged("child.ready")
    hasty: Worker = request.getfixturevalue("hasty")
    if hasty.process.poll() is None:
        hasty.until_logged("child.ready")
        hasty.process.send_signal(signal.SIGTERM)
        hasty.process.wait(PATIENCE_S)
    digest = digest_folder(second.model or Path())
    waiting = house.submit(house.grant("c-waiting"), 4, model="second")
    done = house.submit(house.grant("c-served"), 4, model="tiny")
    house.all_done_once(done, tmp_path / "first")
    text, found = _status(first, waiting)
    assert f"waits for a worker with model second (digest {digest[:12]})" in text
    assert found["counts"]["waiting"] == 4
    assert "waits for a worker with model second" in found["note"]
    successor: Worker = request.getfixturevalue("successor")
    house.all_done_once(waiting, tmp_path / "second")
    # each rendered its own, although both dispatch for both
    assert sum(line["items"] for line in events(calm.log, "batch.rendered")) == 4
    assert sum(line["items"] for line in events(successor.log, "batch.rendered")) == 4
    assert "waits for" not in _status(first, waiting)[0]


def test_a_worker_told_to_stop_finishes_its_batch_and_takes_no_other(house: House, calm: Worker) -> None:
    calm.until_logged("child.ready")
    job_id = house.submit(house.grant("finishes"), 8, steps=BRISK, model="tiny")
    _until_running(house, job_id)
    calm.process.send_signal(signal.SIGTERM)
    assert calm.process.wait(house.settings.grace_s + PATIENCE_S) == 0
    counts = house.status(job_id).counts
    # the batch on the device, and perhaps one that was being written
    assert counts[ItemState.DONE] in (2, 4)
    assert counts[ItemState.RUNNING] == counts[ItemState.FAILED] == 0
    assert house.blamed(job_id) == 0
    assert events(calm.log, "batch.handed_back", "child.failed", "child.died") == []
    house.cancel(job_id)


def test_a_worker_told_twice_hands_its_batch_back_at_once(house: House, successor: Worker) -> None:
    successor.until_logged("child.ready")
    assert house.settings.grace_s > 2 * MARGIN_S
    _goes_back(house, successor, "second", within_s=MARGIN_S, signals=[signal.SIGINT, signal.SIGINT])


def _goes_back(house: House, worker: Worker, model: str, *, within_s: float, signals: list[signal.Signals]) -> None:
    job_id = house.submit(house.grant(f"back-{len(signals)}"), 2, steps=SLOW, model=model)
    _until_running(house, job_id)
    begun = time.monotonic()
    for number in signals:
        worker.process.send_signal(number)
        time.sleep(0.5)  # equal signals that come together are one
    assert worker.process.wait(PATIENCE_S) == 0
    assert time.monotonic() - begun < within_s
    counts = house.status(job_id).counts
    assert (counts[ItemState.WAITING], counts[ItemState.DONE]) == (2, 0)
    assert house.blamed(job_id) == 0
    (handed,) = events(worker.log, "batch.handed_back")
    assert handed["batches"] == 1
    assert events(worker.log, "child.failed", "child.died") == []
    assert not house.status(job_id).model_live
    house.cancel(job_id)
