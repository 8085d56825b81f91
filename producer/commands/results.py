"""`face0 results pull`, `export` and `links`, and `verify`: pictures out, and the proof of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from face0_worker.contract.derivation import FileFormat, Form
from face0_worker.contract.errors import BadInput, Face0Error
from face0_worker.contract.job import OPEN_STATES
from face0_worker.records.deliveries import Channel
from face0_worker.records.progress import job_status
from producer.check import check_files
from producer.commands.completion import known_jobs
from producer.commands.gallery import sheet
from producer.commands.setting import any_path, opened
from producer.delivery.export import INDEX, export
from producer.delivery.fetching import Exit, Request
from producer.delivery.links import link_seconds, links
from producer.delivery.names import DEFAULT, FIELDS
from producer.delivery.places import CACHE_CONTROL, Bucket, Folder, Place, archive, target_options
from producer.delivery.selection import Selection, of_catalogue, of_job
from producer.results import Brought, bring
from producer.services import Services
from producer.show import as_json_option, counting, print_json, say

_F = TypeVar("_F", bound=Callable[..., Any])
_UNITS = {"": 1, "k": 1000, "m": 1_000_000}


@click.group()
def results() -> None:
    """A job's finished pictures: bring them, export them, link to them."""


results.add_command(sheet)


def _which(command: _F) -> _F:
    """Add what says which pictures are meant, and how their files are called."""
    for option in (
        click.option(
            "--name",
            "template",
            default=DEFAULT,
            show_default=True,
            help=f"How files are called, of {', '.join(f'{{{name}}}' for name in FIELDS)}; / makes folders.",
        ),
        click.option(
            "--since",
            default="",
            help="Only what was made after a time (2026-11-27T06:00), or what another job has not.",
        ),
        click.option("--catalogue", default="", help="Instead of JOB: a catalogue as it is published now."),
        click.argument("job_id", metavar="[JOB]", default="", shell_complete=known_jobs),
    ):
        command = option(command)
    return command


_recipient = click.option(
    "--recipient", default="", help="Somebody else who gets the pictures, as the consent names them; noted."
)


@results.command(name="pull")
@_which
@_recipient
@click.option("--to", type=any_path, help="Folder to write to.")
@click.option("--zip", "zip_", type=any_path, help="Zip file to write, instead of a folder.")
@as_json_option
@click.pass_context
def pull_(
    ctx: click.Context, /, to: Path | None, zip_: Path | None, recipient: str, as_json: bool, **which: str
) -> int:
    """Write finished pictures to a folder as SKU-VARIANT.png, each with its facts and receipt in SKU-VARIANT.json.

    Every picture is checked against what was committed, and the consent is asked again. Repeat it to bring what has
    become ready since; what is there and right is not fetched again.
    """
    with opened(ctx) as services, _place(to, zip_) as place:
        selection = _selected(services, **which)
        way = Exit("pull", Channel.ZIP if zip_ else Channel.PULL, place.where, recipient)
        with counting("pulling", len(selection.wanted)) as one_more:
            brought = bring(services, Request(selection, way), place, lambda _: one_more())
        still_open = _open_items(services, which["job_id"])
    return _tell(selection, brought, place, still_open, as_json)


@results.command(name="export")
@_which
@_recipient
@click.option("--to", help="Folder, or s3://bucket/prefix.")
@click.option("--zip", "zip_", type=any_path, help="Zip file to write, instead.")
@click.option(
    "--format", "file_format", type=click.Choice([str(one) for one in FileFormat]), default="png", show_default=True
)
@click.option("--quality", type=int, default=0, help="1 to 100, for jpeg (default 90) and webp (default 85).")
@click.option("--max-bytes", default="0", help="A file's limit, as 200000, 200k or 1M: the quality goes down for it.")
@click.option("--width", type=int, default=0, help="Most pixels across; proportions stay, nothing is enlarged.")
@click.option("--height", type=int, default=0, help="Most pixels down.")
@click.option("--endpoint", default="", help="The target's S3 server, where it is another than the installation's.")
@click.option("--region", default="", help="The target's region.")
@click.option("--profile", default="", help="Profile of your AWS files with the target's credentials.")
@click.option("--cache-control", default=CACHE_CONTROL, show_default=True, help="How long others may keep an object.")
@as_json_option
@click.pass_context
def export_(
    ctx: click.Context,
    /,
    to: str | None,
    zip_: Path | None,
    endpoint: str,
    region: str,
    profile: str,
    cache_control: str,
    recipient: str,
    as_json: bool,
    **options: Any,
) -> int:
    """Write finished pictures where a shop needs them: a folder, a zip or an S3 prefix, with index.json beside them.

    In another format or size each picture is made and signed by a worker; its receipt names the picture it was made
    from. The target's own credentials come from --profile or FACE0_EXPORT_ACCESS_KEY_ID and
    FACE0_EXPORT_SECRET_ACCESS_KEY. Repeat it to go on: what is there and right is not sent again.
    """
    which = {name: options[name] for name in ("job_id", "catalogue", "since", "template")}
    form = _form(options)
    with opened(ctx) as services:
        target: Path | Bucket | None = Path(to) if to else None
        if to and to.startswith("s3://"):
            own = services.settings.s3_options
            how = target_options(own, os.environ, endpoint=endpoint, region=region, profile=profile)
            target = Bucket.open(to, how, cache_control)
        with _place(target, zip_) as place:
            selection = _selected(services, **which)
            way = Exit("export", Channel.ZIP if zip_ else Channel.EXPORT, place.where, recipient)
            request = Request(selection, way, None if form.changes_nothing else form)
            with counting("exporting", len(selection.wanted)) as one_more:
                brought = export(services, request, place, lambda _: one_more())
        still_open = _open_items(services, which["job_id"])
    return _tell(selection, brought, place, still_open, as_json, "" if selection.part else INDEX)


def _selected(services: Services, *, job_id: str, catalogue: str, since: str, template: str) -> Selection:
    if bool(job_id) == bool(catalogue):
        raise BadInput("name a JOB or a --catalogue, one of them; `face0 status` lists jobs")
    found = of_job(services, job_id, template) if job_id else of_catalogue(services, catalogue, template)
    return found.newer(services, since) if since else found


@contextmanager
def _place(to: Path | Bucket | None, zip_: Path | None) -> Iterator[Place]:
    if (to is None) == (zip_ is None):
        raise BadInput("say where to with --to or --zip, one of them")
    if zip_ is not None:
        with archive(zip_) as opened_zip:
            yield opened_zip
    elif isinstance(to, Bucket):
        yield to
    elif to is not None:
        if str(to).startswith("s3:"):
            raise BadInput("pull writes to a folder; `face0 results export` writes to a bucket")
        yield Folder(to)


def _form(options: dict[str, Any]) -> Form:
    match = re.fullmatch(r"(\d{1,12})([kKmM]?)", options["max_bytes"].strip(), re.ASCII)
    if match is None:
        raise BadInput(f"--max-bytes {options['max_bytes']}: expected a number of bytes, as 200000, 200k or 1M")
    return Form(
        format=FileFormat(options["file_format"]),
        quality=options["quality"],
        max_bytes=int(match[1]) * _UNITS[match[2].lower()],
        width=options["width"],
        height=options["height"],
    )


def _open_items(services: Services, job_id: str) -> int:
    if not job_id:
        return 0
    job = job_status(services.ledger, job_id)
    return sum(job.counts[state] for state in OPEN_STATES)


def _tell(selection: Selection, brought: Brought, place: Place, still_open: int, as_json: bool, index: str = "") -> int:
    new = sum(copy.size is not None for copy in brought.copies)
    if as_json:
        pictures = [
            {"sku": copy.picture.sku, "file": _path(place, copy.name), "sha256": copy.picture.receipt.picture_sha256}
            for copy in brought.copies
        ]
        facts = {"pictures": pictures, "new": new, "problems": brought.problems, "open": still_open}
        print_json({**selection.about, "to": place.where, **facts})
    else:
        say(f"{len(brought.copies)} of {selection.total} pictures are in {place.where}; {new} came now")
        if index:
            say(f"{index} names them")
        if still_open:
            say("The job is still running; the same command brings the rest later.")
    for problem in brought.problems:
        click.echo(problem, err=True)
    return 1 if brought.problems else 0


def _path(place: Place, name: str) -> str:
    return str(place.root / name) if isinstance(place, Folder) else name


@results.command(name="links")
@click.argument("job_id", metavar="JOB", shell_complete=known_jobs)
@click.option("--expires", default="7d", show_default=True, help="How long: 7d, 12h, 30m or 90s; at most 7d.")
@_recipient
@as_json_option
@click.pass_context
def links_(ctx: click.Context, job_id: str, expires: str, recipient: str, as_json: bool) -> int:
    """Print a link to each of JOB's finished pictures; whoever has it may fetch the picture until it expires.

    The consent is asked again first. One picture a line: SKU and variant, a tab, and the link.
    """
    seconds = link_seconds(expires)
    problems, given = [], []
    with opened(ctx) as services:
        for wanted, got in links(services, job_id, seconds, recipient):
            if isinstance(got, Face0Error):
                problems.append(f"SKU {wanted.sku}: {got}")
                continue
            about = {"sku": wanted.sku, "variant": wanted.variant, "sha256": wanted.picture_sha256}
            given.append(about | {"url": got.url, "expires_at": got.expires_at})
            if not as_json:
                click.echo(f"{wanted.sku}{'-' if wanted.variant else ''}{wanted.variant}\t{got.url}")
    if as_json:
        print_json({"job": job_id, "links": given, "problems": problems})
    for problem in problems:
        click.echo(problem, err=True)
    return 1 if problems else 0


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
