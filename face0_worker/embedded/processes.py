"""Processes that outlive the command that started them: remembered in a file, recognised again, ended for certain."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# Children of this very process are kept here, so that nobody warns about them while they run on.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Remembered:
    """One process as its file tells it: a pid may have gone to a stranger since, so the start time is kept too."""

    pid: int
    started: float
    facts: dict[str, str]


def remember(file: Path, pid: int, **facts: str) -> Remembered:
    """Write down a running process; `facts` are what others need to reach it."""
    known = Remembered(pid, psutil.Process(pid).create_time(), facts)
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({"pid": known.pid, "started": known.started, "facts": facts}))
    fresh.replace(file)
    return known


def recall(file: Path) -> Remembered | None:
    """Return the remembered process if it still runs; None: no file, a damaged one, or the pid is a stranger's."""
    _reap()
    try:
        data = json.loads(file.read_text())
        known = Remembered(int(data["pid"]), float(data["started"]), dict(data["facts"]))
        process = psutil.Process(known.pid)
        # the kernel's clock tick is 10 ms; a pid is not given out again within a second
        same = abs(process.create_time() - known.started) < 1.0
        return known if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None


def launch(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, user: str | None = None) -> int:
    """Start a process in a session of its own, so that Ctrl-C at the terminal does not reach it; return its pid.

    What it says is appended to `log`. `user`: run as this system user (only root may ask).
    """
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=None if env is None else dict(env),
            **identity(user),
        )
    _children.append(child)
    return child.pid


def identity(user: str | None) -> dict[str, Any]:
    """Return what subprocess needs to run as `user` wholly: with that user's group and no other."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def end(known: Remembered, *, first: signal.Signals = signal.SIGTERM, patience_s: float, group: bool = False) -> None:
    """Ask a process to end, and make it end after `patience_s`. `group`: its whole process group with it."""
    send: Callable[[int, int], None] = os.killpg if group else os.kill
    with suppress(ProcessLookupError):
        send(known.pid, first)
        if not _ends_within(known.pid, patience_s):
            send(known.pid, signal.SIGKILL)
            _ends_within(known.pid, patience_s)
    if group:  # a leader that ended may have left members behind
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(known.pid, signal.SIGKILL)
    _reap()


def _ends_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not ended(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def ended(pid: int) -> bool:
    """Return whether a process has ended, also where the one that launched it has not taken notice yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _reap() -> None:
    """Let the kernel forget our children that ended; until then their pids look alive to others."""
    _children[:] = [child for child in _children if child.poll() is None]


@contextmanager
def only_one(file: Path) -> Iterator[None]:
    """Let one process at a time start and stop what belongs to a home folder; others wait."""
    with open(file, "w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
