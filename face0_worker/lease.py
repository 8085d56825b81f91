"""A worker's patience: what an outage stopped is tried again, and the lease on a batch is kept meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from face0_worker.contract.errors import LedgerDown, ServiceDown
from face0_worker.outages import Outages
from face0_worker.records import attempts
from face0_worker.records.attempts import Claim
from face0_worker.records.ledger import Ledger

# between two tries of what an outage stopped
PAUSE_S = 2.0
# between two questions which items are still wanted: a revocation must reach a running batch within ten seconds
ASK_S = 2.0
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How a worker waits for services: it gives a sign of life at each try and says what is away."""

    outages: Outages = field(default_factory=Outages)
    beat: Callable[[], None] = lambda: None

    def insist(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, trying again for as long as a service is away."""
        met: dict[type[ServiceDown], ServiceDown] = {}
        while True:
            self.beat()
            try:
                result = call()
            except ServiceDown as error:
                if not error.retryable:
                    raise
                self.outages.saw(error)
                met[type(error)] = error
                time.sleep(PAUSE_S)
            else:
                self.outages.answered(met.values())
                return result


class Lease:
    """A claim's lease: renewed when a third of it is over, lost for good when the ledger says so.

    While the ledger is away nobody can take the batch, so the work goes on and the lease is renewed late. The lease
    also learns which of its items somebody has ended meanwhile: revoked with their consent, or cancelled.
    """

    def __init__(self, ledger: Ledger, claim: Claim, lease_s: float, patience: Patience) -> None:
        self._ledger, self._claim, self._lease_s, self._patience = ledger, claim, lease_s, patience
        self._due = time.monotonic() + lease_s / 3
        self._missed: LedgerDown | None = None
        self._ask_at = time.monotonic() + ASK_S
        self._wanted = frozenset(item.item_id for item in claim.items)

    def wants(self, item_id: int) -> bool:
        """Whether the item was still to be rendered when the ledger was asked last, at most ASK_S before `keep`."""
        return item_id in self._wanted

    def insist(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, trying again while a service is away: an outage is no crash of the items.

        Raises: LeaseLost: another worker has the batch meanwhile.
        """

        def with_the_lease() -> T:
            if self._missed is not None:
                # it may have run out meanwhile, and what follows needs one that runs
                self._due = time.monotonic()
            self._renew_when_due()
            try:
                self._ask_when_due()
                return call()
            except LedgerDown as error:
                self._missed, self._due = error, time.monotonic()
                raise

        return self._patience.insist(with_the_lease)

    def keep(self) -> None:
        """Renew and ask when it is time; a ledger that is away is asked again later. Raises: LeaseLost."""
        self._patience.beat()
        try:
            self._renew_when_due()
            self._ask_when_due()
        except LedgerDown as error:
            self._patience.outages.saw(error)

    def _renew_when_due(self) -> None:
        if time.monotonic() < self._due:
            return
        claim, late = self._claim, self._missed is not None
        try:
            attempts.renew(self._ledger, claim.attempt_id, claim.token, self._lease_s, late=late)
        except LedgerDown as error:
            self._missed, self._due = error, time.monotonic() + PAUSE_S
            raise
        if self._missed is not None:
            self._patience.outages.answered([self._missed])
            self._missed = None
        self._due = time.monotonic() + self._lease_s / 3

    def _ask_when_due(self) -> None:
        if time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + ASK_S
            self._wanted &= attempts.still_running(self._ledger, self._claim.attempt_id)
