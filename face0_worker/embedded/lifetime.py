"""What the embedded services share: the run folder, sockets with short paths, waiting to start, and stopping."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from face0_worker.contract.errors import ServiceDown
from face0_worker.embedded.processes import end, ended, recall

_SOCKET_LIMIT = 100  # bytes; the kernel allows 107 (103 on macOS)
_START_S = 60.0
_STOP_S = 30.0


def run_folder(home: Path) -> Path:
    """Return home/run, where pid files, sockets and logs lie; only this user may look inside."""
    folder = home / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def socket_folder(usual: Path, name: str) -> Path:
    """Return where a socket may lie: `usual`, or a short private folder when the path would be too long."""
    plain = not any(character in str(usual) for character in ",\"'")
    if plain and len(os.fsencode(usual / name)) <= _SOCKET_LIMIT:
        return usual
    return Path(tempfile.mkdtemp(prefix="face0-", dir="/tmp"))


def forget_socket(file: Path) -> None:
    """Remove the private socket folder of a server that is gone, and its pid file."""
    try:
        where = Path(json.loads(file.read_text())["facts"]["socket"])
    except (OSError, ValueError, KeyError):
        return
    folder = where if where.is_dir() else where.parent
    if folder.parent == Path("/tmp") and folder.name.startswith("face0-"):
        shutil.rmtree(folder, ignore_errors=True)
    elif where.is_socket():
        where.unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def stop_remembered(file: Path, first: signal.Signals) -> bool:
    """End the process of a pid file, first with `first`, and forget it. Returns whether it ran."""
    known = recall(file)
    if known is not None:
        end(known, first=first, patience_s=_STOP_S)
    forget_socket(file)
    return known is not None


def wait_until(ready: Callable[[], bool], pid: int, down: type[ServiceDown], what: str) -> None:
    """Wait until a service that is starting is ready. Raises: `down`: its process ended, or it took too long."""
    deadline = time.monotonic() + _START_S
    while not ready():
        if ended(pid):
            raise down(f"{what} ended while starting")
        if time.monotonic() > deadline:
            raise down(f"{what} did not answer within {_START_S:.0f} s")
        time.sleep(0.02)
