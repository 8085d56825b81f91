"""A whole installation with real processes: embedded broker and ledger, a supervisor and its render child."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from PIL import Image
from skimage import data
from sqlalchemy import func, select

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.job import ItemState, Priority, RenderItem
from face0_worker.faces.packs import load_pack
from face0_worker.records import consents
from face0_worker.records.progress import JobStatus, job_status
from face0_worker.records.tables import commits
from face0_worker.settings import Settings, load_settings
from producer import stack
from producer.init import init
from producer.services import Services
from producer.submit import submit
from tests.fakes import write_tiny_model

PATIENCE_S = 120.0


def astronaut() -> bytes:
    """A photo of a real person, from scikit-image."""
    out = io.BytesIO()
    Image.fromarray(data.astronaut()).save(out, "JPEG")
    return out.getvalue()


@dataclass
class House:
    """One running installation and what a test does with it."""

    settings: Settings
    services: Services

    def grant(self, consent_id: str) -> str:
        """Grant a consent that began a minute ago."""
        now = datetime.now(UTC)
        purposes = frozenset({Purpose.CATALOGUE})
        begin, end = now - timedelta(minutes=1), now + timedelta(days=1)
        consents.grant(self.services.ledger, ConsentRecord(consent_id, "somebody", purposes, begin, end))
        return consent_id

    def submit(
        self, consent_id: str, count: int, *, steps: int = 12, priority: Priority = Priority.NORMAL, photo: bytes = b""
    ) -> str:
        """Submit `count` items; more steps make a job last longer."""
        items = [
            RenderItem(f"sku-{n}", f"a red shirt {n}", seed=n, width=64, height=64, steps=steps, precision="float32")
            for n in range(count)
        ]
        face = photo or astronaut()
        return submit(self.services, face=face, items=items, consent_id=consent_id, priority=priority).job_id

    def status(self, job_id: str) -> JobStatus:
        """Where the job stands now."""
        return job_status(self.services.ledger, job_id)

    def until(self, reached: Callable[[JobStatus], bool], job_id: str) -> JobStatus:
        """Wait until the job stands so, for at most PATIENCE_S."""
        deadline = time.monotonic() + PATIENCE_S
        while not reached(status := self.status(job_id)):
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        return status

    def until_some_are_done(self, job_id: str) -> None:
        """Wait until the job is in its middle."""
        status = self.until(lambda status: status.counts[ItemState.DONE] > 0, job_id)
        assert not status.ended, "the job was over before it could be disturbed; give it more items"

    def until_ended(self, job_id: str) -> JobStatus:
        """Wait until nothing of the job is open."""
        return self.until(lambda status: status.ended, job_id)

    def child(self) -> psutil.Process:
        """The render child, which is the supervisor's only child."""
        worker = stack.find_worker(self.settings)
        assert worker is not None
        (child,) = psutil.Process(worker.pid).children()
        return child

    def commits(self, job_id: str) -> int:
        """How many commits the ledger has for this job."""
        with self.services.ledger.transaction() as connection:
            query = select(func.count()).select_from(commits).where(commits.c.job_id == job_id)
            return int(connection.execute(query).scalar_one())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A fresh installation with a tiny model, up for the tests of one file."""
    home = tmp_path_factory.mktemp("home")
    model = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", embedder_digest=load_pack(None).digest)
    settings = load_settings(
        None,
        home=home,
        model=model,
        precision="float32",
        batch=4,
        lease_s=8.0,
        broker_url="",
        ledger_url="",
        storage="",
    )
    for _ in init(settings):
        pass
    try:
        stack.up(settings, lambda _: None)
        with Services(settings) as services:
            yield House(settings, services)
    finally:
        stack.down(settings, lambda _: None)
