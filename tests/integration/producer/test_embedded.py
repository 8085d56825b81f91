"""The embedded servers are real, private, found again, and end when told to."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote

import psutil
import psycopg
import pytest
import redis
from kombu import Connection

from face0_worker import embedded
from face0_worker.contract.errors import BrokerDown, LedgerDown
from face0_worker.embedded.processes import end, recall, remember
from face0_worker.settings import Settings

pytestmark = pytest.mark.services


@pytest.fixture
def home(short_folder: Path) -> Iterator[Path]:
    """A home folder whose servers end with the test."""
    yield short_folder
    embedded.stop_ledger(short_folder)
    embedded.stop_broker(short_folder)


def kill(pid: int) -> None:
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    process.wait(120)


def test_the_broker_keeps_its_messages_when_it_is_killed_and_never_evicts(home: Path) -> None:
    broker = embedded.start_broker(home)
    client = redis.Redis.from_url(broker.redis_url)
    assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    client.config_set("appendfsync", "always")  # the second that may be lost is not what is tested here
    client.set("kept", "1")
    kill(broker.pid)
    assert embedded.find_broker(home) is None
    again = embedded.start_broker(home)
    assert again.pid != broker.pid
    assert redis.Redis.from_url(again.redis_url).get("kept") == b"1"


def test_both_forms_of_the_brokers_url_reach_the_same_server(home: Path) -> None:
    broker = embedded.start_broker(home)
    settings = Settings(home=home)
    redis.Redis.from_url(embedded.redis_url(settings)).set("seen", "1")
    assert embedded.broker_url(settings) == broker.celery_url
    with Connection(embedded.broker_url(settings)) as connection:
        assert connection.default_channel.client.get("seen") == b"1"


def test_a_second_start_finds_the_running_servers(home: Path) -> None:
    assert embedded.start_broker(home) == embedded.start_broker(home) == embedded.find_broker(home)
    assert embedded.start_ledger(home) == embedded.start_ledger(home) == embedded.find_ledger(home)
    assert embedded.ledger_url(Settings(home=home)) == embedded.start_ledger(home).url


def test_only_this_user_can_open_the_sockets(home: Path) -> None:
    broker, _ = embedded.start_broker(home), embedded.start_ledger(home)
    for path in (broker.socket, home / "ledger" / ".s.PGSQL.5432"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700
    with pytest.raises(psycopg.OperationalError), psycopg.connect("host=127.0.0.1 dbname=postgres", connect_timeout=2):
        pass  # no TCP port is open


def test_a_ledger_that_was_killed_with_a_session_open_comes_back_with_its_data(home: Path) -> None:
    ledger = embedded.start_ledger(home)
    session = psycopg.connect(ledger.url, autocommit=True)
    session.execute("CREATE TABLE kept AS SELECT 7 AS n")
    kill(ledger.pid)
    assert embedded.find_ledger(home) is None
    with psycopg.connect(embedded.start_ledger(home).url) as again:
        assert again.execute("SELECT n FROM kept").fetchone() == (7,)


def test_stopping_ends_the_processes_and_says_whether_there_was_one(home: Path) -> None:
    pids = [embedded.start_broker(home).pid, embedded.start_ledger(home).pid]
    assert embedded.stop_ledger(home)
    assert embedded.stop_broker(home)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not embedded.stop_ledger(home)
    assert not embedded.stop_broker(home)


def test_a_home_with_a_path_too_long_for_a_socket_works_and_leaves_no_folder_behind() -> None:
    with tempfile.TemporaryDirectory(prefix="long-") as folder:
        home = Path(folder) / "長い名前" / ("x" * 90) / "with space, and comma"
        home.mkdir(parents=True)
        try:
            broker, ledger = embedded.start_broker(home), embedded.start_ledger(home)
            sockets = [broker.socket.parent, Path(unquote(ledger.url.rpartition("host=")[2]))]
            assert all(folder.is_dir() and folder.parent == Path("/tmp") for folder in sockets)
            assert redis.Redis.from_url(broker.redis_url).ping()
            with psycopg.connect(ledger.url) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            embedded.stop_ledger(home)
            embedded.stop_broker(home)
    assert not any(folder.exists() for folder in sockets)


def test_what_does_not_run_is_said_with_what_to_do(home: Path) -> None:
    settings = Settings(home=home)
    with pytest.raises(LedgerDown, match="start it with `face0 up`"):
        embedded.ledger_url(settings)
    with pytest.raises(BrokerDown, match="start it with `face0 up`"):
        embedded.broker_url(settings)


def test_a_configured_url_is_taken_as_it_is(home: Path) -> None:
    settings = Settings(home=home, broker_url="redis://elsewhere/0", ledger_url="postgresql://elsewhere/face0")
    assert embedded.broker_url(settings) == embedded.redis_url(settings) == "redis://elsewhere/0"
    assert embedded.ledger_url(settings) == "postgresql://elsewhere/face0"


def test_a_pid_that_was_given_to_a_stranger_is_not_taken_for_ours(tmp_path: Path) -> None:
    file = tmp_path / "broker.json"
    known = remember(file, os.getpid(), socket="/nowhere")
    assert recall(file) == known
    file.write_text(file.read_text().replace(str(known.started), str(known.started - 60)))
    assert recall(file) is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"pid": "x"}', "\x00"])
def test_a_damaged_pid_file_is_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "broker.json").write_text(content)
    assert recall(tmp_path / "broker.json") is None


def test_the_last_user_stops_what_users_started_in_whatever_order_they_leave(home: Path) -> None:
    settings = Settings(home=home)
    first, second = ExitStack(), ExitStack()
    assert first.enter_context(embedded.running(settings, broker=False)) == {"ledger"}
    assert second.enter_context(embedded.running(settings)) == {"broker"}
    ledger = embedded.find_ledger(home)
    first.close()
    assert embedded.find_ledger(home) == ledger is not None
    second.close()
    assert embedded.find_ledger(home) is None
    assert embedded.find_broker(home) is None


def test_what_was_taken_over_outlives_its_users_and_down_stops_it(home: Path) -> None:
    with embedded.running(Settings(home=home)):
        assert embedded.stop_unless_used(home) is None
        embedded.take_over(home)
    assert embedded.find_ledger(home) is not None
    assert embedded.stop_unless_used(home) == {"ledger": True, "broker": True}
    assert embedded.stop_unless_used(home) == {"ledger": False, "broker": False}


def test_a_process_whose_parent_does_not_notice_its_end_has_ended_all_the_same(tmp_path: Path) -> None:
    script = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        known = remember(tmp_path / "sleep.json", int(parent.stdout.readline()))
        begun = time.monotonic()
        end(known, patience_s=100)
        assert time.monotonic() - begun < 100
        assert recall(tmp_path / "sleep.json") is None
    finally:
        parent.kill()
        parent.communicate()
