"""What a process says about services that are away: one line when it begins, few while it lasts, one when it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from face0_worker.contract.errors import BrokerDown, LedgerDown, ServiceDown, StorageDown
from face0_worker.telemetry import Event, log

# the first reminder of an outage; each further one comes after twice the time
STILL_AFTER_S = 60.0
# what fails so soon after a service was seen back mostly began before it was: a connection that was being made
ECHO_S = 5.0
_SERVICES: dict[str, type[ServiceDown]] = {"broker": BrokerDown, "ledger": LedgerDown, "storage": StorageDown}


class Outages:
    """Folds an outage that many threads meet many times into few lines. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._remind_at: dict[str, float] = {}
        self._back_at: dict[str, float] = {}

    def saw(self, error: ServiceDown) -> None:
        """A call has failed because a service is away. Logged when that is news.

        For `ECHO_S` after the service was seen back it is none: what began before may still fail. One that is away
        again is tried again, and said then.
        """
        service, now = _service(error), self._clock()
        with self._lock:
            known = service in self._since
            if not known and now - self._back_at.get(service, -ECHO_S) < ECHO_S:
                return
            since = self._since.setdefault(service, now)
            if known and now < self._remind_at[service]:
                return
            self._remind_at[service] = since + max(STILL_AFTER_S, 2 * (now - since))
        event = Event.SERVICE_STILL_DOWN if known else Event.SERVICE_DOWN
        log(event, level=logging.WARNING, service=service, seconds=round(now - since, 1), reason=str(error))

    def answered(self, errors: Iterable[ServiceDown]) -> None:
        """What had failed with these errors works again. Logged when it was away."""
        for service in {_service(error) for error in errors}:
            self._back(service)

    def looked(self, errors: Iterable[ServiceDown]) -> None:
        """Every service was tried: those of `errors` are away, the others work."""
        found = list(errors)
        for error in found:
            self.saw(error)
        for service in {*_SERVICES} - {_service(error) for error in found}:
            self._back(service)

    def _back(self, service: str) -> None:
        with self._lock:
            since = self._since.pop(service, None)
            self._remind_at.pop(service, None)
            if since is not None:
                self._back_at[service] = self._clock()
        if since is not None:
            log(Event.SERVICE_BACK, service=service, seconds=round(self._clock() - since, 1))


def _service(error: ServiceDown) -> str:
    return next((name for name, kind in _SERVICES.items() if isinstance(error, kind)), "service")
