"""Worker, broker and the nightly command killed together at random moments: the pointer names a complete manifest."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from face0_worker.contract.job import ItemState
from face0_worker.embedded import find_broker
from face0_worker.records import catalogue_runs
from face0_worker.records.catalogue_pointer import Entry, read_entries, read_pointer
from face0_worker.records.progress import job_status, list_jobs
from producer import stack
from producer.nights.outcome import check_entries
from tests.faults.conftest import PATIENCE_S, House, astronaut, environment, prepared, running_house

SEED, KILLS = 20261127, 3
FIRST, CHANGED = 8, 24


@pytest.fixture
def own_house(tmp_path: Path, tiny_model: Path) -> Iterator[House]:
    """An installation that no other test uses: its broker is killed."""
    with running_house(prepared(tmp_path / "home", tiny_model)) as house:
        yield house


class Nights:
    """`face0 nightly run` as a process of its own, on lists of `count` products."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house, self.folder = house, folder
        (folder / "photo.jpg").write_bytes(astronaut())
        house.grant("c1")

    def write(self, count: int) -> list[str]:
        """Write a list and return its SKUs; more steps make a night long enough to be disturbed."""
        skus = [f"s{number}" for number in range(count)]
        lines = [f"{sku},a red shirt {sku},64,64,40\n" for sku in skus]
        (self.folder / "list.csv").write_text("sku,prompt,width,height,steps\n" + "".join(lines))
        return skus

    def start(self) -> subprocess.Popen[bytes]:
        """Type the command."""
        words = ["nightly", "run", "--catalogue", "autumn", "--consent", "c1", "--face", "photo.jpg", "list.csv"]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "producer.cli", *words],
            cwd=self.folder,
            env=environment(self.house.settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "stderr").open("ab"),
        )

    def ends_well(self, command: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a night in which everything is made."""
        assert command.wait(PATIENCE_S) == 0, (self.folder / "stderr").read_text()

    def shown(self) -> list[Entry]:
        """What the pointer names; the signatures and every picture of it are verified."""
        services = self.house.services
        public_key = services.signer.public_key
        pointer = read_pointer(services.storage, public_key, "autumn")
        assert pointer is not None
        entries = list(read_entries(services.storage, public_key, pointer.manifest))
        assert [str(problem) for _, problem in check_entries(services, entries) if problem] == []
        return entries

    def done(self) -> int:
        """How many pictures of the open run are done."""
        run = catalogue_runs.find_open(self.house.services.ledger, "autumn")
        known = {job.id for job in list_jobs(self.house.services.ledger)}
        jobs = [one for one in (run.jobs if run else ()) if one in known]
        return sum(job_status(self.house.services.ledger, one).counts[ItemState.DONE] for one in jobs)

    def until_done(self, count: int, command: subprocess.Popen[bytes]) -> None:
        """Wait until so many pictures of the open run are done, or the command has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while self.done() < count and command.poll() is None:
            assert time.monotonic() < deadline, (self.folder / "stderr").read_text()
            time.sleep(0.02)

    def kill_everything(self, command: subprocess.Popen[bytes]) -> None:
        """End the command, the worker with its child, and the broker, in one moment and without warning."""
        worker, broker = stack.find_worker(self.house.settings), find_broker(self.house.settings.home_dir)
        assert worker is not None
        assert broker is not None
        child = self.house.child()
        ending = [psutil.Process(worker.pid), child, psutil.Process(broker.pid)]
        command.send_signal(signal.SIGKILL)
        for process in ending:
            process.send_signal(signal.SIGKILL)
        command.wait(PATIENCE_S)
        psutil.wait_procs(ending, PATIENCE_S)


def test_everything_killed_at_three_random_moments_the_pointer_names_a_complete_verified_manifest(
    own_house: House, tmp_path: Path
) -> None:
    nights = Nights(own_house, tmp_path)
    before = nights.write(FIRST)
    nights.ends_well(nights.start())
    assert [entry.sku for entry in nights.shown()] == before
    after = nights.write(CHANGED)
    moments = sorted(random.Random(SEED).sample(range(FIRST, CHANGED - 4), KILLS))
    for moment in moments:
        command = nights.start()
        nights.until_done(moment, command)
        assert command.poll() is None, "the night was over before it could be disturbed"
        nights.kill_everything(command)
        assert [entry.sku for entry in nights.shown()] == before
        stack.up(own_house.settings, lambda _: None)
    nights.ends_well(nights.start())
    assert [entry.sku for entry in nights.shown()] == after
    runs = catalogue_runs.history(own_house.services.ledger, "autumn")
    assert [run.state for run in runs] == ["published", "published"], "the night did not stay one run"
    assert runs[0].counts["rendered"] == CHANGED - FIRST
    assert sum(own_house.commits(job) for run in runs for job in run.jobs) == CHANGED
