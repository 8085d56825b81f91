"""`face0 review`: rejected pictures that wait for a human."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from face0_worker.contract.errors import ServiceDown
from face0_worker.records import held
from face0_worker.records.held import Held
from producer import review as room
from producer.commands.completion import known_jobs
from producer.commands.setting import any_path, opened
from producer.consent.enrolment import account
from producer.private_file import write_private
from producer.show import as_json_option, local, plain, print_json, print_table, say

_item_argument = click.argument("item_id", metavar="ITEM", type=int)
_by_option = click.option("--by", default=account, help="Who decides, by pseudonym or login; default: your login.")


@click.group()
def review() -> None:
    """Pictures that the quality gate rejected, second chances included. They are kept encrypted until decided."""


def _as_json(one: Held) -> dict[str, Any]:
    kept = ("item_id", "job_id", "sku", "variant", "consent_id", "reason", "seed", "held_at", "decision", "decided_by")
    told = {name: value for name, value in plain(one).items() if name in kept}
    return {**told, "ended": one.ended, "error": one.error, "verdict": asdict(one.verdict), "bars": one.bars.to_json()}


@review.command(name="list")
@click.option("--job", "job_id", shell_complete=known_jobs, help="Of this job only.")
@as_json_option
@click.pass_context
def list_(ctx: click.Context, job_id: str | None, as_json: bool) -> None:
    """List the pictures that wait for a decision, oldest first, and why each was rejected."""
    with opened(ctx) as services:
        found = list(held.list_undecided(services.ledger, job_id))
    if as_json:
        print_json([_as_json(one) for one in found])
    elif not found:
        say("No picture waits for a decision.")
    else:
        rows = [
            (str(one.item_id), one.sku, one.variant, one.reason, str(one.verdict.tries), one.job_id, local(one.held_at))
            for one in found
        ]
        print_table(("item", "sku", "variant", "why", "tries", "job", "since"), rows)


@review.command()
@_item_argument
@click.option("--to", "file", required=True, type=any_path, help="PNG file to write; delete it when you have decided.")
@_by_option
@as_json_option
@click.pass_context
def show(ctx: click.Context, item_id: int, file: Path, by: str, as_json: bool) -> None:
    """Decrypt the picture of ITEM into a file. The consent is asked, and the audit log says who looked."""
    with opened(ctx) as services:
        one, picture = room.open_picture(services, item_id, by=by)
    write_private(file, picture)
    if as_json:
        print_json({**_as_json(one), "file": str(file)})
        return
    say(f"Item {item_id} of {one.job_id}, SKU {one.sku}: {one.reason}. Written to {file}.")
    say(f"Next: `face0 review accept {item_id}` or `face0 review reject {item_id}`, then delete the file.")


@review.command()
@_item_argument
@_by_option
@click.option("--wait", "wait_s", default=15.0, show_default=True, help="Seconds to wait for a worker's machine.")
@as_json_option
@click.pass_context
def accept(ctx: click.Context, item_id: int, by: str, wait_s: float, as_json: bool) -> None:
    """Accept the picture of ITEM: it is signed and committed, and its receipt says by whom it was accepted.

    The numbers in the receipt stay as they were measured. A worker's machine (`face0 up`, `face0-worker run`) signs.
    """
    with opened(ctx) as services:
        one = room.accept(services, item_id, by=by, wait_s=wait_s)
    if as_json:
        print_json(_as_json(one))
    elif one.ended:
        say(f"Item {item_id}, SKU {one.sku}, is accepted and done. Next: `face0 results pull {one.job_id} --to DIR`")
    if not one.ended:
        raise ServiceDown(
            f"item {item_id} is accepted, and is committed as soon as a worker's machine runs: `face0 up`, "
            f"then `face0 review accept {item_id}` again"
        )


@review.command()
@_item_argument
@_by_option
@as_json_option
@click.pass_context
def reject(ctx: click.Context, item_id: int, by: str, as_json: bool) -> None:
    """Reject the picture of ITEM for good; what was held is erased."""
    with opened(ctx) as services:
        one = room.reject(services, item_id, by=by)
    if as_json:
        print_json(_as_json(one))
    else:
        say(f"Item {item_id}, SKU {one.sku}, is rejected; its picture is erased.")
