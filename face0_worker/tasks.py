"""The render child: Celery takes attempts, one thread renders, the others write and commit.

The only place that wires records, queue and render together; the renderer comes in as an argument.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from face0_worker.contract.errors import Face0Error, LeaseLost, Refused
from face0_worker.contract.job import ItemState, RenderItem
from face0_worker.faces.sealed import skin_of
from face0_worker.faces.skin import Lab
from face0_worker.lease import Lease
from face0_worker.office import Office
from face0_worker.records import attempts
from face0_worker.records.attempts import Claim, ClaimedItem
from face0_worker.records.release import open_face
from face0_worker.second_chance import Judged, Outcome, better, judged, next_try
from face0_worker.telemetry import Event, log
from face0_worker.writing import Writer

# two batches in hand: one on the render thread, one being written
HANDS = 2
QUIET_POLL_S = 0.5


# (items with their raw face embeddings, callback per denoising step) -> one outcome per item, in order
Renderer = Callable[[Sequence[tuple[RenderItem, np.ndarray]], Callable[[int, int], None]], Sequence[Outcome]]


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
        self._writer = Writer(office)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="render")
        self._stopping = False
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
                self._writer.write(done.claim, done.lease, done.results)
            finally:
                with self._changed:
                    self._writing.remove(done.claim)
                    self._changed.notify_all()
        except LeaseLost:
            log(Event.LEASE_LOST, attempt=attempt_id, worker=self._office.worker_id)

    def stop(self) -> None:
        """Claim nothing more; what was claimed is finished. May be called from a signal handler."""
        self._stopping = True  # no Event: it takes a lock, which the interrupted thread may hold

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
        if self._stopping:
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
                self._writer.end_item(claim, lease, item, ItemState.CANCELLED, refusal)
            except LeaseLost:
                raise
            except Face0Error as error:
                self._writer.end_item(claim, lease, item, ItemState.FAILED, error)
        return ready

    def _unsealed(self, item: ClaimedItem) -> _Face:
        office, subject = self._office, item.subject
        sealed = office.storage.get(item.face_key)
        asked = (subject.consent_id, item.purpose, sealed)
        digest, by = subject.face_digest, office.worker_id
        photo, embedding = open_face(office.ledger, office.vault, *asked, digest=digest, by=by)
        return _Face(embedding, skin_of(photo))


class _Ended(Exception):
    """An item of the batch that is being rendered was revoked or cancelled."""


def _go_on(lease: Lease, item_ids: Sequence[int], step: int, steps: int) -> None:
    """Keep the lease at a denoising step. Raises: _Ended, LeaseLost."""
    lease.keep()
    if not all(lease.wants(item_id) for item_id in item_ids):
        raise _Ended
