"""`face0 consent`: grant, show, list, amend, approve, receipt and revoke; the person's photos are in consent_faces."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from face0_worker.contract.consent import APPROVERS, ConsentRecord, Decision, needs_approval
from face0_worker.contract.errors import BadInput
from face0_worker.records import consent_changes, consent_versions, consents
from face0_worker.records.consent_versions import Proof, Version
from face0_worker.records.erasure import Step
from face0_worker.records.provenance import open_public_key
from producer import withdraw
from producer.commands import consent_faces, erasure
from producer.commands.completion import known_consents
from producer.commands.consent_options import ask, form_of, record_options
from producer.commands.setting import any_path, opened
from producer.consent.contact import keep_person
from producer.consent.enrolment import account
from producer.consent.form import changed, to_record
from producer.consent.receipt import receipt_page, receipt_statement, receipt_text
from producer.consent.words import end_of, lines, state_of
from producer.services import Services, keys_folder
from producer.show import as_json_option, local, print_json, print_table, say
from producer.sources import is_character

_consent_argument = click.argument("consent_id", metavar="ID", shell_complete=known_consents)


@click.group()
def consent() -> None:
    """A person's permission to make pictures with their face: for named purposes, until a day, revocable any time."""


for _command in (
    *(consent_faces.enrol, consent_faces.held, consent_faces.contact, consent_faces.bar),
    *(erasure.certificate, erasure.takedown),
):
    consent.add_command(_command)


@consent.command()
@record_options
@click.option("--id", "consent_id", help="Its id, as in your own register; default: a new one.")
@as_json_option
@click.pass_context
def grant(ctx: click.Context, /, consent_id: str | None, as_json: bool, **said: Any) -> None:
    """Note that a person has agreed. Keep the signed form itself where your own rules say.

    Needed are --subject, --purpose and --until, or a file with them. Name and contact belong into the file's [person]
    only: they are sealed in the vault. Ads, and any use of a minor, wait for two approvals.
    """
    form = ask(form_of(said))
    record = to_record(form, datetime.now(UTC).replace(second=0, microsecond=0))
    record = record if consent_id is None else changed(record, form.named(consent_id))
    if is_character(record.id):
        raise BadInput("ids that begin with character- are kept for people who do not exist; choose another --id")
    with opened(ctx) as services:
        consents.grant(services.ledger, record, sign=services.signer.sign_statement, by=account())
        if form.person is not None:
            keep_person(services, record.id, form.person, by=account())
    if as_json:
        print_json(record)
        return
    say(f"Consent {record.id} is granted for {', '.join(sorted(record.purposes))}, {_time(record)}.")
    _say_what_is_missing(record)
    say(f"Next: `face0 submit --consent {record.id} --face PHOTO --skus LIST.csv`")


def _time(record: ConsentRecord) -> str:
    return f"valid from {local(record.valid_from)} until {end_of(record)}"


def _say_what_is_missing(record: ConsentRecord) -> None:
    missing = APPROVERS - len(record.terms.approvers)
    waiting = [str(purpose) for purpose in sorted(record.purposes) if needs_approval(record, purpose)]
    if waiting and missing > 0:
        say(f"For {', '.join(waiting)} it waits for {missing} approval(s): `face0 consent approve {record.id}`.")


@consent.command()
@_consent_argument
@as_json_option
@click.pass_context
def show(ctx: click.Context, consent_id: str, as_json: bool) -> None:
    """Show one consent, whether it is what was signed, and what it allows at this moment."""
    with opened(ctx) as services:
        record, versions, proof = _found(services, consent_id)
        now = _allowed_now(services, record)
    if as_json:
        print_json({"consent": record, "now": now, "signature": proof, "versions": [v.document for v in versions]})
        return
    for _, english, _, value in lines(record):
        say(f"{english:20} {value}")
    say(f"{'signature':20} {proof.state}: {proof.sentence}")
    for purpose, decision in now.items():
        say(f"now, for {purpose}: {'allowed' if decision.allowed else decision.english}")
        if not decision.allowed:
            say(f"  {decision.japanese}")


def _found(services: Services, consent_id: str) -> tuple[ConsentRecord, list[Version], Proof]:
    record = consents.get(services.ledger, consent_id)
    if record is None:
        raise BadInput("no such consent is known; `face0 consent list` shows them")
    versions = consent_versions.history(services.ledger, consent_id)
    public_key = open_public_key(keys_folder(services.settings) / "signing.pub")
    return record, versions, consent_versions.prove(record, versions, public_key)


def _allowed_now(services: Services, record: ConsentRecord) -> dict[str, Decision]:
    with services.ledger.transaction() as connection:
        return {
            str(purpose): consents.decide_now(connection, record.id, purpose)[1] for purpose in sorted(record.purposes)
        }


@consent.command(name="list")
@as_json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List every consent, oldest first."""
    with opened(ctx) as services:
        records = consents.list_all(services.ledger)
    if as_json:
        print_json(records)
    elif not records:
        say("No consent is known yet; `face0 consent grant` notes one.")
    else:
        rows = [(r.id, r.subject, state_of(r), ", ".join(sorted(r.purposes)), end_of(r)) for r in records]
        print_table(("id", "subject", "state", "purposes", "valid until"), rows)


@consent.command()
@_consent_argument
@record_options
@as_json_option
@click.pass_context
def amend(ctx: click.Context, /, consent_id: str, as_json: bool, **said: Any) -> None:
    """Change what a consent says: a new signed version. What is said replaces what was said in that field.

    Where it takes rights away, work that it no longer allows is cancelled at once. Anything else needs the person's
    agreement first, and approvals are given anew.
    """
    form = form_of(said)
    if "id" in form.said:
        raise BadInput("a consent's id never changes; take id out of the form")
    if not form.said and form.person is None:
        raise BadInput("say what changes, by options or with --record FILE")
    with opened(ctx) as services:
        record = consents.get(services.ledger, consent_id)
        if form.said:
            sign = services.signer.sign_statement
            change = consent_changes.amend
            record = change(services.ledger, consent_id, lambda old, _: changed(old, form), sign=sign, by=account())
        if form.person is not None:
            keep_person(services, consent_id, form.person, by=account())
    if as_json or record is None:
        print_json(record)
        return
    say(f"Consent {record.id} is now at version {record.version}, epoch {record.epoch}.")
    _say_what_is_missing(record)


@consent.command()
@_consent_argument
@click.option("--by", help="Your staff number, where several people share this login; default: the login.")
@as_json_option
@click.pass_context
def approve(ctx: click.Context, consent_id: str, by: str | None, as_json: bool) -> None:
    """Approve a consent as it stands. Ads, and any use of a minor, need two approvals by different people."""
    with opened(ctx) as services:
        sign = services.signer.sign_statement
        record = consent_changes.approve(services.ledger, consent_id, by=by or account(), sign=sign)
    if as_json:
        print_json(record)
        return
    say(f"Consent {record.id} has {len(record.terms.approvers)} approval(s) of {APPROVERS}.")


@consent.command()
@_consent_argument
@click.option("--to", type=any_path, help="Folder for ID.receipt.json (signed) and ID.receipt.html (to print).")
@as_json_option
@click.pass_context
def receipt(ctx: click.Context, consent_id: str, to: Path | None, as_json: bool) -> None:
    """Print the receipt that the person gets, in English and Japanese; with --json the signed one, for machines."""
    with opened(ctx) as services:
        record, versions, proof = _found(services, consent_id)
        now = datetime.now(UTC).replace(microsecond=0)
        envelope = services.signer.sign_statement(receipt_statement(record, versions, now))
    if as_json:
        click.echo(envelope.decode())
    elif to is None:
        say(receipt_text(record, proof, now))
    if to is not None:
        files = {".receipt.json": envelope, ".receipt.html": receipt_page(record, proof, now).encode()}
        for ending, data in files.items():
            _write(to / f"{record.id}{ending}", data)
            if not as_json:
                say(f"written: {to / record.id}{ending}")


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise BadInput(f"{file} can't be written: {error.strerror}") from error


@consent.command()
@click.argument("consent_id", metavar="ID", shell_complete=known_consents)
@click.option("--reason", default="", help="Why, for your records; no name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
@click.pass_context
def revoke(ctx: click.Context, consent_id: str, reason: str, yes: bool, as_json: bool) -> None:
    """Withdraw a consent for good. Open work stops, and photo, pictures and key are erased. It can't be undone."""
    with opened(ctx) as services:
        if consents.get(services.ledger, consent_id) is None:
            raise BadInput("no such consent is known; `face0 consent list` shows them")
        if not yes:
            question = f"Revoke consent {consent_id}? Its photo and pictures are erased; this can't be undone."
            click.confirm(question, abort=True, err=True)
        done = withdraw.withdraw(services, consent_id, reason=reason)
    if as_json:
        print_json(done)
        return
    revocation = done.revocation
    say(f"Consent {consent_id} is revoked since {local(revocation.revoked_at)}. No picture can be made under it again.")
    say(
        f"{revocation.cancelled} open items were cancelled, {revocation.pictures} pictures are purged, "
        f"{done.erased} stored objects were erased, and the key to the photo is destroyed."
    )
    if done.step is not Step.FINISHED:
        say(f"A worker sweeps once more for late writers, then `face0 consent certificate {consent_id}` has the proof.")
    say(f"Copies that left are yours to delete: `face0 consent takedown {consent_id}`; `face0 verify` refuses them.")
