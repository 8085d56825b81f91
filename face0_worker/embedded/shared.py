"""Who uses the embedded services of a home, so that nobody stops them under another's feet.

Every user (a worker; `face0 init` and `face0 up` while they work) holds a shared lock on `run/users`; the kernel drops
it however the user ends. Services that users started stand in `run/started-by-users`: the last one to leave stops
those. What `face0 up` has taken over is stopped by `face0 down`.
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
def running(
    settings: Settings, *, broker: bool = True, left: Callable[[], None] = lambda: None
) -> Iterator[frozenset[str]]:
    """Start what has no URL and does not run yet, and give the names of what was started ("broker", "ledger").

    At the end the last user stops what users like this one started, unless `take_over` was called.

    `broker`: false where only the ledger is needed. `left` is called when something is left running for another.
    Raises: BrokerDown, LedgerDown: a service does not come up.
    """
    needed = {name for name, url in ((_BROKER, settings.broker_url), (_LEDGER, settings.ledger_url)) if not url}
    if not broker:
        needed.discard(_BROKER)
    if not needed:
        yield frozenset()
        return
    home = settings.home_dir
    run = run_folder(home)
    user = os.open(run / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with only_one(run / "sharing.lock"):
            fcntl.flock(user, fcntl.LOCK_SH)
        try:
            with only_one(run / "sharing.lock"):
                started = _start_missing(home, needed)
            yield started
        finally:
            with only_one(run / "sharing.lock"):
                if not _stop_if_last(home, user) and _started_by_users(home):
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


def _start_missing(home: Path, needed: set[str]) -> frozenset[str]:
    starts = {_BROKER: (find_broker, start_broker), _LEDGER: (find_ledger, start_ledger)}
    started = set()
    for name, (find, start) in starts.items():
        if name in needed and find(home) is None:
            # noted before it runs: a user killed in between must not leave a server that nobody stops
            _write(home, _started_by_users(home) | {name})
            start(home)
            started.add(name)
    return frozenset(started)


def _stop_if_last(home: Path, user: int) -> bool:
    if not _alone(user):
        return False
    ours = _started_by_users(home)
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


def _started_by_users(home: Path) -> set[str]:
    try:
        return set((home / "run" / "started-by-users").read_text().split())
    except OSError:
        return set()


def _write(home: Path, services: set[str]) -> None:
    file = home / "run" / "started-by-users"
    if services:
        file.write_text(" ".join(sorted(services)))
    else:
        file.unlink(missing_ok=True)
