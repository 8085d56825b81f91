"""`face0 consent`: grant, show, list and revoke."""

from __future__ import annotations

import secrets
from datetime import UTC, date, datetime, timedelta

import click

from face0_worker.contract.consent import ConsentRecord, ConsentState, Decision, Purpose
from face0_worker.contract.errors import BadInput
from face0_worker.records import consents
from producer import withdraw
from producer.commands.completion import known_consents
from producer.commands.setting import opened
from producer.services import Services
from producer.show import as_json_option, local, print_json, print_table, say
from producer.sources import is_character

_DATE = click.DateTime(formats=["%Y-%m-%d"])


@click.group()
def consent() -> None:
    """A person's permission to make pictures with their face: for named purposes, until a day, revocable any time."""


@consent.command()
@click.option("--subject", required=True, help="Your own number or pseudonym for the person; not their name.")
@click.option(
    "--purpose",
    "purposes",
    multiple=True,
    required=True,
    type=click.Choice([str(purpose) for purpose in Purpose]),
    help="What the pictures may be used for; repeat it for several. What is not named is not allowed.",
)
@click.option("--until", required=True, type=_DATE, help="Last day it is valid, in this machine's time zone.")
@click.option("--from", "start", type=_DATE, help="First day it is valid; default: now.")
@click.option("--id", "consent_id", help="Its id, as in your own register; default: a new one.")
@as_json_option
@click.pass_context
def grant(
    ctx: click.Context,
    subject: str,
    purposes: tuple[str, ...],
    until: datetime,
    start: datetime | None,
    consent_id: str | None,
    as_json: bool,
) -> None:
    """Note that a person has agreed. Keep the signed form itself where your own rules say."""
    if consent_id and is_character(consent_id):
        raise BadInput("ids that begin with character- are kept for people who do not exist; choose another --id")
    record = ConsentRecord(
        id=consent_id or f"consent-{secrets.token_hex(6)}",
        subject=subject,
        purposes=frozenset(Purpose(purpose) for purpose in purposes),
        valid_from=_midnight(start.date()) if start else datetime.now(UTC).replace(second=0, microsecond=0),
        valid_until=_midnight(until.date() + timedelta(days=1)),
    )
    with opened(ctx) as services:
        consents.grant(services.ledger, record)
    if as_json:
        print_json(record)
        return
    say(f"Consent {record.id} is granted for {_purposes(record)}, {_time(record)}.")
    say(f"Next: `face0 submit --consent {record.id} --face PHOTO --skus LIST.csv`")


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day).astimezone().astimezone(UTC)


def _purposes(record: ConsentRecord) -> str:
    return ", ".join(sorted(record.purposes))


def _time(record: ConsentRecord) -> str:
    return f"valid from {local(record.valid_from)} until {_end(record)}"


def _end(record: ConsentRecord) -> str:
    """Return the end as people say it: the last day, where the time ends at midnight."""
    end = record.valid_until.astimezone()
    if (end.hour, end.minute) == (0, 0):
        return f"the end of {end - timedelta(days=1):%Y-%m-%d}"
    return local(record.valid_until)


@consent.command()
@click.argument("consent_id", metavar="ID", shell_complete=known_consents)
@as_json_option
@click.pass_context
def show(ctx: click.Context, consent_id: str, as_json: bool) -> None:
    """Show one consent, and what it allows at this moment."""
    with opened(ctx) as services:
        record = consents.get(services.ledger, consent_id)
        if record is None:
            raise BadInput("no such consent is known; `face0 consent list` shows them")
        now = _allowed_now(services, record)
    if as_json:
        print_json({"consent": record, "now": now})
        return
    say(f"consent   {record.id}")
    say(f"subject   {record.subject}")
    say(f"state     {_state(record)}")
    say(f"purposes  {_purposes(record)}")
    say(f"time      {_time(record)}")
    for purpose, decision in now.items():
        say(f"now, for {purpose}: {'allowed' if decision.allowed else decision.english}")
        if not decision.allowed:
            say(f"  {decision.japanese}")


def _allowed_now(services: Services, record: ConsentRecord) -> dict[str, Decision]:
    with services.ledger.transaction() as connection:
        return {
            str(purpose): consents.decide_now(connection, record.id, purpose)[1] for purpose in sorted(record.purposes)
        }


def _state(record: ConsentRecord) -> str:
    if record.state is ConsentState.REVOKED and record.revoked_at:
        return f"revoked on {local(record.revoked_at)}"
    return str(record.state)


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
        rows = [(r.id, r.subject, _state(r), _purposes(r), _end(r)) for r in records]
        print_table(("id", "subject", "state", "purposes", "valid until"), rows)


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
    say("Copies that were pulled to other places are yours to delete; `face0 verify` shows them as refused.")
