"""`face0 results pull` and `links`, `gallery` and `verify`: pictures out, and the proof of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from face0_worker.contract.errors import Face0Error
from face0_worker.contract.job import ItemState
from face0_worker.records.progress import job_status
from producer.catalogue import read_captions
from producer.check import check_files
from producer.commands.completion import known_jobs
from producer.commands.setting import any_path, existing_file, opened
from producer.gallery import Card, card, write_gallery
from producer.links import link_seconds, links
from producer.results import fetch, pull
from producer.services import Services
from producer.show import as_json_option, counting, local, print_json, say


@click.group()
def results() -> None:
    """A job's finished pictures."""


@results.command(name="pull")
@click.argument("job_id", metavar="JOB", shell_complete=known_jobs)
@click.option("--to", required=True, type=any_path, help="Folder to write to.")
@as_json_option
@click.pass_context
def pull_(ctx: click.Context, job_id: str, to: Path, as_json: bool) -> int:
    """Write JOB's finished pictures to a folder as SKU.png, each with its facts and receipt in SKU.json.

    Every picture is checked against what was committed, and the consent is asked again.
    """
    with opened(ctx) as services:
        done = job_status(services.ledger, job_id).counts[ItemState.DONE]
        with counting("pulling", done) as one_more:
            pulled = pull(services, job_id, to, lambda _: one_more())
    open_items = 0 if pulled.job.ended else pulled.job.total - len(pulled.files) - len(pulled.problems)
    if as_json:
        files = [{"sku": p.sku, "file": str(path), "sha256": p.receipt.picture_sha256} for p, path in pulled.files]
        print_json({"job": job_id, "pictures": files, "problems": pulled.problems, "open": open_items})
    else:
        say(f"{len(pulled.files)} of {pulled.job.total} pictures are in {to}")
        if not pulled.job.ended:
            say("The job is still running; the same command brings the rest later.")
    for problem in pulled.problems:
        click.echo(problem, err=True)
    return 1 if pulled.problems else 0


@results.command(name="links")
@click.argument("job_id", metavar="JOB", shell_complete=known_jobs)
@click.option("--expires", default="7d", show_default=True, help="How long: 7d, 12h, 30m or 90s; at most 7d.")
@as_json_option
@click.pass_context
def links_(ctx: click.Context, job_id: str, expires: str, as_json: bool) -> int:
    """Print a link to each of JOB's finished pictures; whoever has it may fetch the picture until it expires.

    The consent is asked again first. One picture a line: SKU and variant, a tab, and the link.
    """
    seconds = link_seconds(expires)
    problems, given = [], []
    with opened(ctx) as services:
        for row, got in links(services, job_id, seconds):
            if isinstance(got, Face0Error):
                problems.append(f"SKU {row.sku}: {got}")
                continue
            about = {"sku": row.sku, "variant": row.variant, "sha256": row.picture_sha256}
            given.append(about | {"url": got.url, "expires_at": got.expires_at})
            if not as_json:
                click.echo(f"{row.sku}{'-' if row.variant else ''}{row.variant}\t{got.url}")
    if as_json:
        print_json({"job": job_id, "links": given, "problems": problems})
    for problem in problems:
        click.echo(problem, err=True)
    return 1 if problems else 0


@click.command()
@click.argument("job_id", metavar="JOB", shell_complete=known_jobs)
@click.option("--out", type=any_path, help="File to write; default: JOB.html here.")
@click.option("--skus", type=existing_file, help="Product list whose column `name` gives the captions.")
@click.pass_context
def gallery(ctx: click.Context, job_id: str, out: Path | None, skus: Path | None) -> int:
    """Write one HTML page with JOB's finished pictures inside; it opens in any browser, without a network."""
    problems: list[str] = []
    with opened(ctx) as services:
        job = job_status(services.ledger, job_id)
        facts = {
            "Pictures": str(job.total),
            "Purpose": job.purpose,
            "Submitted": local(job.created_at),
            "Model": job.model_digest[:12],
        }
        target = out or Path(f"{job_id}.html")
        captions = read_captions(skus) if skus else {}
        shown = write_gallery(
            _cards(services, job_id, captions, problems), target, title=job.catalogue or f"Job {job_id}", facts=facts
        )
    say(f"{shown} of {job.total} pictures are in {target}; open {target.absolute().as_uri()}")
    for problem in problems:
        click.echo(problem, err=True)
    return 1 if problems else 0


def _cards(services: Services, job_id: str, captions: dict[str, str], problems: list[str]) -> Iterator[Card]:
    for row, got in fetch(services, job_id, stage="gallery"):
        if isinstance(got, Face0Error):
            problems.append(f"SKU {row.sku}: {got}")
        else:
            yield card(got, caption=captions.get(row.sku, ""))


@click.command()
@click.argument("paths", metavar="FILE_OR_DIR...", nargs=-1, required=True, type=any_path)
@as_json_option
@click.pass_context
def verify(ctx: click.Context, paths: tuple[Path, ...], as_json: bool) -> int:
    """Say for each picture whether it is ours, unchanged, and its consent still allows it.

    Exit code 1 when a picture is not as it was committed, 3 when the consent does not allow one any more.
    """
    with opened(ctx) as services:
        checked = list(check_files(services, paths))
    if as_json:
        print_json(
            [
                {
                    "file": str(one.file),
                    "code": one.code,
                    "sentence": one.sentence,
                    "receipt": one.verified.receipt if one.verified else None,
                }
                for one in checked
            ]
        )
    else:
        for one in checked:
            say(f"{one.code.ljust(7)}  {one.file}" + (f": {one.sentence}" if one.sentence else ""))
        say(f"{sum(one.ok for one in checked)} of {len(checked)} pictures are verified")
    if any(one.code == "failed" for one in checked):
        return 1
    return 3 if any(one.code == "refused" for one in checked) else os.EX_OK
