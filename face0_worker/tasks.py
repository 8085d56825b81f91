"""The render child: Celery takes attempts, one thread renders, the others write and commit.

The only place that wires records, queue and render together; the renderer comes in as an argument.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from face0_worker.contract.errors import (
    ConsentRefused,
    Face0Error,
    ItemFailed,
    LeaseLost,
    Refused,
    StorageDown,
)
from face0_worker.contract.job import RENDERER_VERSION, ItemState, RenderItem
from face0_worker.contract.receipt import Receipt, Verdict
from face0_worker.lease import Lease, Patience
from face0_worker.records import attempts, commits
from face0_worker.records.attempts import Claim, ClaimedItem
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer, mark_picture
from face0_worker.records.storage import Storage, picture_key
from face0_worker.records.vault import Vault, unseal_face
from face0_worker.telemetry import Event, log

# two batches in hand: one on the render thread, one being written
HANDS = 2
QUIET_POLL_S = 0.5


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
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class _Rendered:
    claim: Claim
    lease: Lease
    results: tuple[tuple[ClaimedItem, Outcome], ...]


class RenderWorker:
    """One loaded renderer and its dedicated thread. `run` may be called from several threads at once."""

    def __init__(self, office: Office, render: Renderer) -> None:
        self._office, self._render = office, render
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="render")
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._writing: list[Claim] = []

    def run(self, attempt_id: str) -> None:
        """Render one attempt's items and commit each; nothing happens where another worker has it.

        The claim is made on the render thread, so that a lease never runs while its batch waits for the device.
        A lost lease ends the attempt at once: whoever took it over does the work. Whatever else is raised comes
        from the renderer or is a mistake in here, and the caller ends the process.
        """
        try:
            done = self._thread.submit(self._claim_and_render, attempt_id).result()
            if done is None:
                return
            try:
                self._write(done)
            finally:
                with self._changed:
                    self._writing.remove(done.claim)
                    self._changed.notify_all()
        except LeaseLost:
            log(Event.LEASE_LOST, attempt=attempt_id, worker=self._office.worker_id)

    def stop(self) -> None:
        """Claim nothing more; what was claimed is finished. May be called from a signal handler."""
        self._stopping.set()

    def close(self) -> None:
        """Wait for the batch on the render thread to end."""
        self._thread.shutdown(wait=True)

    def _claim_and_render(self, attempt_id: str) -> _Rendered | None:
        office = self._office
        claim = office.patience.insist(partial(self._claim, attempt_id))
        if claim is None:
            return None
        lease = Lease(office.ledger, claim, office.lease_s, office.patience)
        self._wait_for_quiet(claim, lease)
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
        done = _Rendered(claim, lease, tuple(zip((item for item, _ in with_faces), outcomes, strict=True)))
        with self._changed:
            self._writing.append(claim)
        return done

    def _claim(self, attempt_id: str) -> Claim | None:
        # asked at each try: while the ledger was away somebody may have told this process to stop
        if self._stopping.is_set():
            return None
        return attempts.claim(self._office.ledger, attempt_id, self._office.worker_id, self._office.lease_s)

    def _wait_for_quiet(self, claim: Claim, lease: Lease) -> None:
        """Wait while another batch is written, where one of the two is solo: a crash must be its own item's doing."""
        with self._changed:
            while self._writing and (claim.solo or any(other.solo for other in self._writing)):
                self._changed.wait(QUIET_POLL_S)
                lease.keep()

    def _faces(self, claim: Claim, lease: Lease) -> list[tuple[ClaimedItem, np.ndarray]]:
        """Decrypt each person's embedding; an item whose key is gone is cancelled and left out."""
        opened: dict[str, np.ndarray] = {}
        ready = []
        for item in claim.items:
            try:
                if item.face_key not in opened:
                    opened[item.face_key] = lease.insist(partial(self._unsealed, item))
                ready.append((item, opened[item.face_key]))
            except Refused as refusal:
                self._end_item(claim, lease, item, ItemState.CANCELLED, refusal)
            except LeaseLost:
                raise
            except Face0Error as error:
                self._end_item(claim, lease, item, ItemState.FAILED, error)
        return ready

    def _unsealed(self, item: ClaimedItem) -> np.ndarray:
        sealed = self._office.storage.get(item.face_key)
        subject = item.subject
        return unseal_face(self._office.vault, subject.consent_id, sealed, digest=subject.face_digest)[1]

    def _write(self, done: _Rendered) -> None:
        claim, lease = done.claim, done.lease
        for item, outcome in done.results:
            lease.keep()
            if outcome.error is not None:
                self._end_item(claim, lease, item, ItemState.FAILED, outcome.error)
            elif outcome.pixels is None or outcome.verdict is None:
                self._end_item(claim, lease, item, ItemState.FAILED, ItemFailed("the renderer gave no picture"))
            elif not outcome.verdict.accepted:
                self._end_item(claim, lease, item, ItemState.REJECTED, ItemFailed(outcome.verdict.reason))
            else:
                # the ledger has ended the item already: its consent, or somebody who cancelled it
                with contextlib.suppress(ConsentRefused, ItemFailed):
                    self._commit(claim, lease, item, outcome.pixels, outcome.verdict)
        lease.insist(partial(attempts.finish_attempt, self._office.ledger, claim.attempt_id, claim.token))

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
        signed = office.signer.sign(receipt)
        named = (claim.attempt_id, claim.token, item, key, digest, signed, verdict)
        try:
            outcome = lease.insist(partial(commits.commit, office.ledger, *named))
        except (ConsentRefused, ItemFailed, LeaseLost):
            self._drop(key)
            raise
        if outcome == "kept":  # somebody committed the same item first; this copy is nobody's
            committed = lease.insist(partial(commits.find_commit, office.ledger, item_key=item.item_key))
            if committed is None or committed.picture_key != key:
                self._drop(key)

    def _drop(self, key: str) -> None:
        """Erase a picture that was not committed; no two renders share a key: their marks differ."""
        try:
            self._office.storage.delete(key)
        except StorageDown as error:
            self._office.patience.outages.saw(error)  # swept when its job ends, erased with its person

    def _end_item(self, claim: Claim, lease: Lease, item: ClaimedItem, state: ItemState, error: Face0Error) -> None:
        code = getattr(error, "code", type(error).__name__)
        fail = partial(attempts.fail_item, self._office.ledger, claim.attempt_id, claim.token, item.item_id)
        lease.insist(partial(fail, code, str(error), state=state))
