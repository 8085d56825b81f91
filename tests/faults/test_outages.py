"""Broker, ledger and store ended in the middle of a job and started again: it finishes by itself, with few words."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from face0_worker import embedded
from face0_worker.contract.job import ItemState
from producer import stack
from tests.faults.conftest import LEASE_S, House, events
from tests.faults.object_server import ObjectServer

ITEMS = 24
# what one process may say about one outage: that it began, perhaps that it lasts, that it is over
LINES = 3


def _outage_s(usual: float) -> float:
    """How long the service is away; `FACE0_TEST_OUTAGE_S=30` tries it in full."""
    return float(os.environ.get("FACE0_TEST_OUTAGE_S") or usual)


def _survives(
    house: House, stop: Callable[[], object], start: Callable[[], object], service: str, away_s: float, out: Path
) -> None:
    job_id = house.submit(house.grant(f"no-{service}"), ITEMS)
    house.until_some_are_done(job_id)
    worker = stack.find_worker(house.settings)
    assert worker is not None
    pids = {worker.pid, house.child().pid}
    stop()
    time.sleep(away_s)
    start()
    house.all_done_once(job_id, out)
    assert house.blamed(job_id) == 0
    assert {worker.pid, house.child().pid} == pids, "a process was replaced"
    shutil.copy(house.log(), out / "worker.log")
    _told_in_few_lines(out / "worker.log", service, away_s)


def _told_in_few_lines(log: Path, service: str, away_s: float) -> None:
    told = events(log, "service.down", "service.still_down", "service.back")
    assert told, "nobody said anything"
    assert {line["service"] for line in told} == {service}
    # supervisor and child, each for itself
    assert len(told) <= 2 * LINES
    down, back = events(log, "service.down"), events(log, "service.back")
    assert 1 <= len(down) == len(back) <= 2
    assert all(line["reason"] for line in down)
    assert all(0 < line["seconds"] < away_s + 30 for line in back)
    assert events(log, "child.failed", "child.died", "batch.released", "lease.lost") == []
    other = [line for line in log.read_text().splitlines() if '"level": "info"' not in line and '"service.' not in line]
    assert other == []


def test_a_broker_that_is_away_for_a_while_costs_nothing(house: House, tmp_path: Path) -> None:
    home = house.settings.home_dir
    stop, start = lambda: embedded.stop_broker(home), lambda: embedded.start_broker(home)
    _survives(house, stop, start, "broker", _outage_s(4), tmp_path)


def test_a_ledger_that_is_away_for_longer_than_a_lease_costs_nothing(house: House, tmp_path: Path) -> None:
    home = house.settings.home_dir
    stop, start = lambda: embedded.stop_ledger(home), lambda: embedded.start_ledger(home)
    _survives(house, stop, start, "ledger", _outage_s(LEASE_S + 2), tmp_path)


def test_a_store_that_is_away_for_a_while_costs_nothing(
    house: House, object_server: ObjectServer | None, tmp_path: Path
) -> None:
    if object_server is None:
        pytest.skip("no S3 server: put `ministack` on the PATH or its path into FACE0_TEST_S3_COMMAND")
    _survives(house, object_server.stop, object_server.start, "storage", _outage_s(4), tmp_path)


def test_a_job_that_is_submitted_while_the_broker_is_away_begins_when_it_is_back(house: House, tmp_path: Path) -> None:
    home = house.settings.home_dir
    embedded.stop_broker(home)
    job_id = house.submit(house.grant("no-broker-yet"), 4)
    assert house.status(job_id).counts[ItemState.DONE] == 0
    embedded.start_broker(home)
    house.all_done_once(job_id, tmp_path)
