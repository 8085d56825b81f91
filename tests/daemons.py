"""Server processes for the tests: on loopback only, and they die with the test process, also when it is killed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

# a server that a busy machine is slow to start is no fault
PATIENCE_S = 90.0


class Daemons:
    """Processes of one server, ended by their ids; the kernel ends them when this process is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a daemon; what it says goes to NAME.log."""
        setpriv = shutil.which("setpriv")  # util-linux; without it only an orderly end of the tests ends the daemon
        tied = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*tied, *command],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for pytest, which ends them in order
            )
        self._started.append((process, log))

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until the server is ready; fail with its last words when a daemon has ended."""
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / 0.1)):
            if ready():
                return
            for process, log in self._started:
                if process.poll() is not None:
                    pytest.fail(f"{log.stem} did not start: {log.read_text(errors='replace')[-500:]}")
            pause.wait(0.1)
        pytest.fail(f"the S3 server in {self.folder} is not ready after {PATIENCE_S:.0f} s")

    def stop(self) -> None:
        """End every daemon, the last first."""
        for process, _ in reversed(self._started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._started.clear()


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    """Say whether somebody listens on a port of loopback."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
