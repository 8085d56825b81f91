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

import numpy as np

from face0_worker.contract.bars import told
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
from face0_worker.faces.sealed import skin_of
from face0_worker.faces.skin import Lab
from face0_worker.lease import Lease, Patience
from face0_worker.records import attempts, commits, held
from face0_worker.records.attempts import Claim, ClaimedItem
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer, mark_picture
from face0_worker.records.release import open_face
from face0_worker.records.storage import Storage, held_key, picture_key
from face0_worker.records.vault import Vault
from face0_worker.second_chance import Judged, Outcome, better, judged, next_try
from face0_worker.telemetry import Event, log

# two batches in hand: one on the render thread, one being written
HANDS = 2
QUIET_POLL_S = 0.5


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
    results: tuple[Judged, ...]


@dataclass(frozen=True)
class _Face:
    """A person's raw embedding float32 (d,), and the colour of their face on the photo."""

    embedding: np.ndarray
    skin: Lab | None


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
        results = self._with_second_chances(claim, lease, with_faces)
        log(
            Event.BATCH_RENDERED,
            attempt=attempt_id,
            items=len(results),
            seconds=round(time.monotonic() - started, 3),
        )
        done = _Rendered(claim, lease, tuple(results))
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

    def _with_second_chances(
        self, claim: Claim, lease: Lease, with_faces: Sequence[tuple[ClaimedItem, _Face]]
    ) -> list[Judged]:
        """Render all; those that the gate rejects again with the next seed, as often as their job allows."""
        best: dict[int, Judged] = {}
        asked, turn = list(with_faces), 0
        while asked:
            skins = {item.item_id: face.skin for item, face in asked}
            for item, outcome in self._render_wanted(claim, lease, asked):
                one = judged(item, outcome, skins[item.item_id], turn + 1)
                best[item.item_id] = better(best.get(item.item_id), one)
            turn += 1
            asked = [
                (next_try(item, turn), face)
                for item, face in with_faces
                if turn <= item.bars.retries and item.item_id in best and best[item.item_id].rejected
            ]
            if asked:
                log(Event.BATCH_AGAIN, attempt=claim.attempt_id, items=len(asked), turn=turn)
        return list(best.values())

    def _render_wanted(
        self, claim: Claim, lease: Lease, with_faces: Sequence[tuple[ClaimedItem, _Face]]
    ) -> list[tuple[ClaimedItem, Outcome]]:
        """Render what is still wanted. A batch of which an item was ended meanwhile begins again without it.

        Nothing else gets a revoked person off the device at once, and the others' pictures come out the same: an
        item's pixels don't depend on its neighbours (promise P10).
        """
        while wanted := [(item, face) for item, face in with_faces if lease.wants(item.item_id)]:
            ids = [item.item_id for item, _ in wanted]
            asked = [(item.spec, face.embedding) for item, face in wanted]
            try:
                outcomes = self._render(asked, partial(_go_on, lease, ids))
            except _Ended:
                left = sum(lease.wants(item_id) for item_id in ids)
                log(Event.BATCH_ABORTED, attempt=claim.attempt_id, ended=len(ids) - left, left=left)
            else:
                return list(zip((item for item, _ in wanted), outcomes, strict=True))
        return []

    def _faces(self, claim: Claim, lease: Lease) -> list[tuple[ClaimedItem, _Face]]:
        """Decrypt each person's embedding; an item whose consent or key is gone is cancelled and left out."""
        opened: dict[tuple[str, str], _Face] = {}
        ready = []
        for item in claim.items:
            try:
                wanted = (item.face_key, item.purpose)
                if wanted not in opened:
                    opened[wanted] = lease.insist(partial(self._unsealed, item))
                ready.append((item, opened[wanted]))
            except Refused as refusal:
                self._end_item(claim, lease, item, ItemState.CANCELLED, refusal)
            except LeaseLost:
                raise
            except Face0Error as error:
                self._end_item(claim, lease, item, ItemState.FAILED, error)
        return ready

    def _unsealed(self, item: ClaimedItem) -> _Face:
        office, subject = self._office, item.subject
        sealed = office.storage.get(item.face_key)
        asked = (subject.consent_id, item.purpose, sealed)
        digest, by = subject.face_digest, office.worker_id
        photo, embedding = open_face(office.ledger, office.vault, *asked, digest=digest, by=by)
        return _Face(embedding, skin_of(photo))

    def _write(self, done: _Rendered) -> None:
        claim, lease = done.claim, done.lease
        for one in done.results:
            item = one.item
            lease.keep()
            if not lease.wants(item.item_id):
                continue  # the ledger has ended it already
            if one.pixels is None or one.verdict is None:
                error = one.error or ItemFailed("the renderer gave no picture")
                self._end_item(claim, lease, item, ItemState.FAILED, error)
                continue
            # the ledger has ended the item already: its consent, or somebody who cancelled it
            with contextlib.suppress(ConsentRefused, ItemFailed):
                if one.verdict.accepted:
                    self._commit(claim, lease, item, one.pixels, one.verdict)
                else:
                    self._hold(claim, lease, item, one.pixels, one.verdict)
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
            width=pixels.shape[1],
            height=pixels.shape[0],
            verdict=verdict,
            renderer_version=RENDERER_VERSION,
        )
        lease.insist(partial(self._store, lease, item, key, marked))
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

    def _hold(self, claim: Claim, lease: Lease, item: ClaimedItem, pixels: np.ndarray, verdict: Verdict) -> None:
        """Keep a rejected picture, sealed under its consent's key, until a human decides."""
        office, consent_id = self._office, item.subject.consent_id
        marked = mark_picture(pixels, reference=item.item_key)
        try:
            data = lease.insist(partial(office.vault.seal, consent_id, marked, about=held.about(item.item_key)))
        except Refused as refusal:
            return self._end_item(claim, lease, item, ItemState.CANCELLED, refusal)
        key = held_key(consent_id, item.item_key, hashlib.sha256(data).hexdigest())
        lease.insist(partial(self._store, lease, item, key, data))
        sealed = held.Sealed(key, item.spec.seed, verdict, told(verdict, item.bars))
        named = (claim.attempt_id, claim.token, item, sealed)
        try:
            if not lease.insist(partial(held.hold_picture, office.ledger, *named)):
                self._drop(key)
        except LeaseLost:
            self._drop(key)
            raise

    def _store(self, lease: Lease, item: ClaimedItem, key: str, marked: bytes) -> None:
        if not lease.wants(item.item_id):  # asked at each try: a store that comes back late gets nothing revoked
            raise ItemFailed("the item was ended before its picture could be stored")
        self._office.storage.put(key, marked)

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


class _Ended(Exception):
    """An item of the batch that is being rendered was revoked or cancelled."""


def _go_on(lease: Lease, item_ids: Sequence[int], step: int, steps: int) -> None:
    """Keep the lease at a denoising step. Raises: _Ended, LeaseLost."""
    lease.keep()
    if not all(lease.wants(item_id) for item_id in item_ids):
        raise _Ended
