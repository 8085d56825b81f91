"""Killed, hung, broken and emptied in the middle of a job, with real processes: everything ends done, and once."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import redis

from face0_worker.embedded import redis_url
from producer import stack
from tests.faults.conftest import LEASE_S, PATIENCE_S, House, events

ITEMS = 20


def test_a_render_child_killed_in_the_middle_costs_nothing(house: House, tmp_path: Path) -> None:
    job_id = house.submit(house.grant("killed-child"), ITEMS, steps=100)
    house.until_some_are_done(job_id)
    child = house.child_stopped_at_work(job_id)
    child.send_signal(signal.SIGKILL)
    house.until_logged("batch.rendered", after="child.died")
    # its batch came back when it was buried, not when its lease ran out
    assert events(house.log(), "batch.released") == []
    house.all_done_once(job_id, tmp_path)
    assert house.child().pid != child.pid
    assert house.blamed(job_id) > 0


def test_a_broker_emptied_in_the_middle_costs_nothing(house: House, tmp_path: Path) -> None:
    job_id = house.submit(house.grant("flushed"), ITEMS)
    house.until_some_are_done(job_id)
    with redis.Redis.from_url(redis_url(house.settings)) as client:
        client.flushall()
    house.all_done_once(job_id, tmp_path)
    assert house.blamed(job_id) == 0


def test_a_broken_device_ends_the_process_and_the_next_one_goes_on(
    house: House, tripwire: Path, tmp_path: Path
) -> None:
    child = house.child()
    tripwire.touch()
    job_id = house.submit(house.grant("broken-device"), 4)
    house.all_done_once(job_id, tmp_path)
    assert not tripwire.exists(), "nothing was broken"
    assert not child.is_running()
    # the batch of the broken process went back as a crash at once, without waiting for its lease
    assert house.blamed(job_id) == 4
    assert events(house.log(), "batch.released") == []
    (failed,), (died,) = events(house.log(), "child.failed"), events(house.log(), "child.died")
    assert (failed["error"], died["worker"], died["code"]) == ("RuntimeError", failed["worker"], 70)
    assert "device-side assert" not in house.log().read_text(), "an error's text may quote a person's data"


def test_a_supervisor_killed_in_the_middle_takes_its_child_along_and_the_next_one_goes_on(
    house: House, tmp_path: Path
) -> None:
    job_id = house.submit(house.grant("killed-supervisor"), ITEMS, steps=100)
    house.until_some_are_done(job_id)
    worker, child = stack.find_worker(house.settings), house.child()
    assert worker is not None
    psutil.Process(worker.pid).send_signal(signal.SIGKILL)
    child.wait(timeout=PATIENCE_S)
    left = house.status(job_id)
    assert not left.ended, "an orphan went on to the end"
    stack.up(house.settings, lambda _: None)
    house.all_done_once(job_id, tmp_path)


def test_a_hung_child_is_replaced(house: House, tmp_path: Path) -> None:
    job_id = house.submit(house.grant("hung-child"), ITEMS, steps=100)
    house.until_some_are_done(job_id)
    child = house.child()
    child.send_signal(signal.SIGSTOP)  # alive, but it gives no sign of life
    house.all_done_once(job_id, tmp_path)
    assert not child.is_running()
    (hung,) = events(house.log(), "child.hung")
    assert hung["silent_s"] >= 2 * LEASE_S
