"""`face0 audit`: verify the log against its signed checkpoints, export it, and go on after a restored backup."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click

from face0_worker.contract.errors import BadInput
from face0_worker.records import audit_check, checkpoints
from face0_worker.records.provenance import open_public_key
from producer.commands.setting import any_path, opened
from producer.services import keys_folder
from producer.show import as_json_option, print_json, say

_COLUMNS = ("seq", "at", "kind", "consent_id", "job_id", "item_key", "body", "hash")
_TIME = click.DateTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])


@click.group()
def audit() -> None:
    """The audit log: one event per decision, commit, refusal, access, delivery and erasure, in a signed hash chain."""


@audit.command()
@as_json_option
@click.pass_context
def verify(ctx: click.Context, as_json: bool) -> None:
    """Check the whole log: no event changed, missing, moved or cut off, and exactly one for each commit.

    Ends with 1 and names the first thing that is wrong.
    """
    with opened(ctx) as services:
        public_key = open_public_key(keys_folder(services.settings) / "signing.pub")
        found = audit_check.check(services.ledger, services.storage, public_key)
    if as_json:
        print_json(found)
        return
    say(f"{found.events} events, each as it was written; {found.waiting} more wait to be chained.")
    if found.checkpoints:
        say(f"{found.checkpoints} signed checkpoints agree; event {found.signed} is the last that one vouches for.")
    else:
        say("No checkpoint is signed yet: a worker signs one within minutes.")
    say(f"{found.commits} commits, each with exactly one event.")
    if found.lost:
        lost = ", ".join(str(number) for number in found.lost)
        say(f"Events were lost with a restored backup; the log says so itself (checkpoints {lost}).")


@audit.command()
@click.option("--to", type=any_path, help="Write it there; default: stdout.")
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl"]), help="Default: by the ending of --to, else jsonl."
)
@click.option(
    "--since", type=_TIME, help="From this time on, as 2026-07-01 or 2026-07-01T09:00:00+09:00; UTC without a zone."
)
@click.option("--until", type=_TIME, help="Until before this time.")
@click.option("--consent", "consent_id", default="", help="Only what is about this consent.")
@click.pass_context
def export(
    ctx: click.Context,
    to: Path | None,
    form: str | None,
    since: datetime | None,
    until: datetime | None,
    consent_id: str,
) -> None:
    """Write the events as CSV or JSON lines. They hold ids, states and counts; no name, photo or embedding."""
    form = form or ("csv" if to is not None and to.suffix == ".csv" else "jsonl")
    with opened(ctx) as services:
        events = audit_check.export(services.ledger, since=_iso(since), until=_iso(until), consent_id=consent_id)
        if to is None:
            _write(events, form, sys.stdout)
            return
        try:
            with to.open("w", encoding="utf-8", newline="") as out:
                number = _write(events, form, out)
        except OSError as error:
            raise BadInput(f"{to} can't be written: {error.strerror}; choose another place with --to") from error
    say(f"{number} events: {to}")


def _iso(when: datetime | None) -> str:
    if when is None:
        return ""
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def _write(events: Iterable[dict[str, Any]], form: str, out: TextIO) -> int:
    number = 0
    writer = csv.writer(out, lineterminator="\n")
    if form == "csv":
        writer.writerow(_COLUMNS)
    for event in events:
        if form == "csv":
            writer.writerow(_row(event))
        else:
            out.write(_json(event) + "\n")
        number += 1
    return number


def _row(event: dict[str, Any]) -> list[str]:
    body = event["body"]
    named = {name: body.get(name, "") for name in ("consent_id", "job_id", "item_key")}
    row = {**event, **named, "body": _json(body)}
    return [str(row[name]) for name in _COLUMNS]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


@audit.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
@click.pass_context
def restored(ctx: click.Context, yes: bool, as_json: bool) -> None:
    """Note in the log that the ledger was restored from a backup and newer events are lost, and go on signing.

    The note stays for ever, and `face0 audit verify` tells it.
    """
    with opened(ctx) as services:
        if not yes:
            click.confirm("Note that events were lost with a restored backup? The note stays.", abort=True, err=True)
        lost = checkpoints.accept_restore(services.ledger, services.storage, services.signer.public_key)
    if as_json:
        print_json({"lost": lost})
    else:
        say(f"{lost} lost events are noted." if lost else "Nothing is lost: the log agrees with every checkpoint.")
