"""`face0 gallery` and `face0 results sheet`: all pictures of a job on one page, in a browser or as one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from face0_worker.contract.errors import Face0Error
from face0_worker.contract.job import ItemState
from face0_worker.records.deliveries import Channel
from face0_worker.records.progress import ItemRow, JobStatus, job_items, job_status
from producer.catalogue import read_captions
from producer.commands.completion import known_jobs
from producer.commands.setting import any_path, existing_file, opened
from producer.delivery.fetching import Exit, Request, fetch
from producer.delivery.gallery import Card, card, many, write_gallery
from producer.delivery.selection import of_job
from producer.delivery.sheet import MOST, Tile, contact_sheet
from producer.services import Services
from producer.show import as_json_option, counting, local, print_json, say

_captions_option = click.option("--skus", type=existing_file, help="Product list whose column `name` gives captions.")


@click.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True, shell_complete=known_jobs)
@click.option("--out", type=any_path, help="File to write; default: JOB.html here.")
@_captions_option
@click.pass_context
def gallery(ctx: click.Context, job_ids: Sequence[str], out: Path | None, skus: Path | None) -> int:
    """Write one HTML page with the pictures of one or more JOBs inside; it opens in any browser, without a network.

    It can be searched, filtered by variant, person and state, and used with the keyboard, in English and Japanese.
    """
    problems: list[str] = []
    target = out or Path(f"{job_ids[0]}.html")
    with opened(ctx) as services:
        jobs = [job_status(services.ledger, job_id) for job_id in dict.fromkeys(job_ids)]
        captions = read_captions(skus) if skus else {}
        total = sum(job.total for job in jobs)
        with counting("drawing", total) as one_more:
            cards = _cards(services, jobs, captions, Exit("gallery", Channel.PULL, str(target.absolute())), problems)
            shown = write_gallery(_told(cards, one_more), target, title=_title(jobs), facts=_facts(jobs))
    say(f"{shown} of {total} pictures are in {target}; open {target.absolute().as_uri()}")
    for problem in problems:
        click.echo(problem, err=True)
    return 1 if problems else 0


def _told(cards: Iterator[Card], one_more: Callable[[], None]) -> Iterator[Card]:
    for one in cards:
        yield one
        one_more()


def _title(jobs: Sequence[JobStatus]) -> str:
    if len(jobs) > 1:
        return f"{len(jobs)} jobs"
    return jobs[0].catalogue or f"Job {jobs[0].id}"


def _facts(jobs: Sequence[JobStatus]) -> dict[str, str]:
    return {
        "Pictures": str(sum(job.total for job in jobs)),
        "Purpose": ", ".join(sorted({job.purpose for job in jobs})),
        "Submitted": local(min(job.created_at for job in jobs)),
        "Model": ", ".join(sorted({job.model_digest[:12] for job in jobs})),
    }


def _cards(
    services: Services, jobs: Sequence[JobStatus], captions: dict[str, str], way: Exit, problems: list[str]
) -> Iterator[Card]:
    smaller = many(sum(job.counts[ItemState.DONE] for job in jobs))
    for job in jobs:
        rows = list(job_items(services.ledger, job.id))
        selection = of_job(services, job.id)
        finished = {one.position for one in selection.wanted}
        fetched = fetch(services, Request(selection, way))
        for row in rows:
            if row.position not in finished:
                yield _without_picture(row, job, captions)
                continue
            _, got = next(fetched)
            if isinstance(got, Face0Error):
                problems.append(f"SKU {row.sku}: {got}")
            else:
                yield card(got, caption=captions.get(row.sku, ""), many=smaller)


def _without_picture(row: ItemRow, job: JobStatus, captions: dict[str, str]) -> Card:
    return Card(
        sku=row.sku,
        variant=row.variant,
        caption=captions.get(row.sku, ""),
        state=row.state,
        person=job.consent_id,
        item_key=row.item_key,
        reason=row.error or "",
    )


@click.command()
@click.argument("job_id", metavar="JOB", shell_complete=known_jobs)
@click.option("--out", type=any_path, help="PNG file to write; default: JOB.png here.")
@_captions_option
@as_json_option
@click.pass_context
def sheet(ctx: click.Context, job_id: str, out: Path | None, skus: Path | None, as_json: bool) -> int:
    """Write one PNG with JOB's finished pictures and their captions, at most the first 500."""
    problems: list[str] = []
    target = out or Path(f"{job_id}.png")
    tiles: list[Tile] = []
    with opened(ctx) as services:
        job = job_status(services.ledger, job_id)
        captions = read_captions(skus) if skus else {}
        request = Request(of_job(services, job_id).first(MOST), Exit("sheet", Channel.PULL, str(target.absolute())))
        for one, got in fetch(services, request):
            if isinstance(got, Face0Error):
                problems.append(f"SKU {one.sku}: {got}")
            else:
                tiles.append(Tile(got.data, captions.get(one.sku, one.name), one.name))
    contact_sheet(tiles, target, title=_title([job]))
    if as_json:
        print_json({"job": job_id, "file": target, "pictures": len(tiles), "problems": problems})
    else:
        say(f"{len(tiles)} of {job.total} pictures are in {target}")
    for problem in problems:
        click.echo(problem, err=True)
    return 1 if problems else 0
