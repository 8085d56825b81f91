"""Killed and emptied in the middle of a job, with real processes: everything ends done, and once (P2, P8, P9)."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import redis

from face0_worker.contract.job import ItemState
from face0_worker.embedded import redis_url
from producer import stack
from producer.check import check_files
from producer.results import pull
from tests.faults.conftest import House

ITEMS = 40


def _all_done_once(house: House, job_id: str, out: Path) -> None:
    status = house.until_ended(job_id)
    assert status.counts[ItemState.DONE] == status.total == ITEMS
    assert house.commits(job_id) == ITEMS
    pulled = pull(house.services, job_id, out)
    checked = list(check_files(house.services, [path for _, path in pulled.files]))
    assert len(checked) == ITEMS
    assert [one.sentence for one in checked if not one.ok] == []


def test_a_render_child_killed_in_the_middle_costs_nothing(house: House, tmp_path: Path) -> None:
    job_id = house.submit(house.grant("killed-child"), ITEMS)
    house.until_some_are_done(job_id)
    child = house.child()
    child.send_signal(signal.SIGKILL)
    _all_done_once(house, job_id, tmp_path)
    assert house.child().pid != child.pid


def test_a_broker_emptied_in_the_middle_costs_nothing(house: House, tmp_path: Path) -> None:
    job_id = house.submit(house.grant("flushed"), ITEMS)
    house.until_some_are_done(job_id)
    client = redis.Redis.from_url(redis_url(house.settings))
    client.flushall()
    client.close()
    _all_done_once(house, job_id, tmp_path)


def test_a_supervisor_killed_in_the_middle_takes_its_child_along_and_the_next_one_goes_on(
    house: House, tmp_path: Path
) -> None:
    job_id = house.submit(house.grant("killed-supervisor"), ITEMS)
    house.until_some_are_done(job_id)
    worker, child = stack.find_worker(house.settings), house.child()
    assert worker is not None
    psutil.Process(worker.pid).send_signal(signal.SIGKILL)
    child.wait(timeout=60)
    stack.up(house.settings, lambda _: None)
    _all_done_once(house, job_id, tmp_path)


def test_a_hung_child_is_replaced(house: House, tmp_path: Path) -> None:
    job_id = house.submit(house.grant("hung-child"), ITEMS)
    house.until_some_are_done(job_id)
    child = house.child()
    child.send_signal(signal.SIGSTOP)  # alive, but it gives no sign of life
    _all_done_once(house, job_id, tmp_path)
    assert not child.is_running()
