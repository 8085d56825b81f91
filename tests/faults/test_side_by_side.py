"""Several workers and commands on one home: nobody stops the services under another's feet, and the last one does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from face0_worker import embedded
from face0_worker.settings import Settings
from producer import stack
from tests.faults.conftest import PATIENCE_S, Worker, environment, events, prepared


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Iterator[Settings]:
    """A prepared home in which nothing runs; whatever runs there at the end is ended."""
    made = prepared(tmp_path / "home", tiny_model)
    yield made
    stack.down(made, lambda _: None)
    embedded.stop_ledger(made.home_dir)
    embedded.stop_broker(made.home_dir)


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[list[Worker]]:
    """Two `face0-worker run` on one home, started at the same moment."""
    begun = [Worker(settings, tmp_path / f"worker-{number}.log") for number in (1, 2)]
    yield begun
    for worker in begun:
        worker.end()


def _runs(settings: Settings) -> tuple[bool, bool]:
    home = settings.home_dir
    return embedded.find_broker(home) is not None, embedded.find_ledger(home) is not None


def _stop(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(PATIENCE_S) == 0, worker.log.read_text()


def test_the_services_stay_until_the_last_worker_leaves(settings: Settings, workers: list[Worker]) -> None:
    for worker in workers:
        worker.until_logged("child.started")
    first, last = workers
    ledger = embedded.find_ledger(settings.home_dir)
    _stop(first)
    assert len(events(first.log, "embedded.left")) == 1
    assert embedded.find_ledger(settings.home_dir) == ledger
    assert _runs(settings) == (True, True)
    _stop(last)
    assert events(last.log, "embedded.left", "service.down") == []
    assert _runs(settings) == (False, False)


def test_down_leaves_the_services_to_a_worker_that_uses_them(settings: Settings, workers: list[Worker]) -> None:
    first, killed = workers
    for worker in workers:
        worker.until_logged("child.started")
    killed.end()  # without a chance to clean up
    said: list[str] = []
    assert stack.down(settings, said.append) == []
    assert "left running" in " ".join(said)
    assert _runs(settings) == (True, True)
    _stop(first)
    assert _runs(settings) == (False, False)


def test_what_up_started_stays_when_its_worker_ends_by_itself(settings: Settings) -> None:
    stack.up(settings, lambda _: None)
    assert stack.stop_worker(settings)
    assert _runs(settings) == (True, True)
    assert stack.down(settings, lambda _: None) == ["ledger", "broker"]
    assert _runs(settings) == (False, False)


def test_up_and_down_at_once_and_twice_start_and_stop_one_of_each(settings: Settings) -> None:
    def both(word: str) -> list[str]:
        command = [sys.executable, "-P", "-m", "producer.cli", word]
        begun = [
            subprocess.Popen(command, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(2)
        ]
        said = [one.communicate(timeout=180)[0].decode() for one in begun]
        assert [one.returncode for one in begun] == [0, 0], said
        return said

    both("up")
    mine = [process for process in psutil.process_iter(["cmdline", "environ"]) if _is_worker(process, settings)]
    assert len(mine) == 1
    said = both("down")
    assert _runs(settings) == (False, False)
    assert stack.find_worker(settings) is None
    assert sum("worker: stopped" in one for one in said) == 1
    deadline = time.monotonic() + PATIENCE_S
    while mine[0].is_running() and mine[0].status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_worker(process: psutil.Process, settings: Settings) -> bool:
    try:
        words = process.cmdline()
        return (
            "face0_worker.cli" in words
            and words[-1] == "run"
            and (process.environ().get("FACE0_HOME") == str(settings.home_dir))
        )
    except psutil.Error:
        return False
