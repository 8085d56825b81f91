"""Start and stop everything one machine needs: the embedded broker, the embedded ledger and one worker."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import face0_worker
from face0_worker.contract.errors import ModelMissing, ServiceDown
from face0_worker.embedded import run_folder, running, stop_unless_used, take_over
from face0_worker.embedded.processes import Remembered, end, ended, launch, only_one, recall, remember
from face0_worker.records.offers import ModelOffer, find_model
from face0_worker.settings import Settings, environment_with
from producer.services import Services

Say = Callable[[str], None]

_STOP_MARGIN_S = 15.0  # beyond the time that a supervisor gives its child to finish a batch
_OFFER_S = 600.0  # as long as a supervisor gives its child to load


def up(settings: Settings, say: Say, *, offer_s: float = _OFFER_S) -> ModelOffer:
    """Start what does not run yet, and wait until the worker has offered its model; return the offer.

    When a part fails, those that this call started are stopped again.
    `init` was run before: it prepares the ledger.
    Raises: BrokerDown, LedgerDown; ServiceDown: the worker ended, or offered nothing within `offer_s` seconds.
    """
    with running(settings) as started:
        for name, server in (("broker", "Valkey"), ("ledger", "PostgreSQL")):
            if name in started:
                say(f"{name}: started (embedded {server})")
        with Services(settings) as services, ExitStack() as undo:
            _ = services.ledger  # before a worker is started for one that it can't work with
            worker, ours = _start_worker(settings)
            if ours:
                undo.callback(stop_worker, settings)
                say("worker: started, loading its model")
            offer = _wait_for_offer(services, worker, offer_s, say)
            take_over(settings.home_dir)
            undo.pop_all()
    say(f"worker: ready with model {offer.name}")
    return offer


def down(settings: Settings, say: Say) -> list[str]:
    """Stop worker, ledger and broker, in this order. Returns those that ran and were stopped.

    Ledger and broker are left to another worker of this home that uses them: the last one stops them.
    """
    if not settings.home_dir.is_dir():
        say("nothing was running")
        return []
    stopped = ["worker"] if stop_worker(settings) else []
    services = stop_unless_used(settings.home_dir)
    stopped += [name for name, ran in (services or {}).items() if ran]
    for name in stopped:
        say(f"{name}: stopped")
    if services is None:
        say("ledger and broker: left running for another `face0-worker run` of this home, which stops them at its end")
    elif not stopped:
        say("nothing was running")
    return stopped


def find_worker(settings: Settings) -> Remembered | None:
    """Return the worker that `up` started in this home, or None."""
    return recall(settings.home_dir / "run" / "worker.json")


def stop_worker(settings: Settings) -> bool:
    """End the worker and every process of its group; it gets time to finish what it holds. Returns whether one ran."""
    file = run_folder(settings.home_dir) / "worker.json"
    with only_one(file.with_name("worker.lock")):
        known = recall(file)
        if known is not None:
            end(known, patience_s=settings.grace_s + _STOP_MARGIN_S, group=True)
        file.unlink(missing_ok=True)
    return known is not None


def worker_log(settings: Settings) -> Path:
    """Return where the worker's own words go."""
    return settings.home_dir / "run" / "worker.log"


def _start_worker(settings: Settings) -> tuple[Remembered, bool]:
    """Return the worker of this home and whether it was started now."""
    if importlib.util.find_spec("torch") is None:
        raise ModelMissing("this machine has no worker parts; install them with `pip install 'face0[worker]'`")
    file = run_folder(settings.home_dir) / "worker.json"
    with only_one(file.with_name("worker.lock")):
        known = recall(file)
        if known is not None:
            return known, False
        command = [sys.executable, "-P", "-m", "face0_worker.cli", "--config", os.devnull, "run"]
        pid = launch(command, worker_log(settings), env=_environment(settings))
        return remember(file, pid), True


def _environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with every setting in force, so that the worker has the same ones."""
    code = str(Path(next(iter(face0_worker.__path__))).parent)
    paths = [code, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return environment_with(settings, os.environ) | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _wait_for_offer(services: Services, worker: Remembered, offer_s: float, say: Say) -> ModelOffer:
    begun, told = time.monotonic(), 0.0
    while True:
        if ended(worker.pid):
            raise ServiceDown(f"the worker ended before it was ready: {_last_words(worker_log(services.settings))}")
        try:
            offer = find_model(services.ledger, None)
            if offer.live:
                return offer
        except ModelMissing:
            pass  # nobody has ever offered one: still loading
        waited = time.monotonic() - begun
        if waited > offer_s:
            log = worker_log(services.settings)
            raise ServiceDown(f"the worker has offered no model within {offer_s:.0f} s; its log is {log}")
        if waited - told >= 10:
            told = waited
            say(f"worker: still loading ({waited:.0f} s)")
        time.sleep(0.1)


def _last_words(log: Path) -> str:
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return f"{lines[-1][:300] if lines else 'it said nothing'} (log: {log})"
