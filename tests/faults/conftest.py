"""A whole installation with real processes: embedded broker and ledger, a supervisor and its render child."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from PIL import Image
from skimage import data
from sqlalchemy import func, select

from face0_worker import embedded
from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.job import ItemState, Priority, RenderItem
from face0_worker.faces.packs import load_pack
from face0_worker.records import commits as commit_room
from face0_worker.records import consents, jobs
from face0_worker.records.progress import JobStatus, job_status
from face0_worker.records.tables import commits, items
from face0_worker.settings import Settings, load_settings
from producer import stack
from producer.check import check_files
from producer.init import init
from producer.results import pull
from producer.services import Services
from producer.submit import submit
from tests.fakes import write_tiny_model
from tests.faults.object_server import ObjectServer, command

PATIENCE_S = 120.0
# short, so that what waits for a lease to run out does not wait long; a stall of this length would be a false alarm
LEASE_S = 6.0
ROOT = Path(__file__).parents[2]


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
        self,
        consent_id: str,
        count: int,
        *,
        steps: int = 12,
        priority: Priority = Priority.NORMAL,
        model: str | None = None,
    ) -> str:
        """Submit `count` items with one person's photo; more steps make a job last longer."""
        items = [
            RenderItem(f"sku-{n}", f"a red shirt {n}", seed=n, width=64, height=64, steps=steps, precision="float32")
            for n in range(count)
        ]
        made = submit(
            self.services, face=astronaut(), items=items, consent_id=consent_id, priority=priority, model=model
        )
        return made.job_id

    def cancel(self, job_id: str) -> None:
        """End the job, so that it does not get in the way of the next one."""
        jobs.cancel_job(self.services.ledger, job_id)

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

    def child_stopped_at_work(self, job_id: str) -> psutil.Process:
        """The render child, stopped while it holds items of this job: between two batches nothing is its doing."""
        child = self.child()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            child.suspend()
            time.sleep(0.1)  # what it has sent to the ledger is done or not done by now
            if self.running(job_id):
                return child
            child.resume()
            assert time.monotonic() < deadline, self.status(job_id)
            time.sleep(0.02)

    def running(self, job_id: str) -> int:
        """How many items of this job a child has claimed."""
        return self.status(job_id).counts[ItemState.RUNNING]

    def commits(self, job_id: str) -> int:
        """How many commits the ledger has for this job."""
        with self.services.ledger.transaction() as connection:
            query = select(func.count()).select_from(commits).where(commits.c.job_id == job_id)
            return int(connection.execute(query).scalar_one())

    def blamed(self, job_id: str) -> int:
        """How many items of this job were held responsible for a crash, or suspected."""
        with self.services.ledger.transaction() as connection:
            suspected = (items.c.crashes > 0) | items.c.solo
            query = select(func.count()).select_from(items).where(items.c.job_id == job_id, suspected)
            return int(connection.execute(query).scalar_one())

    def all_done_once(self, job_id: str, out: Path) -> None:
        """Wait for the end, then check: every item done, one commit each, every picture proven by its receipt."""
        status = self.until_ended(job_id)
        assert status.counts[ItemState.DONE] == status.total
        assert self.commits(job_id) == status.total
        deadline = time.monotonic() + PATIENCE_S
        while commit_room.pending_receipts(self.services.ledger):
            assert time.monotonic() < deadline, "the receipts were never published"
            time.sleep(0.05)
        pulled = pull(self.services, job_id, out)
        checked = list(check_files(self.services, [path for _, path in pulled.files]))
        assert len(checked) == status.total
        assert [one.sentence for one in checked if not one.ok] == []

    def until_logged(self, event: str, *, after: str) -> None:
        """Wait until the worker has logged this event after that one."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            names = [line["event"] for line in events(self.log(), event, after)]
            if after in names and event in names[names.index(after) :]:
                return
            assert time.monotonic() < deadline, names
            time.sleep(0.05)

    def log(self) -> Path:
        """Where the worker that `up` started writes."""
        return stack.worker_log(self.settings)


def events(log: Path, *names: str) -> list[dict[str, Any]]:
    """The events of these names in a worker's log, which holds one JSON object a line and nothing else."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["event"] in names]


def prepared(home: Path, model: Path, **given: Any) -> Settings:
    """Prepare a home folder and return its settings; nothing runs yet."""
    usual = {"precision": "float32", "batch": 4, "lease_s": LEASE_S, "broker_url": "", "ledger_url": "", "storage": ""}
    settings = load_settings(None, home=home, model=model, **{**usual, **given})
    for _ in init(settings):
        pass
    return settings


@contextmanager
def running_house(settings: Settings) -> Iterator[House]:
    """Start a prepared installation as `face0 up` does, and stop it at the end."""
    try:
        stack.up(settings, lambda _: None)
        with Services(settings) as services:
            yield House(settings, services)
    finally:
        stack.down(settings, lambda _: None)


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """This process's environment with these settings, for a program of its own."""
    said = {name: value for name, value in settings.model_dump(mode="json").items() if value not in (None, "")}
    ours = {f"FACE0_{name.upper()}": str(value) for name, value in said.items()}
    return {**os.environ, "PYTHONPATH": str(ROOT), **ours, **more}


class Worker:
    """`face0-worker run` as a process of its own, and its log."""

    def __init__(self, settings: Settings, log: Path, **more: str) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "face0_worker.cli", "run"],
                env=environment(settings, **more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def until_logged(self, event: str) -> None:
        """Wait until the worker has logged this event."""
        deadline = time.monotonic() + PATIENCE_S
        while f'"{event}"' not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert '"child.failed"' not in self.log.read_text(), self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def end(self) -> None:
        """End it and its render child for certain."""
        if self.process.poll() is None:
            # not what else it started: embedded services outlive whoever started them
            children = [
                child
                for child in psutil.Process(self.process.pid).children()
                if "face0_worker.child" in child.cmdline()
            ]
            self.process.kill()
            self.process.wait(PATIENCE_S)
            for child in children:
                if child.is_running():
                    child.kill()


@pytest.fixture(scope="session", autouse=True)
def one_thread_each() -> Iterator[None]:
    """Let each render child compute with one thread: threads of many processes that wait for each other starve all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that renders in milliseconds."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", embedder_digest=load_pack(None).digest)


@pytest.fixture(scope="session")
def tripwire(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file whose existence breaks the render child's device once."""
    return tmp_path_factory.mktemp("tripwire") / "break"


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer | None]:
    """A running S3 server with the bucket `pictures`. None: it is not installed, which fails where CI requires it."""
    program = command()
    if program is None:
        if os.environ.get("CI") == "true" and os.environ.get("FACE0_TEST_S3") == "required":
            pytest.fail("no S3 server: put `ministack` on the PATH or its path into FACE0_TEST_S3_COMMAND")
        yield None
        return
    server = ObjectServer(program, tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            server.start()
            boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket="pictures")
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def shared_house(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tripwire: Path, object_server: ObjectServer | None
) -> Iterator[House]:
    """An installation with embedded services and, where one is installed, an S3 server; its worker has a saboteur."""
    stored = {} if object_server is None else {"storage": "s3://pictures", "s3_endpoint": object_server.url}
    settings = prepared(tmp_path_factory.mktemp("home"), tiny_model, **stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("saboteur")))
        patch.setenv("FACE0_TEST_BREAK", str(tripwire))
        with running_house(settings) as running:
            yield running


@pytest.fixture
def house(shared_house: House) -> House:
    """The shared installation with a worker that runs and an empty log: starting a process costs seconds."""
    stack.up(shared_house.settings, lambda _: None)
    shared_house.log().write_text("")
    return shared_house


@pytest.fixture(scope="module")
def server_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Broker and ledger as servers that workers know by their URLs only."""
    home = tmp_path_factory.mktemp("servers")
    try:
        broker, ledger = embedded.start_broker(home), embedded.start_ledger(home)
        yield {"broker_url": broker.celery_url, "ledger_url": ledger.url}
    finally:
        embedded.stop_ledger(home)
        embedded.stop_broker(home)
