"""`face0 pilot`: try the product on a few people and products, and decide by what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from face0_worker.contract.consent import PICTURES, Purpose
from face0_worker.contract.errors import BadInput
from face0_worker.records.offers import find_model
from face0_worker.records.progress import JobStatus
from producer.catalogue import ItemDefaults, ListOptions, read_items
from producer.commands.list_options import list_options
from producer.commands.setting import any_path, opened
from producer.people import read_people
from producer.pilot import report as paper
from producer.pilot.measures import read_bars
from producer.pilot.run import Order, characters, run_pilot
from producer.services import Services
from producer.show import as_json_option, console, print_json, say
from producer.watch import follow

SAMPLE = Path(__file__).parents[1] / "samples" / "pilot.csv"


@click.command()
@click.option(
    "--people", type=any_path, help="People file (TOML), as of `face0 nightly`; default: people who do not exist."
)
@click.option(
    "--characters", "count", default=10, show_default=True, type=click.IntRange(1, 100), help="How many of those."
)
@click.option("--skus", type=any_path, default=SAMPLE, help="Product list; default: twenty sample products.")
@list_options
@click.option(
    "--purpose",
    type=click.Choice([str(purpose) for purpose in PICTURES]),
    default=str(Purpose.INTERNAL_POC),
    show_default=True,
    help="What the pictures are for; the consents must allow it.",
)
@click.option("--model", help="Model by name or digest; default: the one that a worker offers.")
@click.option("--bar", "bars", multiple=True, metavar="NAME=NUMBER", help="Judge by this, as in acceptance=0.95.")
@click.option("--marks", type=any_path, help="marks.csv as people have filled it in; default: the one in the folder.")
@click.option("--out", type=any_path, default=Path("pilot"), show_default=True, help="Folder for all that is made.")
@as_json_option
@click.pass_context
def pilot(
    ctx: click.Context,
    people: Path | None,
    count: int,
    skus: Path,
    template: str | None,
    how: ListOptions,
    purpose: str,
    model: str | None,
    bars: Sequence[str],
    marks: Path | None,
    out: Path,
    as_json: bool,
) -> int:
    """Take a few people and products through the whole flow and write a report to decide by.

    OUT gets report.html (to print, Japanese and English), report.json, the pictures, and marks.csv, in which people
    mark whether a picture shows this person and this product. Fill it in and repeat the command: it renders nothing
    twice. It ends with 1 where a bar is failed for certain.
    """
    judged_by = read_bars(bars)
    sheet = marks or (out / paper.MARKS if (out / paper.MARKS).is_file() else None)
    said = paper.read_marks(sheet) if sheet else {}
    with opened(ctx) as services:
        offer = find_model(services.ledger, model)
        # the list is read before anybody's photo is: a mistake in it costs nothing
        items = tuple(read_items(skus, template, ItemDefaults.of_model(offer.facts), how))
        everybody = read_people(people) if people else characters(services, count)
        order = Order(everybody, items, Purpose(purpose), offer, out)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{out} can't be written: {error.strerror}; choose another folder with --out") from error
        ran = run_pilot(services, order, lambda name, job_id: _watch(services, name, job_id, quiet=as_json))
        report = paper.measure(ran, judged_by, said, services.settings.hour_price)
    files = paper.write(report, said)
    if as_json:
        print_json(paper.as_json(report))
    else:
        for sentence in paper.sentences(report):
            say(sentence)
        for file in files:
            say(f"wrote {file}")
    return 1 if report.failed else 0


def _watch(services: Services, name: str, job_id: str, *, quiet: bool) -> JobStatus:
    if not quiet:
        say(f"{name}:")
    return follow(services.ledger, job_id, console(stderr=quiet))
