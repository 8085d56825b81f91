"""Rejected pictures that a human accepted: unsealed, signed and committed on a worker's machine. Torch-free."""

from __future__ import annotations

import hashlib

from face0_worker.contract.errors import (
    ConsentRefused,
    ItemFailed,
    LeaseLost,
    Refused,
    ServiceDown,
    VerificationFailed,
)
from face0_worker.contract.job import RENDERER_VERSION
from face0_worker.contract.receipt import Receipt
from face0_worker.records import acceptances, held, review
from face0_worker.records.acceptances import Acceptance
from face0_worker.records.commits import find_commit
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage, StorageMissing, picture_key
from face0_worker.records.vault import Vault

LEASE_S = 60.0


class Acceptor:
    """Carries out one acceptance after another; several may run at once, also on other machines."""

    def __init__(self, ledger: Ledger, storage: Storage, vault: Vault, signer: Signer) -> None:
        self._ledger, self._storage, self._vault, self._signer = ledger, storage, vault, signer

    def round(self) -> int:
        """Commit the accepted picture that waits longest; return how many there were, one or none.

        What can't be committed is told in the ledger, and its item stays rejected. Raises: ServiceDown: it is tried
        again when its lease has run out.
        """
        acceptance = acceptances.claim(self._ledger, LEASE_S)
        if acceptance is None:
            return 0
        try:
            if acceptance.held.held_key:
                self._commit(acceptance)
                self._storage.delete(acceptance.held.held_key)
                review.mark_erased(self._ledger, acceptance.held.item_id)
            else:
                acceptances.keep_accepted(self._ledger, acceptance)
        except (Refused, VerificationFailed, StorageMissing, ItemFailed) as error:
            acceptances.give_up(self._ledger, acceptance, str(error))
        except LeaseLost:
            pass  # the ledger knows already
        except ServiceDown:
            raise
        except Exception as error:  # else it would come back for ever (promise P8)
            acceptances.give_up(self._ledger, acceptance, f"it can't be committed ({type(error).__name__})")
            raise
        return 1

    def _commit(self, acceptance: Acceptance) -> None:
        item, sealed = acceptance.item, self._storage.get(acceptance.held.held_key)
        consent_id = item.subject.consent_id
        marked = self._vault.unseal(consent_id, sealed, about=held.about(item.item_key))
        digest = hashlib.sha256(marked).hexdigest()
        key = picture_key(consent_id, item.item_key, digest)
        receipt = Receipt(
            item_key=item.item_key,
            picture_key=key,
            picture_sha256=digest,
            consent_id=consent_id,
            committed_under_epoch=item.consent_epoch,
            purpose=item.purpose,
            job_id=item.job_id,
            model_digest=item.subject.model_digest,
            embedder_digest=item.subject.embedder_digest,
            seed=item.spec.seed,
            width=item.spec.picture_size[0],
            height=item.spec.picture_size[1],
            verdict=acceptance.verdict,
            renderer_version=RENDERER_VERSION,
        )
        self._storage.put(key, marked)
        signed = self._signer.sign(receipt)
        try:
            answer = acceptances.commit_accepted(self._ledger, acceptance, key, digest, signed)
        except (ConsentRefused, LeaseLost):
            self._drop(acceptance, key)
            raise
        if answer == "kept":
            self._drop(acceptance, key)

    def _drop(self, acceptance: Acceptance, key: str) -> None:
        """Erase a picture that was not committed. Every try writes the same bytes: another may have committed them.

        Nothing is erased that another worker is about to commit; it has stored what stands there already.
        """
        if acceptances.waits(self._ledger, acceptance):
            return
        committed = find_commit(self._ledger, item_key=acceptance.item.item_key)
        if committed is None or committed.purged or committed.picture_key != key:
            self._storage.delete(key)
