"""Who uses the embedded services of a home, so that nobody stops them under another's feet.

Every worker holds a shared lock on `run/users` while it runs; the kernel drops it however the worker ends. Services
that a worker started stand in `run/started-by-workers`: the last worker to leave stops those. What `face0 up` started,
or took over, is stopped by `face0 down`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from face0_worker.embedded.broker import find_broker, start_broker, stop_broker
from face0_worker.embedded.ledger import find_ledger, start_ledger, stop_ledger
from face0_worker.embedded.lifetime import run_folder
from face0_worker.embedded.processes import only_one
from face0_worker.settings import Settings

_BROKER, _LEDGER = "broker", "ledger"


@contextmanager
def running(settings: Settings, *, broker: bool = True, left: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Start what has no URL and does not run yet. At the end the last user stops what users like this one started.

    `broker`: false where only the ledger is needed. `left` is called when something is left running for another.
    Raises: BrokerDown, LedgerDown: a service does not come up.
    """
    needed = {name for name, url in ((_BROKER, settings.broker_url), (_LEDGER, settings.ledger_url)) if not url}
    if not broker:
        needed.discard(_BROKER)
    if not needed:
        yield
        return
    home = settings.home_dir
    run = run_folder(home)
    user = os.open(run / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with only_one(run / "sharing.lock"):
            fcntl.flock(user, fcntl.LOCK_SH)
        try:
            with only_one(run / "sharing.lock"):
                _start_missing(home, needed)
            yield
        finally:
            with only_one(run / "sharing.lock"):
                if not _stop_if_last(home, user) and _started_by_workers(home):
                    left()
    finally:
        os.close(user)


def take_over(home: Path) -> None:
    """Let the running services outlive the workers that started them: `face0 down` stops them."""
    with only_one(run_folder(home) / "sharing.lock"):
        _write(home, set())


def stop_unless_used(home: Path) -> dict[str, bool] | None:
    """Stop both services and return which of them ran. None: a worker uses them; it stops them when it ends."""
    run = run_folder(home)
    user = os.open(run / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with only_one(run / "sharing.lock"):
            _write(home, {_BROKER, _LEDGER})
            if not _alone(user):
                return None
            _write(home, set())
            return {_LEDGER: stop_ledger(home), _BROKER: stop_broker(home)}
    finally:
        os.close(user)


def _start_missing(home: Path, needed: set[str]) -> None:
    # noted before it runs: a user killed in between must not leave a server that nobody stops
    if _BROKER in needed and find_broker(home) is None:
        _write(home, _started_by_workers(home) | {_BROKER})
        start_broker(home)
    if _LEDGER in needed and find_ledger(home) is None:
        _write(home, _started_by_workers(home) | {_LEDGER})
        start_ledger(home)


def _stop_if_last(home: Path, user: int) -> bool:
    if not _alone(user):
        return False
    ours = _started_by_workers(home)
    if _LEDGER in ours:
        stop_ledger(home)
    if _BROKER in ours:
        stop_broker(home)
    _write(home, set())
    return True


def _alone(user: int) -> bool:
    try:
        fcntl.flock(user, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _started_by_workers(home: Path) -> set[str]:
    try:
        return set((home / "run" / "started-by-workers").read_text().split())
    except OSError:
        return set()


def _write(home: Path, services: set[str]) -> None:
    file = home / "run" / "started-by-workers"
    if services:
        file.write_text(" ".join(sorted(services)))
    else:
        file.unlink(missing_ok=True)
