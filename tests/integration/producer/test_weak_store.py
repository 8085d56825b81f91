"""A store that ignores conditional writes: refused by init and by the worker, unless somebody accepts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from face0_worker.records.ledger import Ledger
from producer import cli
from tests.object_proxy import Fault, Proxy, proxied
from tests.object_servers import Become, ObjectServer

pytestmark = pytest.mark.services


@pytest.fixture
def weak(
    ministack: ObjectServer,
    as_owner: Become,
    ledger_url: str,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Proxy]:
    """An installation in this process's environment whose S3 server drops If-None-Match."""
    bucket = as_owner(ministack).bucket()
    with proxied(ministack.url, Fault(times=-1, without="If-None-Match")) as proxy:
        monkeypatch.setenv("FACE0_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("FACE0_LEDGER_URL", ledger_url)
        monkeypatch.setenv("FACE0_STORAGE", f"s3://{bucket}")
        monkeypatch.setenv("FACE0_S3_ENDPOINT", proxy.url)
        yield proxy


@pytest.mark.usefixtures("weak")
def test_init_refuses_a_weak_store_unless_that_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["init"]) == 4
    assert "accept it with --allow-weak-store" in capsys.readouterr().err
    assert cli.run(["init", "--allow-weak-store"]) == 0
    assert "weak: overwrites although asked not to" in capsys.readouterr().out


@pytest.mark.usefixtures("weak")
def test_the_worker_refuses_a_weak_store_and_logs_it_once_where_it_is_allowed(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.run(["init", "--allow-weak-store"]) == 0
    monkeypatch.setenv("FACE0_BROKER_URL", broker_url)
    command = [sys.executable, "-m", "face0_worker.cli", "run"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 4, refused.stderr
    assert "accept it with --allow-weak-store" in refused.stderr

    events: list[str] = []
    with subprocess.Popen([*command, "--allow-weak-store"], stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        for line in worker.stderr:
            events.append(json.loads(line)["event"])
            if events[-1] == "supervisor.started":
                worker.send_signal(signal.SIGTERM)
    assert worker.returncode == 0
    assert events.count("storage.weak") == 1
    assert events.index("storage.weak") < events.index("supervisor.started")
    assert "FACE0_ALLOW_WEAK_STORE" not in os.environ
