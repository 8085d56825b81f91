"""Threads beside the dispatcher, for what may wait on others (a receiver, an encoder) and must not keep it waiting."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType

from face0_worker.contract.errors import LedgerDown, ServiceDown
from face0_worker.outages import Outages
from face0_worker.telemetry import Event, log

PAUSE_S = 1.0  # when there was nothing to do
OUTAGE_PAUSE_S = 5.0
FAREWELL_S = 20.0  # longer than any receiver is listened to


class Errand:
    """Does one thing again and again in a thread of its own, from entering a `with` until leaving it.

    `round()` returns how much it did; it is safe to be cut off at any moment, for the ledger knows what is left.
    """

    def __init__(self, name: str, round_: Callable[[], int], *, pause_s: float = PAUSE_S) -> None:
        self._name, self._round, self._pause_s = name, round_, pause_s
        self._outages = Outages()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Errand:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.join(FAREWELL_S)

    def stop(self) -> None:
        """Let the round that runs be the last one."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the last round to end, for at most so long."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        down: list[ServiceDown] = []
        while not self._stop.is_set():
            pause_s = 0.0
            try:
                if not self._round():
                    pause_s = self._pause_s
                self._outages.answered(down)
                down = []
            except ServiceDown as error:
                pause_s = OUTAGE_PAUSE_S
                if not isinstance(error, LedgerDown):  # of the ledger the dispatcher speaks, in this very process
                    self._outages.saw(error)
                    down.append(error)
            except Exception as error:  # noqa: BLE001 - nobody would miss the thread
                pause_s = OUTAGE_PAUSE_S
                log(Event.ERRAND_FAILED, level=logging.ERROR, errand=self._name, error=type(error).__name__)
            self._stop.wait(pause_s)


@contextmanager
def running(errands: Sequence[Errand]) -> Iterator[None]:
    """Let all of these run until the block ends; from then on they have FAREWELL_S together, not each."""
    with ExitStack() as stack:
        for errand in errands:
            stack.enter_context(errand)
        try:
            yield
        finally:
            for errand in errands:
                errand.stop()
            until = time.monotonic() + FAREWELL_S
            for errand in errands:
                errand.join(max(0.0, until - time.monotonic()))
            stack.pop_all()
