"""The options by which `face0 consent grant` and `amend` say what a consent says."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from face0_worker.contract.consent import Purpose
from face0_worker.contract.consent_terms import AgeBand
from face0_worker.contract.depictions import CATEGORIES
from face0_worker.contract.errors import BadInput
from producer.commands.setting import any_path
from producer.consent.form import ANY, Form, read_form

F = TypeVar("F", bound=Callable[..., Any])
_DATE = click.DateTime(formats=["%Y-%m-%d"])
_ONLY = f"Repeat it for several; {ANY}: not restricted (the default)."
_OPTIONS = (
    click.option(
        "--record", "file", type=any_path, help="TOML or JSON file that says any of this; see docs/consent.md."
    ),
    click.option("--subject", help="Your own number or pseudonym for the person; not their name."),
    click.option(
        "--purpose",
        "purposes",
        multiple=True,
        type=click.Choice([str(purpose) for purpose in Purpose]),
        help="What the pictures may be used for; repeat it for several. What is not named is not allowed.",
    ),
    click.option("--until", type=_DATE, help="Last day it is valid, in this machine's time zone."),
    click.option("--from", "start", type=_DATE, help="First day it is valid; default: now."),
    click.option(
        "--age-band",
        type=click.Choice([str(band) for band in AgeBand if band is not AgeBand.NOBODY]),
        help="How old the person is; left out, you say that the person is an adult.",
    ),
    click.option("--guardian", metavar="RELATION:PSEUDONYM", help="Who agreed for a minor, as in mother:guardian-7."),
    click.option("--controller", help="Who decides over the data: your organisation, with its address."),
    click.option(
        "--recipient", "recipients", multiple=True, help="Somebody else who may be handed pictures; repeatable."
    ),
    click.option("--sublicensing/--no-sublicensing", default=None, help="Whether recipients may hand pictures on."),
    click.option("--product", "products", multiple=True, help=f"SKU, or its beginning and *: only these. {_ONLY}"),
    click.option("--campaign", "campaigns", multiple=True, help=f"Only these campaigns. {_ONLY}"),
    click.option("--channel", "channels", multiple=True, help=f"Only these channels (web, store, tv). {_ONLY}"),
    click.option("--territory", "territories", multiple=True, help=f"Only these countries or regions (JP). {_ONLY}"),
    click.option(
        "--prohibit",
        "prohibited",
        multiple=True,
        help=f"Never show the person with this: {', '.join(CATEGORIES)}, or any word. Repeatable.",
    ),
    click.option("--keep-pictures", type=int, metavar="DAYS", help="Days that pictures stay after the end."),
    click.option("--keep-photo", type=int, metavar="DAYS", help="Days that the photo stays after the end."),
    click.option("--keep-embedding", type=int, metavar="DAYS", help="Days that the face's numbers stay after the end."),
    click.option("--method", help="How it was given: signed form, web form, ..."),
    click.option("--device", help="On which device it was given."),
    click.option("--staff", help="Staff number of who received it."),
    click.option("--evidence", type=any_path, help="The signed form or recording; only its sha256 is kept."),
    click.option("--withdrawal", help="How the person can withdraw it, in words for them."),
)


def record_options(command: F) -> F:
    """Give a command all options of a consent; `form_of` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def form_of(said: dict[str, Any]) -> Form:
    """Return what file and options say; an option counts more than the file. Raises: BadInput."""
    file = said.pop("file")
    form = read_form(file) if file else Form({})
    return Form(_fields(said, form)).over(form)


def _fields(said: dict[str, Any], form: Form) -> dict[str, Any]:
    plain = ("subject", "age_band", "controller", "sublicensing", "withdrawal")
    values: dict[str, Any] = {name: said[name] for name in plain if said[name] is not None}
    lists = ("recipients", "products", "campaigns", "channels", "territories", "prohibited")
    values |= {name: list(said[name]) for name in lists if said[name]}
    if said["purposes"]:
        values["purposes"] = [purpose for purpose in said["purposes"] if purpose != Purpose.TRAINING]
        values["training_use"] = Purpose.TRAINING in said["purposes"]
    for name, option in (("valid_from", "start"), ("valid_until", "until")):
        if said[option]:
            values[name] = said[option].date()
    if said["guardian"]:
        relation, _, pseudonym = said["guardian"].partition(":")
        if not relation.strip() or not pseudonym.strip():
            raise BadInput(
                "--guardian is RELATION:PSEUDONYM, as in mother:guardian-7; the name goes into the vault only"
            )
        values["guardian"] = {"relation": relation.strip(), "pseudonym": pseudonym.strip()}
    kept = {what: said[f"keep_{what}"] for what in ("pictures", "photo", "embedding")}
    if any(days is not None for days in kept.values()):
        values["retention"] = {**form.said.get("retention", {}), **{k: v for k, v in kept.items() if v is not None}}
    given = {name: said[name] for name in ("method", "device", "staff") if said[name]}
    if said["evidence"]:
        given["evidence"] = _sha256(said["evidence"])
    if given:
        values["given"] = {**form.said.get("given", {}), **given}
    return values


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"--evidence {file} can't be read: {error.strerror}") from error


def ask(form: Form) -> Form:
    """Ask for what a new consent needs and nobody said; only where somebody sits at a terminal."""
    if not sys.stdin.isatty():
        return form
    values: dict[str, Any] = {}
    if not form.said.get("subject"):
        values["subject"] = click.prompt("Your number or pseudonym for the person", err=True)
    if not form.said.get("purposes") and not form.said.get("training_use"):
        words = click.prompt(f"Purposes, with commas ({', '.join(Purpose)})", err=True)
        values["purposes"] = [word.strip() for word in words.split(",") if word.strip()]
    if not form.said.get("valid_until"):
        asked: datetime = click.prompt("Last day it is valid (YYYY-MM-DD)", type=_DATE, err=True)
        values["valid_until"] = asked.date()
    return Form(values).over(form)
