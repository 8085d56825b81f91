"""`make bench`: speed as ratios, both sides measured in turn in one run; writes OUT/bench.json.

python -m tests.benchmarks --out out [--rounds 3] [--items 48] [--products 2000] [--grow 10,1000]
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np

from face0_worker.bench.report import Report, Row, compare, name_commit, name_cpu
from face0_worker.contract.job import ItemState, RenderItem
from face0_worker.contract.pace import USUAL_BATCH
from face0_worker.contract.receipt import Verdict
from face0_worker.faces.packs import digest_folder
from face0_worker.models import model_folder
from face0_worker.records.offers import find_model
from face0_worker.records.progress import job_status
from face0_worker.render.batch import RenderRequest, render_batch
from face0_worker.render.pipeline import Pipeline
from producer.catalogue import ItemDefaults
from producer.demo import PERSON
from producer.services import Services
from producer.submit import submit
from tests.benchmarks.growth import growth_rows
from tests.benchmarks.house import CONSENT, installation
from tests.benchmarks.nightly import nightly_rows, running

COLOURS = ("red", "black", "blue", "green", "white", "yellow", "pink", "grey")


def items_of_round(defaults: ItemDefaults, number: int, count: int) -> list[RenderItem]:
    """Return `count` items that no other round has, so that nothing is kept from an earlier one."""
    items = []
    for index in range(count):
        garment, background = COLOURS[index % 8], COLOURS[(index // 8) % 8]
        prompt = f"a portrait of a person with long hair wearing a {garment} turtleneck, {background} background"
        items.append(
            RenderItem(
                sku=f"bench-{number}-{index}",
                prompt=prompt,
                seed=1000 * number + index,
                width=defaults.width,
                height=defaults.height,
                steps=defaults.steps,
                guidance=defaults.guidance,
                precision=defaults.precision,
            )
        )
    return items


def end_to_end(services: Services, items: list[RenderItem]) -> float:
    """Return pictures per second from submit to the last commit: ledger, broker, face, gate, marks, storage."""
    begun = time.perf_counter()
    job_id = submit(services, face=PERSON, items=items, consent_id=CONSENT).job_id
    while not (status := job_status(services.ledger, job_id)).ended:
        time.sleep(0.1)  # asking costs the two cores something too
    if status.counts[ItemState.DONE] != len(items):
        raise click.ClickException(f"only {status.counts[ItemState.DONE]} of {len(items)} pictures were made")
    return len(items) / (time.perf_counter() - begun)


def bare_loop(pipeline: Pipeline, items: list[RenderItem], batch: int) -> float:
    """Return pictures per second of denoising and decoding alone, same model, items and batch size."""
    rng = np.random.default_rng(0)
    face = rng.standard_normal(pipeline.card.embedder_dim).astype(np.float32)
    requests = [RenderRequest(item, face) for item in items]
    begun = time.perf_counter()
    for start in range(0, len(requests), batch):
        made = render_batch(
            pipeline,
            requests[start : start + batch],
            judge=lambda pixels, face: Verdict(True, "ok", 0, None, 0.5, 0.5),
            on_step=lambda step, steps: None,
        )
        if any(one.error for one in made):
            raise click.ClickException("the bare loop failed on a picture")
    return len(items) / (time.perf_counter() - begun)


def queue_overhead(rounds: int, count: int) -> Row:
    """Compare the whole system with the bare loop, in turn; the first pair warms both up and is not counted."""
    pairs = []
    with installation(running) as (settings, services):
        folder = model_folder(settings.model)
        pipeline = Pipeline.load(
            folder, digest=digest_folder(folder), device=settings.device, precision=settings.precision
        )
        defaults = ItemDefaults.of_model(find_model(services.ledger, None).facts)
        for number in range(rounds + 1):
            items = items_of_round(defaults, number, count)
            pair = end_to_end(services, items), bare_loop(pipeline, items, settings.batch or USUAL_BATCH)
            click.echo(f"round {number}: end to end {pair[0]:.2f}, bare loop {pair[1]:.2f} pictures/s")
            if number:
                pairs.append(pair)
    return compare("end to end / bare loop", pairs, "pictures/s")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Counted pairs, after one that warms up.")
@click.option("--items", default=48, show_default=True, help="Pictures of each side in a round; 0 leaves it out.")
@click.option("--products", default=2000, show_default=True, help="Products of the nightly catalogue; 0 leaves it out.")
@click.option("--grow", default="10,1000", show_default=True, help="Sizes of jobs beside one of 100; empty: left out.")
def main(out: Path, rounds: int, items: int, products: int, grow: str) -> None:
    """Measure and write OUT/bench.json."""
    report = Report(out, device=name_cpu(), commit=name_commit())
    if items:
        click.echo(report.put(queue_overhead(rounds, items)))
    for row in growth_rows([int(size) for size in grow.split(",")], rounds) if grow else ():
        click.echo(report.put(row))
    for row in nightly_rows(rounds, products) if products else ():
        click.echo(report.put(row))


if __name__ == "__main__":
    main()
