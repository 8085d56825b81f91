"""Rendered pictures become real: stored, signed and committed, or sealed until a human decides."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
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
from face0_worker.contract.job import RENDERER_VERSION, ItemState
from face0_worker.contract.receipt import Receipt, Verdict
from face0_worker.lease import Lease
from face0_worker.office import Office
from face0_worker.records import attempts, commits, held
from face0_worker.records.attempts import Claim, ClaimedItem
from face0_worker.records.provenance import mark_picture
from face0_worker.records.storage import held_key, picture_key
from face0_worker.second_chance import Judged


class Writer:
    """Writes what one batch gave, picture after picture. Several threads may share it."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def write(self, claim: Claim, lease: Lease, results: Iterable[Judged]) -> None:
        """Commit what was accepted, hold what was rejected, and end the attempt. Raises: LeaseLost."""
        for one in results:
            item = one.item
            lease.keep()
            if not lease.wants(item.item_id):
                continue  # the ledger has ended it already
            if one.pixels is None or one.verdict is None:
                error = one.error or ItemFailed("the renderer gave no picture")
                self.end_item(claim, lease, item, ItemState.FAILED, error)
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
            self._drop_uncommitted(item, key)
            raise
        if outcome == "kept":  # somebody committed the same item first; this copy is nobody's
            self._drop_uncommitted(item, key)

    def _hold(self, claim: Claim, lease: Lease, item: ClaimedItem, pixels: np.ndarray, verdict: Verdict) -> None:
        """Keep a rejected picture, sealed under its consent's key, until a human decides."""
        office, consent_id = self._office, item.subject.consent_id
        marked = mark_picture(pixels, reference=item.item_key)
        try:
            data = lease.insist(partial(office.vault.seal, consent_id, marked, about=held.about(item.item_key)))
        except Refused as refusal:
            return self.end_item(claim, lease, item, ItemState.CANCELLED, refusal)
        key = held_key(consent_id, item.item_key, hashlib.sha256(data).hexdigest())
        lease.insist(partial(self._store, lease, item, key, data))
        sealed = held.Sealed(key, item.spec.seed, verdict, told(verdict, item.bars))
        named = (claim.attempt_id, claim.token, item, sealed)
        try:
            if not lease.insist(partial(held.hold_picture, office.ledger, *named)):
                self._drop(key)
        except LeaseLost:
            # an earlier try may have been heard and only its answer lost
            if not office.patience.insist(partial(held.is_held, office.ledger, item.item_id, key)):
                self._drop(key)
            raise

    def _store(self, lease: Lease, item: ClaimedItem, key: str, marked: bytes) -> None:
        if not lease.wants(item.item_id):  # asked at each try: a store that comes back late gets nothing revoked
            raise ItemFailed("the item was ended before its picture could be stored")
        self._office.storage.put(key, marked)

    def _drop_uncommitted(self, item: ClaimedItem, key: str) -> None:
        """Erase a picture, unless an earlier try committed it and only the answer to that was lost."""
        office = self._office
        committed = office.patience.insist(partial(commits.find_commit, office.ledger, item_key=item.item_key))
        if committed is None or committed.purged or committed.picture_key != key:
            self._drop(key)

    def _drop(self, key: str) -> None:
        """Erase a picture that is nobody's; no two renders share a key: their marks differ."""
        try:
            self._office.storage.delete(key)
        except StorageDown as error:
            self._office.patience.outages.saw(error)  # swept when its job ends, erased with its person

    def end_item(self, claim: Claim, lease: Lease, item: ClaimedItem, state: ItemState, error: Face0Error) -> None:
        """End an item that gives no picture. Raises: LeaseLost."""
        code = getattr(error, "code", type(error).__name__)
        fail = partial(attempts.fail_item, self._office.ledger, claim.attempt_id, claim.token, item.item_id)
        lease.insist(partial(fail, code, str(error), state=state))
