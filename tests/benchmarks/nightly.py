"""What a night costs beside rendering its changes alone, and what it costs when nothing changed.

Rows of `python -m tests.benchmarks`. A tiny model of random weights renders; both sides have the same number of new
pictures of the same size and steps, in turn, on one installation. The first night is not measured: its pictures are
plain ones that are committed through the real records without a model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from face0_worker.bench.report import Row, compare
from face0_worker.contract.job import ItemState
from face0_worker.faces.packs import load_pack
from face0_worker.records import offers
from face0_worker.records.offers import find_model
from face0_worker.records.progress import JobStatus, job_status, list_jobs
from face0_worker.settings import Settings
from producer import stack
from producer.catalogue import ItemDefaults, read_items
from producer.demo import PERSON
from producer.nightly import OnProgress, Order, run_night
from producer.nights.plan import Share
from producer.nights.report import Night
from producer.services import Services
from producer.sources import photo_files
from producer.submit import submit
from tests.benchmarks.house import CONSENT, installation
from tests.fakes import write_tiny_model
from tests.integration.producer.plain_worker import commit_plain_pictures

CHANGED_SHARE = 20  # one line in so many
STEPS = 4
ALLOWED_S = 10.0


def write_list(path: Path, prompts: Sequence[str]) -> Path:
    """Write a list of one product per prompt."""
    lines = [f"SKU-{number:06d},{prompt},64,64,{STEPS}\n" for number, prompt in enumerate(prompts)]
    path.write_text("sku,prompt,width,height,steps\n" + "".join(lines), encoding="utf-8")
    return path


def night(services: Services, path: Path, on_progress: OnProgress = lambda _: None) -> tuple[float, Night]:
    """Return how long a night took, from the list's file to the switched pointer, and what it did."""
    begun = time.perf_counter()
    defaults = ItemDefaults.of_model(find_model(services.ledger, None).facts)
    share = Share(CONSENT, tuple(read_items(path, defaults=defaults)), lambda: photo_files([PERSON]))
    done = run_night(services, Order("bench", (share,)), on_progress)
    if done.exit_code:
        raise click.ClickException(f"the night ended with {done.counts}")
    return time.perf_counter() - begun, done


def alone(services: Services, path: Path) -> float:
    """Return how long a submit of a list takes until its last picture is committed."""
    begun = time.perf_counter()
    defaults = ItemDefaults.of_model(find_model(services.ledger, None).facts)
    job_id = submit(services, face=PERSON, items=read_items(path, defaults=defaults), consent_id=CONSENT).job_id
    while not (status := job_status(services.ledger, job_id)).ended:
        time.sleep(0.1)
    if status.counts[ItemState.DONE] != status.total:
        raise click.ClickException(f"only {status.counts[ItemState.DONE]} of {status.total} pictures were made")
    return time.perf_counter() - begun


def command_s(settings: Settings, path: Path, out: Path) -> float:
    """Return how long `face0 nightly run` takes as a person types it, on a list of which nothing changed."""
    words = ["nightly", "run", "--catalogue", "bench", "--consent", CONSENT, "--face", str(PERSON), "--out", str(out)]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "producer.cli", "--home", str(settings.home_dir), *words, "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.perf_counter() - begun
    if done.returncode or (said := json.loads(done.stdout))["state"] != "unchanged" or said["rendered"]:
        raise click.ClickException(f"the night without changes ended with {done.returncode}: {done.stderr[-500:]}")
    return took


@contextmanager
def running(settings: Settings) -> Iterator[None]:
    """Run the services and one worker; it is stopped and started again in between."""
    try:
        stack.up(settings, lambda _: None)
        yield
    finally:
        stack.down(settings, lambda _: None)


def first_night(settings: Settings, services: Services, path: Path) -> None:
    """Fill the catalogue while no worker runs; the pictures have the keys that the worker's model gives them."""
    offer = find_model(services.ledger, None)
    stack.stop_worker(settings)

    def fill(_: Sequence[JobStatus]) -> None:
        offers.offer_model(services.ledger, "filler", offer.digest, offer.name, dict(offer.facts))
        commit_plain_pictures(services)

    night(services, path, fill)
    offers.withdraw_offers(services.ledger, "filler")
    stack.up(settings, lambda _: None)


def nightly_rows(rounds: int, count: int) -> Iterator[Row]:
    """Yield the rows of a catalogue of `count` products, a twentieth of which changes every night."""
    some = max(1, count // CHANGED_SHARE)
    with tempfile.TemporaryDirectory(prefix="face0-bench-") as work:
        model = write_tiny_model(Path(work) / "tiny", embedder_digest=load_pack(None).digest)
        with installation(running, model=model) as (settings, services):
            prompts = [f"a red shirt {number}" for number in range(count)]
            first_night(settings, services, write_list(Path(work) / "list.csv", prompts))
            pairs = []
            for number in range(rounds + 1):
                for place in range(0, some * CHANGED_SHARE, CHANGED_SHARE):
                    prompts[place] = f"a blue shirt {place} of night {number}"
                night_s, done = night(services, write_list(Path(work) / "list.csv", prompts))
                if done.counts.rendered != some or done.counts.changed != some:
                    raise click.ClickException(f"{some} lines changed, and the night did {done.counts}")
                others = [f"a green shirt {place} of night {number}" for place in range(some)]
                alone_s = alone(services, write_list(Path(work) / "others.csv", others))
                click.echo(f"round {number}: night {night_s:.2f} s, its changes alone {alone_s:.2f} s")
                if number:  # the first pair warms both up
                    pairs.append((night_s, alone_s))
            about = {"products": count, "changed": some, "rendered": some, "rounds": rounds}
            yield compare("a night / its changes alone", pairs, "s", about)
            jobs = len(list_jobs(services.ledger, 1000))
            times = [command_s(settings, Path(work) / "list.csv", Path(work) / "out") for _ in range(rounds)]
            if len(list_jobs(services.ledger, 1000)) != jobs:
                raise click.ClickException("a night without changes made a job")
            about = {"products": count, "changed": 0, "rendered": 0, "rounds": rounds}
            yield compare("a night without changes / 10 s", [(took, ALLOWED_S) for took in times], "s", about)
