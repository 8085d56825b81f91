"""A worker's office on a real ledger, vault and storage; only the renderer is a stand-in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from face0_worker.contract.errors import Face0Error
from face0_worker.contract.job import CatalogueJob, Priority, RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.faces.skin import Lab
from face0_worker.office import Office
from face0_worker.records import attempts, consents, jobs
from face0_worker.records.ledger import Ledger
from face0_worker.records.storage import Storage, face_key
from face0_worker.records.vault import seal_face
from face0_worker.tasks import RenderWorker
from tests import ledgers
from tests.ledgers import GOOD, Broker

FACE = np.random.default_rng(5).standard_normal(128).astype(np.float32)


@dataclass(frozen=True)
class Painted:
    """What a stand-in renderer says of one item."""

    pixels: np.ndarray | None
    verdict: Verdict | None = GOOD
    error: Face0Error | None = None
    skin: Lab | None = None


Asked = Sequence[tuple[RenderItem, np.ndarray]]


OnStep = Callable[[int, int], None]


def paint(item: RenderItem) -> Painted:
    """A picture in one colour that depends on the seed."""
    return Painted(np.full((64, 64, 3), item.seed % 200 + 20, np.uint8))


def paint_all(asked: Asked, on_step: OnStep) -> list[Painted]:
    on_step(1, 1)
    return [paint(item) for item, _ in asked]


@dataclass
class Desk:
    """A worker's office with one person's face in it."""

    ledger: Ledger
    office: Office
    storage: Storage

    def submit(self, count: int, consent_id: str = "c1") -> str:
        """Enqueue `count` items of a consenting person whose face is sealed, and offer the model."""
        if consents.get(self.ledger, consent_id) is None:
            ledgers.give_consent(self.ledger, consent_id)
            self.office.vault.new_key(consent_id)
        digest, sealed = seal_face(self.office.vault, consent_id, b"photo", FACE)
        key = face_key(consent_id, digest)
        self.storage.put(key, sealed)
        subject = replace(ledgers.subject(consent_id), face_digest=digest)
        job = CatalogueJob(
            id=f"job-{consent_id}-{count}",
            subject=subject,
            purpose="catalogue",
            priority=Priority.NORMAL,
            items=ledgers.some_items(count),
        )
        return jobs.create_job(self.ledger, job, key)[0]

    def attempt(self) -> str:
        """Dispatch and return the one attempt that was sent."""
        broker = Broker()
        ledgers.dispatch_once(self.ledger, broker, batch_size=8, window=1)
        (attempt_id,) = broker.take()
        return attempt_id

    def render(self, renderer: Callable[[Asked, OnStep], Sequence[Painted]]) -> None:
        """Run one attempt with this renderer."""
        worker = RenderWorker(self.office, renderer)
        worker.run(self.attempt())
        worker.close()

    def render_and_lose(self) -> None:
        """Claim what waits as a worker that then dies: its items go alone from now on."""
        assert attempts.claim(self.ledger, self.attempt(), "w0", 60) is not None
        assert len(attempts.release(self.ledger, worker_id="w0", crash_limit=3)) == 1

    def pictures(self) -> list[str]:
        """The keys of all stored pictures."""
        return list(self.storage.list("pictures/"))
