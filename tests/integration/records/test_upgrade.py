"""An upgrade while others work: it happens whole or not at all, and keeps nobody waiting for long."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from face0_worker.contract.errors import LedgerDown
from face0_worker.records import schema
from face0_worker.records.ledger import Ledger
from face0_worker.records.schema import HEAD, Upgrade
from tests.integration.records.databases import PATIENCE_S, dump, heartbeat, older, opened, unmarked, url_of
from tests.integration.records.program import read, recording


def test_a_worker_that_runs_goes_on_through_an_upgrade(empty: Ledger) -> None:
    older(empty, "0001")
    read_back = next(one for one in read(recording("0001")) if one.statement.startswith("SELECT models.worker_id"))
    turns, stop = itertools.count(), threading.Event()
    reached = 0

    def work() -> None:
        nonlocal reached
        # one connection: after a few turns PostgreSQL has prepared these statements against the old table
        with psycopg.connect(url_of(empty), autocommit=True) as old:
            while not stop.is_set():
                old.execute(*heartbeat())
                assert old.execute(read_back.statement, read_back.values).fetchone()
                reached = next(turns)

    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        stack.callback(stop.set)
        working = pool.submit(work)
        for upgraded in (False, True):
            if upgraded:
                assert schema.upgrade(empty.engine) == Upgrade("0001", HEAD)
            until, deadline = reached + 20, time.monotonic() + PATIENCE_S
            while reached < until:
                assert not working.done() or working.result() is None
                assert time.monotonic() < deadline
                stop.wait(0.01)
        stop.set()
        working.result(PATIENCE_S)


def test_an_upgrade_gives_up_on_a_table_in_use_says_so_and_works_when_it_is_free(empty: Ledger) -> None:
    before = dump(older(empty, "0001"))
    with psycopg.connect(url_of(empty)) as backup:
        backup.execute("LOCK TABLE models IN ACCESS SHARE MODE")
        begun = time.monotonic()
        with pytest.raises(LedgerDown, match=r"is busy: .* Nothing was changed; .*`face0 init` can be run again"):
            schema.upgrade(empty.engine, lock_wait_s=0.2)
        assert time.monotonic() - begun < PATIENCE_S / 2
        assert dump(empty) == before
    assert schema.upgrade(empty.engine) == Upgrade("0001", HEAD)


_STOP_IN_THE_MIDDLE = """
import pathlib, signal, sys
from sqlalchemy import event
from face0_worker.records import schema
from face0_worker.records.ledger import open_ledger

engine = open_ledger(sys.argv[1]).engine

@event.listens_for(engine, "after_cursor_execute")
def stop(connection, cursor, statement, *rest):
    if "ALTER TABLE models" in statement:
        pathlib.Path(sys.argv[2]).touch()
        signal.pause()

schema.upgrade(engine)
"""


@pytest.mark.parametrize(
    "start", [lambda ledger: ledger, unmarked, lambda ledger: older(ledger, "0001")], ids=["empty", "unmarked", "older"]
)
def test_an_upgrade_that_is_killed_in_its_middle_leaves_the_ledger_as_it_was_and_can_be_repeated(
    empty: Ledger, start: Callable[[Ledger], Ledger], tmp_path: Path
) -> None:
    before, state = dump(start(empty)), schema.describe(empty.engine)
    there = tmp_path / "in the middle"
    process = subprocess.Popen([sys.executable, "-c", _STOP_IN_THE_MIDDLE, url_of(empty), str(there)])
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not there.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert dump(empty) == before
    assert schema.describe(empty.engine) == state
    assert schema.upgrade(empty.engine).after == HEAD
    schema.check(empty.engine)


_UPGRADE = """
import sys
from face0_worker.records import schema
from face0_worker.records.ledger import open_ledger

ledger = open_ledger(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(schema.upgrade(ledger.engine))
"""


def test_of_several_processes_that_upgrade_at_once_one_does_it_and_all_succeed(empty: Ledger) -> None:
    command = [sys.executable, "-c", _UPGRADE, url_of(empty)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    assert sorted(said) == [f"schema {HEAD}\n"] * 2 + [f"schema {HEAD} (was empty)\n"]
    assert [process.returncode for process in processes] == [0, 0, 0]


def test_a_user_who_may_not_change_tables_is_told_who_may(empty: Ledger) -> None:
    older(empty)
    with empty.transaction() as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS only_works")
        connection.exec_driver_sql("CREATE ROLE only_works LOGIN")
        connection.exec_driver_sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO only_works")
    try:
        with opened(make_url(url_of(empty)).set(username="only_works").render_as_string(False)) as worker:
            with pytest.raises(LedgerDown, match="run `face0 init` as the user that owns them"):
                schema.upgrade(worker.engine)
            assert schema.upgrade(empty.engine).after == HEAD
            schema.check(worker.engine)
    finally:
        with empty.transaction() as connection:
            connection.exec_driver_sql("DROP OWNED BY only_works")
            connection.exec_driver_sql("DROP ROLE only_works")
