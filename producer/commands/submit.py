"""`face0 submit`: a photo and a product list become a job."""

from __future__ import annotations

from pathlib import Path

import click

from face0_worker.contract.consent import PICTURES, Purpose, Use
from face0_worker.contract.job import Priority
from face0_worker.records import consents
from face0_worker.records.offers import find_model
from producer import submit as room
from producer.catalogue import ItemDefaults, ListOptions, read_items
from producer.commands.jobs import follow_to_the_end
from producer.commands.list_options import (
    count_variants,
    list_options,
    preview_option,
    say_variants,
    show_preview,
    warn_of_unknown_words,
)
from producer.commands.setting import any_path, opened
from producer.consent.enrolment import account
from producer.show import Told, as_json_option, plain, print_json, say
from producer.sources import photo_files


@click.command()
@click.option(
    "--face",
    "faces",
    multiple=True,
    type=any_path,
    help="Photo of the person: one face, well lit. Repeat it to average several photos. Default: the stored one.",
)
@click.option(
    "--which",
    default="only",
    show_default=True,
    help="Which face of a photo with several: only (refuse it), largest, or its number counted from the left.",
)
@click.option("--weight", "weights", multiple=True, type=float, help="Weight of each --face, in their order.")
@click.option(
    "--skus", required=True, type=any_path, help="Product list: .csv, .jsonl or .xlsx with columns sku and prompt."
)
@click.option(
    "--consent", "consent_id", required=True, metavar="ID", help="The person's consent; `face0 consent list`."
)
@click.option(
    "--purpose",
    type=click.Choice([str(purpose) for purpose in PICTURES]),
    default=str(Purpose.CATALOGUE),
    show_default=True,
    help="What the pictures are for; the consent must allow it.",
)
@list_options
@preview_option
@click.option(
    "--priority",
    type=click.Choice([priority.name.lower() for priority in Priority]),
    default="normal",
    show_default=True,
    help="An urgent job overtakes the others.",
)
@click.option("--model", help="Model by name or digest; default: the one that a worker offers.")
@click.option("--catalogue", default="", help="Name of the catalogue the pictures belong to.")
@click.option(
    "--bars", type=any_path, help="File of the quality gate's bars (docs/quality.md); default: the model's own."
)
@click.option("--campaign", default="", help="Campaign the pictures are for, where the consent names some.")
@click.option("--channel", default="", help="Where they will be shown (web, store, tv), where the consent names some.")
@click.option("--territory", default="", help="Country or region they are for (JP), where the consent names some.")
@click.option("--idempotency-key", default="", help="The same key again returns the same job instead of a new one.")
@click.option("--dry-run", is_flag=True, help="Check everything and say what would happen; enqueue nothing.")
@click.option("--wait", is_flag=True, help="Follow the job until it ends.")
@as_json_option
@click.pass_context
def submit(
    ctx: click.Context,
    faces: tuple[Path, ...],
    which: str,
    weights: tuple[float, ...],
    skus: Path,
    consent_id: str,
    purpose: str,
    template: str | None,
    how: ListOptions,
    preview: int | None,
    priority: str,
    model: str | None,
    catalogue: str,
    bars: Path | None,
    campaign: str,
    channel: str,
    territory: str,
    idempotency_key: str,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Render a product list with one person's photo. The consent is checked before the photo is opened.

    Without --face the face that was stored last under the consent is used: an earlier photo, or a character's.
    The photo and the face's numbers are stored encrypted under the consent's own key.
    """
    with opened(ctx) as services:
        # before the list is read, too: whoever has no consent learns that first
        use = Use(Purpose(purpose), campaign, channel, territory)
        consents.require(services.ledger, consent_id, use, stage="submit")
        defaults = ItemDefaults.of_model(find_model(services.ledger, model).facts)
        listed = read_items(skus, template, defaults, how)
        if preview is not None:
            show_preview(listed, preview, as_json=as_json)
            return 0
        items = Told(listed, "reading the list")
        result = room.submit(
            services,
            face=photo_files(faces, weights, which) if faces or weights else None,
            items=items,
            consent_id=consent_id,
            purpose=Purpose(purpose),
            priority=Priority[priority.upper()],
            model=model,
            catalogue=catalogue,
            submitter=account(),
            idempotency_key=idempotency_key,
            dry_run=dry_run,
            bars=bars,
            campaign=campaign,
            channel=channel,
            territory=territory,
        )
        warn_of_unknown_words(listed)
        counts = count_variants(listed) if dry_run else {}
        following = wait and not dry_run
        if not as_json:
            _tell(result, dry_run=dry_run, wait=wait)
            say_variants(counts)
        elif not following:
            print_json({**plain(result), "variants": counts} if counts else result)
        return follow_to_the_end(services, result.job_id, as_json=as_json, also=result) if following else 0


def _tell(result: room.SubmitResult, *, dry_run: bool, wait: bool) -> None:
    kept = f"; {result.kept} exist already and are kept" if result.kept else ""
    if dry_run:
        takes = f": {result.takes.sentence()}" if result.takes else ""
        would = f"{result.items} pictures would be made with model {result.model}"
        say(f"Dry run: {would}{kept}{takes}. Nothing was enqueued.")
        return
    if not result.created:
        say(f"This idempotency key has made job {result.job_id} before ({result.items} pictures); nothing was added.")
    else:
        say(f"Job {result.job_id}: {result.items} pictures with model {result.model}{kept}.")
    if not wait:
        say(f"Next: `face0 watch {result.job_id}`, then `face0 results pull {result.job_id} --to DIR`")
