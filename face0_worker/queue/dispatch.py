"""The dispatcher: plans batches, keeps a small window of them outstanding, and repairs every state from the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from face0_worker.contract.errors import LedgerDown, ServiceDown
from face0_worker.contract.job import batch_message
from face0_worker.contract.pace import Size, best_batches
from face0_worker.queue.app import QueueLength, Send, queue_name
from face0_worker.records import attempts, audit, offers, waiting
from face0_worker.records.ledger import Ledger
from face0_worker.records.waiting import Batch as Batch
from face0_worker.records.waiting import WaitingItem as WaitingItem

# A message is claimed within milliseconds of being received; one unclaimed for longer may have been lost.
RESEND_AFTER_S = 2.0


def plan_batches(
    waiting: Sequence[WaitingItem], batch_size: int, best: Mapping[Size, int] = MappingProxyType({})
) -> list[Batch]:
    """Group the items that can share one batch, at most `best[width, height]` together, `batch_size` of others. Pure.

    Items keep their order in a batch, and batches are in the order of their first items. Items of one batch have
    the same model, size, steps, sampler and precision; people and jobs mix freely. A solo item goes alone.
    """
    batches: list[list[WaitingItem]] = []
    filling: dict[tuple[object, ...], list[WaitingItem]] = {}
    for item in waiting:
        shape = (item.model_digest, item.width, item.height, item.steps, item.sampler, item.precision)
        batch = None if item.solo else filling.get(shape)
        if batch is None or len(batch) >= best.get((item.width, item.height), batch_size):
            batch = []
            batches.append(batch)
            if not item.solo:
                filling[shape] = batch
        batch.append(item)
    return [Batch(tuple(batch)) for batch in batches]


def _plan(found: Sequence[WaitingItem], most: int, *, usual: int, best: Mapping[Size, int]) -> list[Batch]:
    """Plan what was found for batches of at most `most`: each size in its own best batch."""
    return plan_batches(found, min(usual, most), best)


def dispatch(
    ledger: Ledger,
    send: Send,
    *,
    batch_size: int,
    window: int,
    queue_length: QueueLength,
    calibrated: bool = False,
    resend_after_s: float = RESEND_AFTER_S,
) -> int:
    """Fill the window of every live model and send what the broker lost; return how many new batches were sent.

    With `calibrated` a batch is as large as the model's live workers found best for its size, and `batch_size` where
    none of them has measured it. At most `window` batches per live worker are outstanding, so that an urgent job
    overtakes a long one. A message is sent after its attempt stands in the ledger, and again as long as nobody has
    claimed it (promise P9).
    Raises: BrokerDown: the attempts stand and are sent by a later call. LedgerDown.
    """
    new = 0
    paces = offers.live_paces(ledger) if calibrated else {}
    for model_digest, workers in sorted(offers.live_workers(ledger).items()):
        best = best_batches(paces.get(model_digest, ()))
        most = max([batch_size, *best.values()])
        plan = partial(_plan, usual=batch_size, best=best)
        taken = waiting.take_waiting(ledger, model_digest, workers * window, most, plan)
        _send(ledger, send, [(attempt_id, model_digest) for attempt_id in taken])
        new += len(taken)
    resend(ledger, send, queue_length, resend_after_s)
    return new


def _send(ledger: Ledger, send: Send, outgoing: Sequence[tuple[str, str]]) -> None:
    for attempt_id, model_digest in outgoing:
        send(queue_name(model_digest), batch_message(attempt_id))
    waiting.mark_sent(ledger, [attempt_id for attempt_id, _ in outgoing])


def resend(ledger: Ledger, send: Send, queue_length: QueueLength, resend_after_s: float = RESEND_AFTER_S) -> int:
    """Send unclaimed attempts again when their queue holds fewer messages than there are; return how many.

    A message too many costs nothing: the second claim of an attempt gets nothing.
    """
    unclaimed = waiting.unclaimed(ledger, resend_after_s)
    expected = Counter(queue_name(attempt.model_digest) for attempt in unclaimed)
    due = {queue_name(attempt.model_digest) for attempt in unclaimed if attempt.due}
    missing = {queue: expected[queue] - queue_length(queue) for queue in sorted(due)}
    lost = []
    # what was never sent certainly is not in the queue; of the rest the oldest has most likely been lost
    for attempt in sorted((attempt for attempt in unclaimed if attempt.due), key=lambda attempt: attempt.sent):
        queue = queue_name(attempt.model_digest)
        if missing[queue] > 0:
            missing[queue] -= 1
            lost.append((attempt.attempt_id, attempt.model_digest))
    _send(ledger, send, lost)
    return len(lost)


@dataclass(frozen=True)
class Repairs:
    """What one round of repairs did, as counts, and which services kept it from doing more."""

    released: int = 0
    resent: int = 0
    chained: int = 0
    down: tuple[ServiceDown, ...] = ()


def reconcile(
    ledger: Ledger,
    *,
    send: Send,
    queue_length: QueueLength,
    crash_limit: int,
    expire: bool = True,
    spare_s: float = 0.0,
    resend_after_s: float = RESEND_AFTER_S,
) -> Repairs:
    """Put right whatever was left half done, from the ledger alone; safe at any moment and by several at once.

    Expired leases, messages the broker lost, the audit chain. What lacks in the store is another's (finishing.py).
    A service that is down is named in `down` and keeps no other repair from being made. Leases that ran out are left
    alone where `expire` is false, and for `spare_s` seconds after the ledger's start.
    """
    repairs: dict[str, Callable[[], int]] = {
        "released": lambda: len(attempts.release(ledger, expired=expire, crash_limit=crash_limit, spare_s=spare_s)),
        "resent": lambda: resend(ledger, send, queue_length, resend_after_s),
        "chained": lambda: audit.chain(ledger),
    }
    counts: dict[str, int] = {}
    down: list[ServiceDown] = []
    for name, repair in repairs.items():
        try:
            counts[name] = repair()
        except ServiceDown as error:
            down.append(error)
            if isinstance(error, LedgerDown):  # nothing can be repaired without it
                break
    return Repairs(**counts, down=tuple(down))
