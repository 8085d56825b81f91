"""A person in a ledger, a vault and a store: everything that an erasure has to find, and what finds it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sqlalchemy import update

from face0_worker.contract.job import CatalogueJob, Priority
from face0_worker.contract.receipt import Receipt
from face0_worker.records import attempts, commits, consents, deliveries, jobs
from face0_worker.records.erasure import Eraser
from face0_worker.records.ledger import Ledger
from face0_worker.records.manifest import write_manifest
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage, consent_prefixes, face_key, picture_key, receipt_key
from face0_worker.records.stored_faces import keep_face
from face0_worker.records.tables import erasures
from face0_worker.records.vault import Vault, seal_face
from tests import ledgers
from tests.ledgers import GOOD, Broker

PHOTO = b"\xff\xd8 the photo of a person who may be forgotten " + bytes(range(256))
FACE = np.random.default_rng(11).standard_normal(128).astype(np.float32)


@dataclass
class Desk:
    """What an installation holds, with the eraser over it."""

    ledger: Ledger
    storage: Storage
    vault: Vault
    signer: Signer
    settle_s: float = 0.0

    @property
    def eraser(self) -> Eraser:
        """An eraser without catalogues; its second sweep comes `settle_s` after the first."""
        return Eraser(self.ledger, self.storage, self.vault, self.signer, self.settle_s)

    def person(self, consent_id: str = "c1", pictures: int = 2, waiting: int = 1) -> str:
        """Let a person have a sealed face, finished and delivered pictures with a manifest, and waiting items.

        Returns the finished job.
        """
        ledgers.give_consent(self.ledger, consent_id)
        self.vault.new_key(consent_id)
        digest, sealed = seal_face(self.vault, consent_id, PHOTO, FACE)
        where = face_key(consent_id, digest)
        self.storage.put(where, sealed)
        keep_face(self.ledger, consent_id, digest, where)
        done = self._job(f"done-{consent_id}", consent_id, digest, where, range(pictures))
        self._render(done)
        if waiting:
            paused = self._job(f"open-{consent_id}", consent_id, digest, where, range(100, 100 + waiting))
            jobs.pause_job(self.ledger, paused)  # the next person's pictures are rendered by the same broker
        return done

    def _job(self, job_id: str, consent_id: str, digest: str, where: str, seeds: range) -> str:
        subject = replace(ledgers.subject(consent_id), face_digest=digest)
        items = ledgers.some_items(len(seeds), first=seeds.start)
        job = CatalogueJob(job_id, subject, "catalogue", Priority.NORMAL, items)
        return jobs.create_job(self.ledger, job, where)[0]

    def _render(self, job_id: str) -> None:
        broker = Broker()
        ledgers.dispatch_once(self.ledger, broker, batch_size=100)
        for claim in ledgers.claim_all(self.ledger, broker):
            for item in claim.items:
                picture = f"picture of {item.item_key}".encode()
                sha256 = hashlib.sha256(picture).hexdigest()
                consent_id = item.subject.consent_id
                key = picture_key(consent_id, item.item_key, sha256)
                receipt = Receipt(
                    item.item_key, key, sha256, consent_id, item.consent_epoch, item.purpose, item.job_id,
                    item.subject.model_digest, item.subject.embedder_digest, item.spec.seed, 8, 8, GOOD, "test",
                )  # fmt: skip
                signed = self.signer.sign(receipt)
                self.storage.put(key, picture)
                commits.commit(self.ledger, claim.attempt_id, claim.token, item, key, sha256, signed, GOOD)
                self.storage.put(receipt_key(consent_id, item.item_key), signed)
                self.deliver(consent_id, item.job_id, item.item_key, sha256)
            attempts.finish_attempt(self.ledger, claim.attempt_id, claim.token)
        jobs.mark_finished(self.ledger, job_id, write_manifest(self.ledger, self.storage, self.signer, job_id))

    def deliver(self, consent_id: str, job_id: str, item_key: str, sha256: str, to: str = "/srv/shop") -> bool:
        """Note a copy in the distribution register."""
        with self.ledger.transaction() as connection:
            return deliveries.note(
                connection,
                consent_id=consent_id,
                job_id=job_id,
                item_key=item_key,
                picture_sha256=sha256,
                channel="pull",
                destination=to,
            )

    def revoke(self, consent_id: str = "c1") -> None:
        """Withdraw; nothing is erased yet."""
        consents.revoke(self.ledger, consent_id)

    def objects(self, consent_id: str = "c1") -> int:
        """How many versions of objects stand under the person's prefixes."""
        return sum(self.storage.versions(prefix) for prefix in consent_prefixes(consent_id))

    def ask_again_at(self, consent_id: str, step: str) -> None:
        """Let an erasure stand at a step, as if a process had died there."""
        change = {"step": step, "finished_at": None, "certificate": None}
        with self.ledger.transaction() as connection:
            connection.execute(update(erasures).where(erasures.c.consent_id == consent_id).values(change))


def make_desk(ledger: Ledger, storage: Storage, folder: Path) -> Desk:
    """Return a desk whose vault and signing key lie in a folder."""
    return Desk(ledger, storage, Vault.create(folder / "vault"), Signer.create(folder / "keys"))
