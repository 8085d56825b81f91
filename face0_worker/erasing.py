"""What erases and signs by itself: errands beside the dispatcher that finish erasures and begin those that are due."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from face0_worker.contract.errors import Face0Error, ServiceDown, VerificationFailed
from face0_worker.errands import Errand
from face0_worker.records import catalogues, checkpoints, erasure, schedule
from face0_worker.records.erasure import Eraser, Erasure
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.replay import replay
from face0_worker.records.storage import Storage
from face0_worker.records.vault import Vault
from face0_worker.settings import Settings
from face0_worker.telemetry import Event, log

# how long a write can still be on its way that began before a revocation: four tries with 65 s each and their pauses
# against an S3 server (storage_s3_client), a slow disk else
STORE_S, FOLDER_S = 300.0, 10.0
SCHEDULE_PAUSE_S = 60.0
AGAIN_S = 60.0


def make_eraser(settings: Settings, ledger: Ledger, storage: Storage, vault: Vault, signer: Signer) -> Eraser:
    """Return the eraser of this installation."""
    late_s = STORE_S if settings.storage_url.startswith("s3://") else FOLDER_S
    in_catalogues = partial(_leave_out, ledger, storage, signer)
    return Eraser(ledger, storage, vault, signer, settings.lease_s + late_s, (in_catalogues,))


def _leave_out(ledger: Ledger, storage: Storage, signer: Signer, consent_id: str) -> int:
    return len(catalogues.supersede(ledger, storage, signer, consent_id))


def tell(done: Erasure) -> None:
    """Log a step that was done."""
    log(Event.ERASURE_STEP, consent=done.consent_id, step=done.step, cause=done.cause)


def tell_failed(consent_id: str, error: Exception) -> None:
    """Log why an erasure can't go on; of an error that nobody expected its kind only."""
    reason = str(error) if isinstance(error, Face0Error) else type(error).__name__
    log(Event.ERASURE_FAILED, level=logging.ERROR, consent=consent_id, reason=reason)


def replay_first(eraser: Eraser) -> None:
    """Erase again what a restored backup brought back, before anything is rendered. Raises: as `replay`.

    What can't go on is told: it is withdrawn, nothing of it can be rendered, and the errand goes on with it.
    """
    again = replay(eraser, failed=tell_failed)
    if again:
        log(Event.ERASURE_REPLAYED, level=logging.WARNING, consents=len(again))


def errands(eraser: Eraser, retention_days: int) -> list[Errand]:
    """Return what is done beside the dispatcher."""
    return [
        Errand("erasures", Finishing(eraser).round),
        Errand("retention", partial(schedule.begin, eraser, retention_days), pause_s=SCHEDULE_PAUSE_S),
        Errand("checkpoints", Signing(eraser).round),
    ]


class Finishing:
    """Goes on with erasures. One that fails by itself, not for a service that is away, is tried again in a minute."""

    def __init__(self, eraser: Eraser, clock: Callable[[], float] = time.monotonic) -> None:
        self._eraser, self._clock = eraser, clock
        self._not_before: dict[str, float] = {}

    def round(self) -> int:
        """Go on with every erasure that can go on; return how many. One that fails keeps no other from being finished.

        Raises: ServiceDown: something was away for some of them.
        """
        done, down = 0, list[ServiceDown]()
        for one in erasure.unfinished(self._eraser.ledger):
            if not self._eraser.due(one) or self._clock() < self._not_before.get(one.consent_id, 0.0):
                continue
            try:
                self._eraser.run(one.consent_id)
                done += 1
            except ServiceDown as error:
                down.append(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others' erasures go on
                tell_failed(one.consent_id, error)
                self._not_before[one.consent_id] = self._clock() + AGAIN_S
        if down:
            raise down[0]
        return done


class Signing:
    """Signs the audit chain's head from time to time; says once when storage holds another chain's."""

    def __init__(self, eraser: Eraser) -> None:
        self._ledger, self._storage, self._signer = eraser.ledger, eraser.storage, eraser.signer
        self._forked = False

    def round(self) -> int:
        """Sign and publish what is due; return how many. Raises: ServiceDown."""
        checkpoints.make(self._ledger, self._signer)
        try:
            published = checkpoints.publish(self._ledger, self._storage)
        except VerificationFailed as error:
            if not self._forked:
                log(Event.AUDIT_FORKED, level=logging.ERROR, reason=str(error))
            self._forked = True
            return 0
        self._forked = False
        return published
