"""What a picture costs as the work grows, and how long a single picture waits while a night's work runs.

Rows of `python -m tests.benchmarks`. A tiny model of random weights renders, so that what grows is the system around
it: ledger, queue, gate, marks, storage and commit.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from face0_worker.bench.report import Row, compare
from face0_worker.contract.job import ItemState, Priority, RenderItem
from face0_worker.faces.packs import load_pack
from face0_worker.records import jobs
from face0_worker.records.offers import find_model
from face0_worker.records.progress import job_status
from producer.catalogue import ItemDefaults
from producer.demo import PERSON
from producer.services import Services
from producer.submit import submit
from tests.benchmarks.house import CONSENT, installation
from tests.benchmarks.nightly import running
from tests.fakes import write_tiny_model

BASE = 100
STEPS = 4


def _items(count: int, first_seed: int, precision: str) -> list[RenderItem]:
    return [
        RenderItem(f"sku-{seed}", "a red shirt", seed=seed, width=64, height=64, steps=STEPS, precision=precision)
        for seed in range(first_seed, first_seed + count)
    ]


class Work:
    """Jobs of pictures that no job before them had."""

    def __init__(self, services: Services) -> None:
        self._services, self._seed = services, 0
        self._precision = ItemDefaults.of_model(find_model(services.ledger, None).facts).precision

    def submit(self, count: int, priority: Priority = Priority.NORMAL) -> str:
        """Submit a job of `count` new pictures; return its id."""
        items = _items(count, self._seed, self._precision)
        self._seed += count
        return submit(self._services, face=PERSON, items=items, consent_id=CONSENT, priority=priority).job_id

    def seconds(self, count: int, priority: Priority = Priority.NORMAL) -> float:
        """Return how long a job takes from its submission to its last commit."""
        begun = time.perf_counter()
        job_id = self.submit(count, priority)
        while not (status := job_status(self._services.ledger, job_id)).ended:
            time.sleep(0.02 if count < BASE else 0.2)
        if status.counts[ItemState.DONE] != count:
            raise click.ClickException(f"only {status.counts[ItemState.DONE]} of {count} pictures were made")
        return time.perf_counter() - begun


def growth_rows(sizes: Sequence[int], rounds: int) -> Iterator[Row]:
    """Yield a row for each size of job beside one of a hundred, and one for a single picture beside a night's work.

    Of the largest size there is one round: the ledger has grown by then as it grows in years of small jobs.
    """
    with tempfile.TemporaryDirectory(prefix="face0-bench-") as work:
        model = write_tiny_model(Path(work) / "tiny", embedder_digest=load_pack(None).digest)
        with installation(running, model=model) as (_, services):
            jobs_of = Work(services)
            jobs_of.seconds(BASE)  # warms up
            for size in sizes:
                pairs = []
                for _ in range(1 if size == max(sizes) else rounds):
                    pairs.append((1000 * jobs_of.seconds(size) / size, 1000 * jobs_of.seconds(BASE) / BASE))
                yield compare(f"a picture of a job of {size:,} / of {BASE}", pairs, "ms", {"rounds": len(pairs)})
            yield _beside_a_night(services, jobs_of, rounds)


def _beside_a_night(services: Services, work: Work, rounds: int) -> Row:
    pairs = []
    for _ in range(rounds):
        alone = work.seconds(1, Priority.URGENT)
        night = work.submit(20 * BASE, Priority.NIGHTLY)
        while not job_status(services.ledger, night).counts[ItemState.DONE]:
            time.sleep(0.02)
        beside = work.seconds(1, Priority.URGENT)
        if job_status(services.ledger, night).ended:
            raise click.ClickException("the night's work was over before the single picture")
        jobs.cancel_job(services.ledger, night)
        pairs.append((beside, alone))
    return compare("one picture beside a night's work / alone", pairs, "s", {"rounds": rounds})
