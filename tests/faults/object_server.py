"""An S3 server that keeps its objects on disk, so that a test can end it and start it again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


def command() -> str | None:
    """The program, where it is installed."""
    return os.environ.get("FACE0_TEST_S3_COMMAND") or shutil.which("ministack")


class ObjectServer:
    """A ministack on a port of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self._folder = program, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        environment = os.environ | {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self._port),
            "IOT_MTLS_ENABLED": "0",
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self._folder / "objects"),
            "STATE_DIR": str(self._folder / "state"),
            "PERSIST_STATE": "1",
        }
        with (self._folder / "log").open("ab") as out:
            self._process = subprocess.Popen(
                [self._program],
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            assert self._process.poll() is None, (self._folder / "log").read_text()[-500:]
            assert time.monotonic() < deadline, "the S3 server does not listen"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it; its objects stay on disk."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(120)
            self._process = None
