"""`face0 nightly run`, `status`, `history`, `verify`, `rollback` and `install`: a catalogue that stays as its lists."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from face0_worker.commandline import INTERRUPTED
from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.records import catalogue_runs, catalogues
from face0_worker.records.catalogue_pointer import Pointer, read_entries, read_pointer
from face0_worker.records.catalogue_runs import Run
from face0_worker.records.provenance import open_public_key
from producer.commands.nightly_options import nightly_options, shares_of, words_of
from producer.commands.setting import any_path, explained, opened, settings_of
from producer.nightly import Order, preview, run_night
from producer.nights.outcome import check_entries
from producer.nights.progress import telling
from producer.nights.report import Night, report, sentences
from producer.nights.schedule import KINDS, files, next_step, next_time, schedule
from producer.services import Services, keys_folder
from producer.show import as_json_option, counting, local, plain, print_json, print_table, say

_name_argument = click.argument("name", metavar="NAME")
_any_name = click.argument("name", metavar="[NAME]", required=False)


@click.group()
def nightly() -> None:
    """Catalogues by night: render what changed, keep the rest, show it when it is complete (docs/nightly.md)."""


@nightly.command()
@nightly_options
@click.option("--dry-run", is_flag=True, help="Say what would be added, changed, kept, removed; render nothing.")
@click.option("--out", type=any_path, default=Path("out"), show_default=True, help="Folder for report.json.")
@as_json_option
@click.pass_context
def run(
    ctx: click.Context,
    /,
    catalogue: str,
    until: str | None,
    at_deadline: str,
    min_done: float,
    purpose: str,
    campaign: str,
    channel: str,
    territory: str,
    model: str | None,
    bars: Path | None,
    dry_run: bool,
    out: Path,
    as_json: bool,
    **lists_and_people: Any,
) -> int:
    """Make a catalogue be what LIST... say, and wait until it is. Repeated, a night that was cut short goes on.

    Without --people the lists are one person's, of --consent; without --face the stored face is used.
    """
    with opened(ctx) as services:
        order = Order(
            catalogue=catalogue,
            shares=shares_of(services, model=model, **lists_and_people),
            use=Use(Purpose(purpose), campaign, channel, territory),
            model=model,
            bars=bars,
            deadline=next_time(until, datetime.now(UTC)) if until else None,
            publish_at_deadline=at_deadline == "publish",
            min_done=min_done,
        )
        if dry_run:
            _preview(services, order, as_json=as_json)
            return 0
        try:
            with telling(catalogue) as on_progress:
                night = run_night(services, order, on_progress)
        except KeyboardInterrupt:
            click.echo("\nThe workers go on; the same command goes on with this night, and publishes it.", err=True)
            return INTERRUPTED
    _write_report(night, out)
    if as_json:
        print_json(report(night))
    else:
        for sentence in sentences(night):
            say(sentence)
    for problem in night.problems:
        click.echo(problem, err=True)
    return night.exit_code


def _preview(services: Services, order: Order, *, as_json: bool) -> None:
    seen = preview(services, order)
    if as_json:
        print_json(seen)
        return
    differs = seen.difference
    say(
        f"Dry run: {differs.added} added, {differs.changed} changed, {differs.kept} kept, {differs.removed} removed; "
        f"{seen.to_render} of {seen.items} pictures would be rendered with model {seen.model}. Nothing was enqueued."
    )
    if seen.refused:
        say(f"  {seen.refused} are left out: their consent does not allow them.")


def _write_report(night: Night, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report(night), ensure_ascii=False, indent=2) + "\n"
        (out / "report.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}; choose another folder with --out") from error


def _pointer(services: Services, name: str) -> Pointer:
    public_key = open_public_key(keys_folder(services.settings) / "signing.pub")
    pointer = read_pointer(services.storage, public_key, name)
    if pointer is None:
        raise BadInput(f"catalogue {name} shows nothing yet; `face0 nightly run --catalogue {name}` makes it")
    return pointer


@nightly.command()
@_any_name
@as_json_option
@click.pass_context
def status(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """Show the newest run of every catalogue, or of NAME, and how many pictures it shows."""
    with opened(ctx) as services:
        runs = [one for one in catalogue_runs.newest(services.ledger) if name in (None, one.catalogue)]
        public_key = open_public_key(keys_folder(services.settings) / "signing.pub")
        pointers = [read_pointer(services.storage, public_key, one.catalogue) for one in runs]
    if name is not None and not runs:
        raise BadInput("no such catalogue is known; `face0 nightly status` lists them")
    if as_json:
        both = zip(runs, pointers, strict=True)
        print_json([{"run": plain(one), "pointer": plain(pointer)} for one, pointer in both])
    elif not runs:
        say("There is no catalogue yet; `face0 nightly run` makes one.")
    else:
        rows = [
            (*_row(one), str(pointer.total) if pointer else "-") for one, pointer in zip(runs, pointers, strict=True)
        ]
        print_table((*_COLUMNS, "shown now"), rows)


@nightly.command()
@_any_name
@click.option("--limit", default=30, show_default=True, type=click.IntRange(1, 1000), help="How many runs to list.")
@as_json_option
@click.pass_context
def history(ctx: click.Context, name: str | None, limit: int, as_json: bool) -> None:
    """List the newest runs, of NAME or of every catalogue."""
    with opened(ctx) as services:
        runs = catalogue_runs.history(services.ledger, name, limit)
    if as_json:
        print_json(runs)
    elif runs:
        print_table(_COLUMNS, [_row(one) for one in runs])
    else:
        say("There is no run yet; `face0 nightly run` makes one.")


_NUMBERS = ("added", "changed", "kept", "removed", "failed", "refused", "cancelled", "stale")
_COLUMNS = ("catalogue", "run", "state", "begun", *_NUMBERS)


def _row(run: Run) -> tuple[str, ...]:
    numbers = (str(run.counts.get(name, "-")) for name in _NUMBERS)
    return (run.catalogue, run.id, run.state, local(run.started_at), *numbers)


@nightly.command()
@_name_argument
@as_json_option
@click.pass_context
def verify(ctx: click.Context, name: str, as_json: bool) -> int:
    """Check NAME's pointer, its manifest and every picture: signatures, hashes, receipts, consents.

    Exit code 1 when something is missing or changed, 3 when a consent does not allow a picture any more.
    """
    with opened(ctx) as services:
        pointer = _pointer(services, name)
        public_key = open_public_key(keys_folder(services.settings) / "signing.pub")
        entries = list(read_entries(services.storage, public_key, pointer.manifest))
        failed: list[str] = []
        refused: list[str] = []
        with counting("verifying", len(entries)) as one_more:
            for entry, wrong in check_entries(services, entries):
                one_more()
                if wrong is not None:
                    (refused if isinstance(wrong, ConsentRefused) else failed).append(f"SKU {entry.sku}: {wrong}")
    problems = [*failed, *refused]
    if as_json:
        print_json({"pointer": pointer, "verified": len(entries) - len(problems), "problems": problems})
    else:
        say(f"{len(entries) - len(problems)} of {len(entries)} pictures of {name} are verified (run {pointer.run_id})")
    for problem in problems:
        click.echo(problem, err=True)
    return 1 if failed else 3 if refused else 0


@nightly.command()
@_name_argument
@as_json_option
@click.pass_context
def rollback(ctx: click.Context, name: str, as_json: bool) -> None:
    """Let NAME show again what it showed before, without pictures whose consent has ended. Twice undoes it."""
    with opened(ctx) as services:
        pointer = catalogues.rollback(services.ledger, services.storage, services.signer, name)
    if as_json:
        print_json(pointer)
    else:
        say(f"{name} shows {pointer.total} pictures of run {pointer.run_id} again; the next night follows the lists.")


@nightly.command()
@nightly_options
@click.option("--at", required=True, metavar="HH:MM", help="When it shall run every day, by the machine's clock.")
@click.option("--write", is_flag=True, help="Write the files instead of printing them.")
@click.option("--to", type=any_path, help="Folder to write to; default: ~/.config/systemd/user, else this folder.")
@as_json_option
@click.pass_context
def install(
    ctx: click.Context,
    /,
    catalogue: str,
    at: str,
    write: bool,
    to: Path | None,
    lists: tuple[Path, ...],
    as_json: bool,
    **night: object,
) -> None:
    """Print, or write with --write, what runs a night every day; nothing is switched on.

    Before LIST... say for what: cron (the default), systemd or celery-beat. Every option of `run` is passed on.
    """
    kind, paths = (str(lists[0]), lists[1:]) if lists and str(lists[0]) in KINDS else ("cron", lists)
    if not night["people"] and not (night["consent_id"] and paths):
        raise BadInput("a night needs lists, and --consent ID or --people FILE")
    settings = settings_of(ctx)
    root = ctx.find_root()
    chosen = ["--home", str(settings.home_dir)]
    if config := root.params.get("config"):
        chosen += ["--config", str(Path(config).absolute())]
    chosen += [word for said in root.params.get("settings") or () for word in ("--set", said)]
    # -P: the folder that it runs in may hold anything
    command = [sys.executable, "-P", "-m", "producer.cli", *chosen, "nightly", "run", *words_of(ctx, paths)]
    one = schedule(catalogue, at, command, Path.cwd())
    _warn_of_variables(ctx)
    folder = to or (Path.home() / ".config" / "systemd" / "user" if kind == "systemd" else Path.cwd())
    texts = files(kind, one)
    if write:
        _write_files(folder, texts)
    told = next_step(kind, one, folder.absolute() if write else None)
    if as_json:
        print_json({"kind": kind, "files": texts, "written_to": folder.absolute() if write else None, "next": told})
        return
    for name, text in texts.items():
        say(f"{folder / name} written" if write else f"# {name}\n{text}")
    click.echo(told, err=not write)


def _write_files(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{folder} can't be written: {error.strerror}; choose another folder with --to") from error


def _warn_of_variables(ctx: click.Context) -> None:
    """Say which settings come from variables, which no scheduler has."""
    names: Sequence[str] = sorted(
        {one.where for one in explained(ctx) if one.where.startswith("FACE0_") and one.where != "FACE0_HOME"}
    )
    if names:
        click.echo(
            f"Warning: {', '.join(names)} will not be set when it runs by itself; put that into face0.toml", err=True
        )
