"""Withdraw a consent: the ledger first, so that nothing new is made, then the key, then every stored object."""

from __future__ import annotations

from dataclasses import dataclass

from face0_worker.records import consents
from face0_worker.records.consents import Revocation
from face0_worker.records.storage import consent_prefixes
from producer.services import Services


@dataclass(frozen=True)
class Withdrawn:
    """What the ledger did, and how many stored objects were erased now (0 when it is repeated)."""

    revocation: Revocation
    erased: int


def withdraw(services: Services, consent_id: str, *, reason: str = "") -> Withdrawn:
    """Revoke a consent for good and erase the photo, the pictures and the key that opens the photo. Repeatable.

    Raises: BadInput: no such consent. ServiceDown: something could not be erased; the consent is revoked all the
    same, and repeating the call erases the rest.
    """
    revocation = consents.revoke(services.ledger, consent_id, reason=reason)
    services.vault.destroy(consent_id)
    erased = sum(services.storage.delete_prefix(prefix) for prefix in consent_prefixes(consent_id))
    return Withdrawn(revocation, erased)
