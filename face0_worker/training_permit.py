"""Ask the ledger whether a person's photos may be learned from."""

from __future__ import annotations

from collections.abc import Callable

from face0_worker import embedded
from face0_worker.contract.consent import Purpose, Use
from face0_worker.records import consents
from face0_worker.records.ledger import open_ledger
from face0_worker.settings import Settings


def training_permit(settings: Settings) -> Callable[[str], None]:
    """Return what refuses a consent that does not allow training now; the ledger is opened only when it is asked.

    Its call raises: ConsentRefused: as consents.require. LedgerDown: the ledger can't be asked.
    """

    def permit(consent_id: str) -> None:
        ledger = open_ledger(embedded.ledger_url(settings))
        try:
            consents.require(ledger, consent_id, Use(Purpose.TRAINING), stage="train")
        finally:
            ledger.close()

    return permit
