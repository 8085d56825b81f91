"""Look at rejected pictures and decide: to accept one commits it, to reject one erases it."""

from __future__ import annotations

import time

from face0_worker.contract.errors import BadInput, VerificationFailed, WorkFailed
from face0_worker.records import consents, held, review
from face0_worker.records.held import Held
from face0_worker.records.review import ACCEPTED, REJECTED
from face0_worker.records.storage import StorageMissing
from producer.services import Services

_EVERY_S = 0.3


def open_picture(services: Services, item_id: int, *, by: str) -> tuple[Held, bytes]:
    """Return a rejected picture as PNG; the consent is asked, and the look stands in the audit log with `by`.

    Raises: BadInput: nothing is held for this item. ConsentRefused. Refused: its key was destroyed.
    VerificationFailed: the held picture is gone or was changed.
    """
    one = held.get(services.ledger, item_id)
    review.note_shown(services.ledger, one, by)
    try:
        if one.held_key:
            sealed = services.storage.get(one.held_key)
            return one, services.vault.unseal(one.consent_id, sealed, about=held.about(one.item_key))
        committed = held.committed_key(services.ledger, one)
        if committed is not None:
            return one, services.storage.get(committed)
    except StorageMissing as error:
        raise VerificationFailed("the held picture is missing from storage") from error
    raise BadInput(f"the picture of item {item_id} was {one.decision or 'erased'}; nothing is held any more")


def accept(services: Services, item_id: int, *, by: str, wait_s: float) -> Held:
    """Accept a rejected picture, and wait until a worker's machine has committed it, for at most `wait_s` seconds.

    Repeating it goes on waiting. The result's `ended` says whether it is committed.
    Raises: BadInput: nothing is held, or it was rejected. ConsentRefused: not allowed now. WorkFailed: it can't be
    committed; the sentence says why.
    """
    one = review.decide(services.ledger, item_id, ACCEPTED, by)
    deadline = time.monotonic() + wait_s
    while not one.ended and time.monotonic() < deadline:
        time.sleep(_EVERY_S)
        one = held.get(services.ledger, item_id)
    if one.error:
        consents.require(services.ledger, one.consent_id, one.use, stage="review")
        raise WorkFailed(f"item {item_id} was accepted but can't be committed: {one.error}")
    return one


def reject(services: Services, item_id: int, *, by: str) -> Held:
    """Reject a picture for good and erase it; repeating it erases what an earlier try left.

    A picture that an earlier job committed stays that job's. Raises: BadInput: nothing is held, or it was accepted.
    """
    one = review.decide(services.ledger, item_id, REJECTED, by)
    if one.held_key:
        services.storage.delete(one.held_key)
    review.mark_erased(services.ledger, item_id)
    return held.get(services.ledger, item_id)
