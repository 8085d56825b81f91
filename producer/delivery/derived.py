"""Pictures in another form: asked for through the ledger, and waited for while workers make them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from face0_worker.contract.derivation import Form
from face0_worker.contract.errors import ServiceDown
from face0_worker.records import derivations
from producer.delivery.selection import Wanted
from producer.services import Services

_POLL_S = 0.3


def _pause() -> None:
    time.sleep(_POLL_S)


@dataclass(frozen=True)
class Patience:
    """How long workers are waited for: as long as they have made any picture in the last `silence_s` seconds."""

    silence_s: float = 60.0
    pause: Callable[[], None] = _pause
    clock: Callable[[], float] = time.monotonic


def ask(services: Services, wanted: Iterable[Wanted], form: Form) -> dict[str, str]:
    """Ask for pictures in another form; return their keys by item key. What is made already is not made again."""
    groups: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for one in wanted:
        groups[one.job_id, one.consent_id, one.use.purpose][one.item_key] = one.picture_sha256
    keys: dict[str, str] = {}
    for (job_id, consent_id, purpose), parents in groups.items():
        asked = {"job_id": job_id, "consent_id": consent_id, "purpose": purpose}
        keys |= derivations.request(services.ledger, **asked, parents=parents, form=form)
    return keys


def wait_for(services: Services, keys: Collection[str], patience: Patience) -> dict[str, str]:
    """Return, when each of these has ended, "" or a sentence why it could not be made.

    Raises: ServiceDown: no worker makes any; what is made stays.
    """
    last, until = None, patience.clock() + patience.silence_s
    while len(ended := derivations.ended(services.ledger, keys)) < len(set(keys)):
        newest = derivations.last_ended(services.ledger)
        if newest != last:
            last, until = newest, patience.clock() + patience.silence_s
        elif patience.clock() >= until:
            raise ServiceDown(
                f"no worker has made a picture in another form for {patience.silence_s:.0f} s; start one with "
                "`face0 up`, and repeat the command: it goes on where it stopped"
            )
        patience.pause()
    return ended
