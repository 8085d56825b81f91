"""The render child: Celery takes attempts, one thread renders, the others write and commit.

The only place that wires records, queue and render together; the renderer comes in as an argument.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from face0_worker.contract.errors import ConsentRefused, Face0Error, ItemFailed, LeaseLost, Refused, StorageDown
from face0_worker.contract.job import RENDERER_VERSION, ItemState, RenderItem
from face0_worker.contract.receipt import Receipt, Verdict
from face0_worker.records import attempts, commits
from face0_worker.records.attempts import Claim, ClaimedItem
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer, mark_picture
from face0_worker.records.storage import Storage, picture_key
from face0_worker.records.vault import Vault, unseal_face
from face0_worker.telemetry import Event, log

# two batches in hand: one on the render thread, one being written
HANDS = 2
STORE_PAUSE_S = 2.0
T = TypeVar("T")


class Outcome(Protocol):
    """What the renderer says of one item: uint8 pixels (h, w, 3) with a verdict, or an error."""

    @property
    def pixels(self) -> np.ndarray | None: ...
    @property
    def verdict(self) -> Verdict | None: ...
    @property
    def error(self) -> Face0Error | None: ...


# (items with their raw face embeddings, callback per denoising step) -> one outcome per item, in order
Renderer = Callable[[Sequence[tuple[RenderItem, np.ndarray]], Callable[[int, int], None]], Sequence[Outcome]]


@dataclass(frozen=True)
class Office:
    """What a worker needs beside the renderer: where truth, objects, faces' keys and the signature are."""

    ledger: Ledger
    storage: Storage
    vault: Vault
    signer: Signer
    worker_id: str
    lease_s: float
    beat: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class _Rendered:
    claim: Claim
    results: tuple[tuple[ClaimedItem, Outcome], ...]


class Lease:
    """A claim's lease: renewed when a third of it is over, lost for good when the ledger says so."""

    def __init__(self, office: Office, claim: Claim) -> None:
        self._office, self._claim = office, claim
        self._due = time.monotonic() + office.lease_s / 3

    def insist(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, trying again while the store is down: an outage is no crash of the items.

        Raises: LeaseLost: another worker has the batch meanwhile.
        """
        while True:
            try:
                return call()
            except StorageDown as error:
                log(Event.SERVICE_DOWN, reason=str(error))
                self.keep()
                time.sleep(STORE_PAUSE_S)

    def keep(self) -> None:
        """Renew when it is time. Raises: LeaseLost: another worker has the batch."""
        self._office.beat()
        if time.monotonic() >= self._due:
            attempts.renew(self._office.ledger, self._claim.attempt_id, self._claim.token, self._office.lease_s)
            self._due = time.monotonic() + self._office.lease_s / 3


class RenderWorker:
    """One loaded renderer and its dedicated thread. `run` may be called from several threads at once."""

    def __init__(self, office: Office, render: Renderer) -> None:
        self._office, self._render = office, render
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="render")

    def run(self, attempt_id: str) -> None:
        """Render one attempt's items and commit each; nothing happens where another worker has it.

        The claim is made on the render thread, so that a lease never runs while its batch waits for the device.
        A lost lease ends the attempt at once: whoever took it over does the work.
        """
        try:
            done = self._thread.submit(self._claim_and_render, attempt_id).result()
            if done is not None:
                self._write(done)
        except LeaseLost:
            log(Event.LEASE_LOST, attempt=attempt_id, worker=self._office.worker_id)

    def close(self) -> None:
        """Wait for the batch on the render thread to end."""
        self._thread.shutdown(wait=True)

    def _claim_and_render(self, attempt_id: str) -> _Rendered | None:
        office = self._office
        claim = attempts.claim(office.ledger, attempt_id, office.worker_id, office.lease_s)
        if claim is None:
            return None
        lease = Lease(office, claim)
        started = time.monotonic()
        with_faces = self._faces(claim, lease)
        asked = [(item.spec, face) for item, face in with_faces]
        outcomes = self._render(asked, lambda step, steps: lease.keep()) if asked else []
        log(
            Event.BATCH_RENDERED,
            attempt=attempt_id,
            items=len(asked),
            seconds=round(time.monotonic() - started, 3),
        )
        return _Rendered(claim, tuple(zip((item for item, _ in with_faces), outcomes, strict=True)))

    def _faces(self, claim: Claim, lease: Lease) -> list[tuple[ClaimedItem, np.ndarray]]:
        """Decrypt each person's embedding; an item whose key is gone is cancelled and left out."""
        opened: dict[str, np.ndarray] = {}
        ready = []
        for item in claim.items:
            try:
                if item.face_key not in opened:
                    blob = lease.insist(partial(self._office.storage.get, item.face_key))
                    subject = item.subject
                    opened[item.face_key] = unseal_face(
                        self._office.vault, subject.consent_id, blob, digest=subject.face_digest
                    )[1]
                ready.append((item, opened[item.face_key]))
            except Refused as refusal:
                self._end_item(claim, item, ItemState.CANCELLED, refusal)
            except Face0Error as error:
                if error.retryable:
                    raise
                self._end_item(claim, item, ItemState.FAILED, error)
        return ready

    def _write(self, done: _Rendered) -> None:
        lease = Lease(self._office, done.claim)
        for item, outcome in done.results:
            lease.keep()
            if outcome.error is not None:
                self._end_item(done.claim, item, ItemState.FAILED, outcome.error)
            elif outcome.pixels is None or outcome.verdict is None:
                self._end_item(done.claim, item, ItemState.FAILED, ItemFailed("the renderer gave no picture"))
            elif not outcome.verdict.accepted:
                self._end_item(done.claim, item, ItemState.REJECTED, ItemFailed(outcome.verdict.reason))
            else:
                # the ledger has ended the item already: its consent, or somebody who cancelled it
                with contextlib.suppress(ConsentRefused, ItemFailed):
                    self._commit(done.claim, lease, item, outcome.pixels, outcome.verdict)
        attempts.finish_attempt(self._office.ledger, done.claim.attempt_id, done.claim.token)

    def _commit(self, claim: Claim, lease: Lease, item: ClaimedItem, pixels: np.ndarray, verdict: Verdict) -> None:
        office = self._office
        marked = mark_picture(pixels, reference=item.item_key)
        digest = hashlib.sha256(marked).hexdigest()
        key = picture_key(item.subject.consent_id, item.item_key, digest)
        receipt = Receipt(
            item_key=item.item_key,
            picture_key=key,
            picture_sha256=digest,
            consent_id=item.subject.consent_id,
            committed_under_epoch=item.consent_epoch,
            purpose=item.purpose,
            job_id=item.job_id,
            model_digest=item.subject.model_digest,
            embedder_digest=item.subject.embedder_digest,
            seed=item.spec.seed,
            width=item.spec.width,
            height=item.spec.height,
            verdict=verdict,
            renderer_version=RENDERER_VERSION,
        )
        lease.insist(partial(office.storage.put, key, marked))
        try:
            outcome = commits.commit(
                office.ledger, claim.attempt_id, claim.token, item, key, digest, office.signer.sign(receipt), verdict
            )
        except (ConsentRefused, ItemFailed, LeaseLost):
            office.storage.delete(key)  # no two renders share a key: their marks differ
            raise
        if outcome == "kept":  # somebody committed the same item first; this copy is nobody's
            committed = commits.find_commit(office.ledger, item_key=item.item_key)
            if committed is None or committed.picture_key != key:
                office.storage.delete(key)

    def _end_item(self, claim: Claim, item: ClaimedItem, state: ItemState, error: Face0Error) -> None:
        code = getattr(error, "code", type(error).__name__)
        attempts.fail_item(
            self._office.ledger, claim.attempt_id, claim.token, item.item_id, code, str(error), state=state
        )
