"""Withdraw a consent: the ledger first, so that nothing new is made, then the key, then every stored object."""

from __future__ import annotations

from dataclasses import dataclass

from face0_worker.erasing import make_eraser
from face0_worker.records import consents
from face0_worker.records.erasure import Eraser, Step
from face0_worker.records.revocation import Revocation
from producer.services import Services


@dataclass(frozen=True)
class Withdrawn:
    """What the ledger did, how many stored objects were erased, and which step of the erasure is next.

    `step` is "sweep" until every writer that began before the revocation must have ended; a worker does the rest.
    """

    revocation: Revocation
    erased: int
    step: Step


def eraser(services: Services) -> Eraser:
    """Return what erases in this installation. Raises: as the services that it needs."""
    return make_eraser(services.settings, services.ledger, services.storage, services.vault, services.signer)


def withdraw(services: Services, consent_id: str, *, reason: str = "") -> Withdrawn:
    """Revoke a consent for good and erase the photo, the pictures and the key that opens the photo. Repeatable.

    Raises: BadInput: no such consent. ServiceDown: something could not be erased; the consent is revoked all the
    same, and a worker erases the rest, or repeating the call.
    """
    revocation = consents.revoke(services.ledger, consent_id, reason=reason)
    erasure = eraser(services).run(consent_id)
    return Withdrawn(revocation, erasure.counts.get("objects", 0), erasure.step)
