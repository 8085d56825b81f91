"""What `face0-worker run` is: keeps one render child alive and runs the dispatcher under an advisory lock. Torch-free.

The child holds the pipeline. It is replaced when it dies, and when its heartbeat stops: then its batch goes back
to the ledger at once, and the items of that batch go alone (a crash alone is what counts against an item). A child
that was told to stop and did not finish in time is ended too, but its batch goes back as it came.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from face0_worker.contract.errors import BadInput, Face0Error, ModelMissing, Refused, ServiceDown
from face0_worker.outages import Outages
from face0_worker.records import attempts, jobs
from face0_worker.records.ledger import Ledger
from face0_worker.telemetry import Event, log

# what a child ends with: something unexpected was raised; it can't start until somebody changes a setting
BROKEN, CANT_START = 70, 78
# loading a large model takes minutes; a child that has not come up by then never will
LOAD_S = 600.0
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# a ledger that is away while stopping is asked again for so long
FAREWELL_S = 5.0
# between two rounds of the dispatcher while a service is away
OUTAGE_PAUSE_S = 1.0


@dataclass(frozen=True)
class Round:
    """What one round of the dispatcher did, as a count, and the services that did not answer it."""

    did: int = 0
    down: tuple[ServiceDown, ...] = ()


@dataclass(frozen=True)
class Watch:
    """How a supervisor watches its child. Times in seconds; a child silent for `hang_s` is replaced.

    `environment` is the child's; told to stop, it may finish its batch for `grace_s`.
    """

    run_dir: Path
    environment: Mapping[str, str]
    crash_limit: int
    hang_s: float
    poll_s: float
    grace_s: float


def last_words(beat_file: Path) -> Path:
    """Return where a child that can't start leaves the reason."""
    return beat_file.with_suffix(".last")


class Child:
    """One render process and its heartbeat file, which it touches on every denoising step and while idle."""

    def __init__(self, run_dir: Path, environment: Mapping[str, str]) -> None:
        self.worker_id = f"w-{uuid.uuid4().hex[:12]}"
        run_dir.mkdir(parents=True, exist_ok=True)
        self.beat_file = run_dir / f"{self.worker_id}.beat"
        self.beat_file.touch()
        self._first_beat = self.beat_file.stat().st_mtime
        command = [sys.executable, "-m", "face0_worker.child", self.worker_id, str(self.beat_file), str(os.getpid())]
        self.process = subprocess.Popen(command, env=dict(environment))

    def silent_s(self) -> float:
        """Seconds since the last sign of life."""
        return time.time() - self.beat_file.stat().st_mtime

    @property
    def loaded(self) -> bool:
        """Whether it has given a sign of life of its own yet."""
        return self.beat_file.stat().st_mtime > self._first_beat

    def why_not(self) -> Face0Error:
        """Why it can't start, as it said itself, with the exit code that it would have ended with."""
        try:
            code, _, sentence = last_words(self.beat_file).read_text(encoding="utf-8").partition(" ")
        except OSError:
            return ModelMissing("the render process can't start; its log says why")
        return {"2": BadInput, "3": Refused}.get(code, ModelMissing)(sentence)

    def kill(self) -> int:
        """End it now; return its exit code."""
        self.process.kill()
        return self.process.wait()

    def forget(self) -> None:
        """Remove its files."""
        self.beat_file.unlink(missing_ok=True)
        last_words(self.beat_file).unlink(missing_ok=True)


class Supervisor:
    """Runs until `stop()`; every step is safe to repeat, so a supervisor may be killed at any moment."""

    def __init__(self, ledger: Ledger, watch: Watch, lead: Callable[[], Round], outages: Outages) -> None:
        """`lead()` does one round of the dispatcher if nobody else leads."""
        self._ledger, self._watch, self._lead, self._outages = ledger, watch, lead, outages
        self._child: Child | None = None
        self._dead: list[Child] = []
        self._asked_to_stop = 0
        self._failures = 0
        self._start_at = 0.0

    def stop(self, *_: object) -> None:
        """Ask the loop to end; asked again, the running batch is handed back at once. A signal handler."""
        self._asked_to_stop += 1

    def run(self) -> None:
        """Watch and dispatch until asked to stop; then the child may finish its batch.

        Raises: ModelMissing, BadInput, Refused: the child can't start until somebody changes a setting.
        LedgerDown: while stopping the ledger could not be told what is handed back; the leases run out instead.
        """
        try:
            while not self._asked_to_stop:
                if not self._round():
                    time.sleep(self._watch.poll_s)
        finally:
            if self._child is not None:
                self._drain(self._child)

    def _round(self) -> int:
        self._mind_child()
        down: list[ServiceDown] = []
        try:
            self._bury_dead()
        except ServiceDown as error:
            down.append(error)
        led = self._lead()
        self._outages.looked([*down, *led.down])
        if led.down:
            time.sleep(OUTAGE_PAUSE_S)
        return led.did

    def _mind_child(self) -> None:
        child = self._child
        if child is None:
            if time.monotonic() >= self._start_at:
                self._child = Child(self._watch.run_dir, self._watch.environment)
                log(Event.CHILD_STARTED, worker=self._child.worker_id, pid=self._child.process.pid)
            return
        code = child.process.poll()
        if code is None:
            if child.silent_s() < (self._watch.hang_s if child.loaded else LOAD_S):
                return
            log(Event.CHILD_HUNG, worker=child.worker_id, silent_s=round(child.silent_s(), 1))
            code = child.kill()
        self._child = None
        if code == CANT_START:
            reason = child.why_not()
            child.forget()
            raise reason
        self._dead.append(child)
        self._failures = 0 if child.loaded else self._failures + 1
        pause = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._start_at = time.monotonic() + pause
        log(Event.CHILD_DIED, worker=child.worker_id, code=code, restart_in_s=pause)

    def _bury_dead(self) -> None:
        """Give the batches of dead children back now instead of when their leases run out."""
        while self._dead:
            self._bury(self._dead[0], crashed=True)
            self._dead.pop(0)

    def _bury(self, child: Child, *, crashed: bool) -> None:
        # before its items wait again: another machine's dispatcher would plan them for a worker that is no more
        jobs.withdraw_offers(self._ledger, child.worker_id)
        if crashed:
            attempts.release(self._ledger, worker_id=child.worker_id, crash_limit=self._watch.crash_limit)
        else:
            batches = attempts.hand_back(self._ledger, child.worker_id)
            if batches:
                log(Event.BATCH_HANDED_BACK, worker=child.worker_id, batches=batches)
        child.forget()

    def _drain(self, child: Child) -> None:
        """Let the child finish its batch, for at most the grace and not after a second request; end it then."""
        log(Event.SUPERVISOR_STOPPING, worker=child.worker_id, grace_s=self._watch.grace_s)
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + self._watch.grace_s
        told_to_end = False
        while child.process.poll() is None:
            if time.monotonic() >= until or self._asked_to_stop > 1:
                child.kill()
                told_to_end = True
            time.sleep(0.05)
        # what it died of by itself counts as ever
        crashed = not told_to_end and child.process.returncode not in (0, -signal.SIGTERM)
        self._farewell(partial(self._bury, child, crashed=crashed))
        self._farewell(self._bury_dead)

    def _farewell(self, tell: Callable[[], None]) -> None:
        until = time.monotonic() + FAREWELL_S
        while True:
            try:
                return tell()
            except ServiceDown as error:
                self._outages.saw(error)
                if time.monotonic() >= until:
                    raise
            time.sleep(0.5)
