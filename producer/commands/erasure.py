"""`face0 erasure`: what was erased and what is being erased, and the proof of it; also certificate and takedown."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TextIO

import click

from face0_worker.contract.errors import BadInput, WorkFailed
from face0_worker.records import consents, deliveries, erasure
from face0_worker.records.deliveries import Delivery
from face0_worker.records.erasure import Erasure, Step
from face0_worker.records.replay import replay as replay_all
from face0_worker.records.tombstones import read_certificate
from producer import leftovers
from producer.commands.completion import known_consents
from producer.commands.setting import any_path, existing_file, opened
from producer.services import Services
from producer.show import as_json_option, local, plain, print_json, print_table, say
from producer.withdraw import eraser

_consent_argument = click.argument("consent_id", metavar="ID", shell_complete=known_consents)
_COUNTS = ("objects", "late", "manifests", "copies", "replays")
_UNITS = {
    "ledger": "tables of the ledger",
    "store": "versions of objects",
    "broker": "keys of the broker",
    "disk": "files",
}
_UNKNOWN = "no erasure of this consent was asked for; `face0 erasure list` shows those that were"


@click.group(name="erasure")
def erasure_group() -> None:
    """Everything of a person, erased: by revocation, at a consent's end, and again after a backup was restored."""


def _found(services: Services, consent_id: str) -> Erasure:
    one = erasure.get(services.ledger, consent_id)
    if one is None:
        raise BadInput(_UNKNOWN)
    return one


def _state(one: Erasure) -> str:
    if one.finished_at is not None:
        return f"finished {local(one.finished_at)}"
    return "waiting for its second sweep" if one.step is Step.SWEEP else f"next: {one.step}"


def _told(one: Erasure) -> dict[str, object]:
    """Return an erasure as plain values; the certificate's bytes are `face0 consent certificate`'s to print."""
    return {name: value for name, value in vars(one).items() if name != "certificate"}


@erasure_group.command(name="list")
@as_json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List every erasure, oldest first."""
    with opened(ctx) as services:
        found = erasure.list_all(services.ledger)
    if as_json:
        print_json([_told(one) for one in found])
    elif not found:
        say("Nothing was erased yet; `face0 consent revoke` does.")
    else:
        rows = [(one.consent_id, str(one.cause), local(one.requested_at), _state(one)) for one in found]
        print_table(("consent", "cause", "asked for", "state"), rows)


def _in_order(counts: Collection[str]) -> list[str]:
    """Return the names of counts in the order in which people ask for them; the ledger keeps none."""
    return sorted(counts, key=_COUNTS.index)


@erasure_group.command()
@_consent_argument
@as_json_option
@click.pass_context
def show(ctx: click.Context, consent_id: str, as_json: bool) -> None:
    """Show how far the erasure of one person is."""
    with opened(ctx) as services:
        one = _found(services, consent_id)
    _print(one, as_json)


def _print(one: Erasure, as_json: bool) -> None:
    if as_json:
        print_json(_told(one))
        return
    say(f"consent    {one.consent_id}")
    say(f"cause      {one.cause}, consent epoch {one.epoch}")
    say(f"asked for  {local(one.requested_at)}")
    say(f"state      {_state(one)}")
    for name in _in_order(one.counts):
        say(f"{name:<10} {one.counts[name]}")
    if one.step is Step.SWEEP:
        say("A worker sweeps once more when no writer of before can be left, and signs the certificate then.")


@erasure_group.command()
@click.argument("consent_id", metavar="[ID]", required=False, shell_complete=known_consents)
@as_json_option
@click.pass_context
def run(ctx: click.Context, consent_id: str | None, as_json: bool) -> None:
    """Go on with unfinished erasures, or with the one named; a running worker does so by itself."""
    with opened(ctx) as services:
        tool = eraser(services)
        wanted = [_found(services, consent_id)] if consent_id else erasure.unfinished(services.ledger)
        done = [tool.run(one.consent_id) for one in wanted]
    if as_json:
        print_json([_told(one) for one in done])
    elif not done:
        say("Nothing is left to erase.")
    else:
        for one in done:
            say(f"{one.consent_id}: {_state(one)}")


@erasure_group.command()
@click.option("--thorough", is_flag=True, help="Also ask the store about each erased person, one after another.")
@as_json_option
@click.pass_context
def replay(ctx: click.Context, thorough: bool, as_json: bool) -> None:
    """Erase again what a restored backup has brought back. Workers do this when they start."""
    with opened(ctx) as services:
        again = replay_all(eraser(services), thorough=thorough)
    if as_json:
        print_json({"replayed": again})
    elif not again:
        say("No erasure was undone.")
    else:
        say(f"{len(again)} erasures were done again: {', '.join(again)}")


@erasure_group.command()
@_consent_argument
@click.option(
    "--photo", "photos", type=existing_file, multiple=True, help="A photo to look for; repeat it for several."
)
@click.option(
    "--words", type=click.File(encoding="utf-8"), help="File with name and contact to look for, one a line; - is stdin."
)
@click.option(
    "--path", "paths", type=any_path, multiple=True, help="Another folder to look through, as of a log collector."
)
@as_json_option
@click.pass_context
def check(
    ctx: click.Context,
    consent_id: str,
    photos: tuple[Path, ...],
    words: TextIO | None,
    paths: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Look for anything left of an erased person: ledger, store with all versions, broker, vault, disk and logs.

    What to look for is never printed. Give the person's own photo and words to look for more than what the
    consent's id leads to.
    """
    with opened(ctx) as services:
        _found(services, consent_id)
        result = leftovers.search(services, consent_id, list(_canaries(services, photos, words)), paths)
    if as_json:
        print_json({"clean": result.clean, "looked": result.looked, "found": result.found, "unread": result.unread})
    else:
        say("looked through: " + ", ".join(f"{number} {_UNITS[place]}" for place, number in result.looked.items()))
        for one in result.found:
            say(f"found in {one.place}: {one.what} ({one.where})")
        for path in result.unread:
            say(f"could not be read: {path}")
        say("Nothing of the person is left." if result.clean else "The erasure is not whole.")
    if not result.clean:
        raise WorkFailed(
            f"{len(result.found)} leftovers of consent {consent_id} were found and {len(result.unread)} places could "
            "not be read; `face0 erasure replay --thorough` erases again what lies in the store"
        )


def _canaries(services: Services, photos: tuple[Path, ...], words: TextIO | None) -> Iterator[leftovers.Canary]:
    from producer.sources import embed, photo_files

    for number, photo in enumerate(photos, start=1):
        yield leftovers.Canary.of_bytes(f"photo {number}", photo.read_bytes())
        yield leftovers.of_embedding(f"embedding {number}", embed(services, photo_files([photo])))
    lines = [line.strip() for line in words] if words else []
    for number, word in enumerate((line for line in lines if line), start=1):
        if len(word) < 4:
            raise BadInput(f"word {number} has fewer than 4 letters and would be found everywhere; give a longer one")
        yield leftovers.Canary.of_word(f"word {number}", word)


@click.command()
@_consent_argument
@as_json_option
@click.pass_context
def certificate(ctx: click.Context, consent_id: str, as_json: bool) -> None:
    """Print the signed deletion certificate of an erased person; with --json the signed envelope itself."""
    with opened(ctx) as services:
        one = _found(services, consent_id)
        if one.certificate is None:
            raise WorkFailed(f"the erasure is not finished ({_state(one)}); the certificate is signed at its end")
        said = read_certificate(one.certificate, services.signer.public_key)
    if as_json:
        click.echo(one.certificate.decode())
        return
    say(f"Deletion certificate for consent {consent_id}")
    say(f"cause         {said['cause']}, consent epoch {said['epoch']}")
    say(f"asked for     {said['requested_at']}")
    say(f"erased        {said['erased_at']}")
    say(f"key           {said['key']}")
    for name in _in_order(said["counts"]):
        say(f"{name:<13} {said['counts'][name]}")
    for sentence in said["remains"]:
        say(f"remains       {sentence}")


@click.command()
@_consent_argument
@click.option("--to", type=any_path, help="Write the list there; .json or .csv by its ending.")
@as_json_option
@click.pass_context
def takedown(ctx: click.Context, consent_id: str, to: Path | None, as_json: bool) -> None:
    """List where copies of a person's pictures went, as CSV, so that each can be taken down."""
    with opened(ctx) as services:
        copies = list(deliveries.takedown(services.ledger, consent_id))
        if not copies and consents.get(services.ledger, consent_id) is None:
            raise BadInput("no such consent is known; `face0 consent list` shows them")
    as_json = as_json or (to is not None and to.suffix == ".json")
    if to is None:
        if as_json:
            print_json(copies)
        else:
            _write_csv(copies, sys.stdout)
        return
    out = io.StringIO()
    if as_json:
        out.write(json.dumps(plain(copies), ensure_ascii=False, indent=2) + "\n")
    else:
        _write_csv(copies, out)
    try:
        to.write_text(out.getvalue(), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{to} can't be written: {error.strerror}; choose another place with --to") from error
    say(f"{len(copies)} copies: {to}")


def _write_csv(copies: list[Delivery], out: TextIO) -> None:
    names = ("at", "channel", "destination", "job_id", "item_key", "picture_sha256")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for copy in copies:
        writer.writerow([str(plain(getattr(copy, name))) for name in names])
