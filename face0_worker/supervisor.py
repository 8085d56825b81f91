"""What `face0-worker run` is: keeps one render child alive and runs the dispatcher under an advisory lock. Torch-free.

The child holds the pipeline. It is replaced when it dies, and when its heartbeat stops: then its batch goes back
to the ledger at once, and the items of that batch go alone (a crash alone is what counts against an item).
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
from pathlib import Path

from face0_worker.contract.errors import ServiceDown
from face0_worker.records import attempts, jobs
from face0_worker.records.ledger import Ledger
from face0_worker.telemetry import Event, log

# loading a large model takes minutes; a child that has not come up by then never will
LOAD_S = 600.0
GRACE_S = 60.0
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Watch:
    """How a supervisor watches its child. Times in seconds; a child silent for `hang_s` is replaced."""

    run_dir: Path
    crash_limit: int
    hang_s: float
    poll_s: float


class Child:
    """One render process and its heartbeat file, which it touches on every denoising step and while idle."""

    def __init__(self, run_dir: Path, environment: Mapping[str, str]) -> None:
        self.worker_id = f"w-{uuid.uuid4().hex[:12]}"
        run_dir.mkdir(parents=True, exist_ok=True)
        self.beat_file = run_dir / f"{self.worker_id}.beat"
        self.beat_file.touch()
        self._started = time.time()
        self._first_beat = self.beat_file.stat().st_mtime
        command = [sys.executable, "-m", "face0_worker.child", self.worker_id, str(self.beat_file)]
        self.process = subprocess.Popen(command, env=dict(environment))

    def silent_s(self) -> float:
        """Seconds since the last sign of life."""
        return time.time() - self.beat_file.stat().st_mtime

    @property
    def loaded(self) -> bool:
        """Whether it has given a sign of life of its own yet."""
        return self.beat_file.stat().st_mtime > self._first_beat

    def stop(self, grace_s: float) -> None:
        """Let it finish its batch, for at most `grace_s`; then end it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.beat_file.unlink(missing_ok=True)


class Supervisor:
    """Runs until `stop()`; every step is safe to repeat, so a supervisor may be killed at any moment."""

    def __init__(self, ledger: Ledger, watch: Watch, lead: Callable[[], int]) -> None:
        """`lead()` does one round of the dispatcher if nobody else leads, and returns how much it did."""
        self._ledger, self._watch, self._lead = ledger, watch, lead
        self._child: Child | None = None
        self._stopping = False
        self._failures = 0
        self._start_at = 0.0
        self._ledger_down = False

    def stop(self, *_: object) -> None:
        """Ask the loop to end; a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Watch and dispatch until asked to stop; then the child finishes its batch and is ended."""
        try:
            while not self._stopping:
                did = self._round()
                if not did:
                    time.sleep(self._watch.poll_s)
        finally:
            if self._child is not None:
                log(Event.SUPERVISOR_STOPPING, worker=self._child.worker_id)
                self._child.stop(GRACE_S)
                self._bury(self._child)

    def _round(self) -> int:
        try:
            self._mind_child()
            did = self._lead()
            if self._ledger_down:
                self._ledger_down = False
                log(Event.SERVICE_BACK)
            return did
        except ServiceDown as error:
            if not self._ledger_down:  # said once, not at every poll
                self._ledger_down = True
                log(Event.SERVICE_DOWN, reason=str(error))
            time.sleep(1.0)
            return 0

    def _mind_child(self) -> None:
        child = self._child
        if child is None:
            if time.monotonic() >= self._start_at:
                self._child = Child(self._watch.run_dir, os.environ)
                log(Event.CHILD_STARTED, worker=self._child.worker_id, pid=self._child.process.pid)
            return
        code = child.process.poll()
        if code is None:
            if child.silent_s() < (self._watch.hang_s if child.loaded else LOAD_S):
                return
            log(Event.CHILD_HUNG, worker=child.worker_id, silent_s=round(child.silent_s(), 1))
            child.process.kill()
            code = child.process.wait()
        self._failures = 0 if child.loaded else self._failures + 1
        pause = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._start_at = time.monotonic() + pause
        self._child = None
        log(Event.CHILD_DIED, worker=child.worker_id, code=code, restart_in_s=pause)
        child.beat_file.unlink(missing_ok=True)
        self._bury(child)

    def _bury(self, child: Child) -> None:
        """Give its batches back now instead of when their leases run out."""
        attempts.release(self._ledger, worker_id=child.worker_id, crash_limit=self._watch.crash_limit)
        jobs.withdraw_offers(self._ledger, child.worker_id)
