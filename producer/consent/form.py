"""A consent as somebody writes it down: a TOML or JSON file, or options; what it says becomes a record."""

from __future__ import annotations

import json
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.consent_document import TERMS, plain, read_terms
from face0_worker.contract.consent_terms import AgeBand, Terms
from face0_worker.contract.errors import BadInput

ANY = "any"  # in a form: not restricted
RESTRICTIONS = ("products", "campaigns", "channels", "territories")
NEEDED = ("subject", "purposes", "valid_until")
_OWN = ("id", "subject", "purposes", "training_use", "valid_from", "valid_until")
_KEPT = ("approvals", "faces")  # written by face0 alone
FORM_FIELDS = frozenset(_OWN) | (TERMS - set(_KEPT))


@dataclass(frozen=True)
class Person:
    """Who the person is. Kept in the vault only, and never in the record."""

    name: str = ""
    contact: str = ""
    guardian_name: str = ""
    guardian_contact: str = ""


@dataclass(frozen=True)
class Form:
    """What a form says: fields of the record by name (those that are said), and the person."""

    said: Mapping[str, Any]
    person: Person | None = None

    def named(self, consent_id: str) -> Form:
        """Return the form with this id."""
        return Form({**self.said, "id": consent_id}, self.person)

    def over(self, other: Form) -> Form:
        """Return both forms as one; where both say something, this one counts."""
        return Form({**other.said, **self.said}, self.person or other.person)


def read_form(file: Path) -> Form:
    """Read a form. Raises: BadInput: it can't be read, or a field is unknown or of the wrong kind, named with it."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        data = json.loads(text) if file.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadInput(f"form {file} can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadInput(f"form {file} is neither TOML nor JSON in UTF-8: {_first_line(error)}") from error
    if not isinstance(data, dict):
        raise BadInput(f"form {file}: expected fields and values; docs/consent.md shows one")
    person = data.pop("person", None)
    for name in data:
        if name not in FORM_FIELDS:
            raise BadInput(f"form {file}: a consent has no field {name!r} that can be said; docs/consent.md lists them")
    return Form(data, _person(file, person))


def _person(file: Path, said: object) -> Person | None:
    if said is None:
        return None
    known = {field.name for field in fields(Person)}
    if not isinstance(said, dict) or not set(said) <= known or not all(isinstance(v, str) for v in said.values()):
        raise BadInput(f"form {file}: [person] holds texts named {', '.join(sorted(known))}")
    return Person(**said)


def to_record(form: Form, now: datetime) -> ConsentRecord:
    """Return the new record that a form describes; what it does not say is as in Terms, and it begins `now`.

    Raises: BadInput: a field is missing or of the wrong kind.
    """
    told = {**form.said, "purposes": form.said.get("purposes") or form.said.get("training_use")}
    missing = [name for name in NEEDED if not told.get(name)]
    if missing:
        raise BadInput(f"a consent needs {missing[0]}; {_HOW[missing[0]]}")
    blank = ConsentRecord(f"consent-{secrets.token_hex(6)}", "", frozenset(), now, now)
    return changed(blank, Form({"valid_from": now, **form.said}))


_HOW = {
    "subject": "say --subject, your own number or pseudonym for the person",
    "purposes": f"say --purpose, one or several of {', '.join(Purpose)}",
    "valid_until": "say --until, the last day it is valid",
}


def changed(record: ConsentRecord, form: Form) -> ConsentRecord:
    """Return the record with what the form says; the rest stays. Raises: BadInput: a field is of the wrong kind."""
    said = dict(form.said)
    values: dict[str, Any] = {name: _text(name, said.pop(name)) for name in ("id", "subject") if name in said}
    purposes = record.purposes
    if "purposes" in said:
        training = purposes & {Purpose.TRAINING}
        purposes = _purposes(said.pop("purposes")) | training
    if "training_use" in said:
        may = said.pop("training_use")
        if not isinstance(may, bool):
            raise BadInput("consent, field training_use: true or false is expected")
        purposes = purposes | {Purpose.TRAINING} if may else purposes - {Purpose.TRAINING}
    for name in ("valid_from", "valid_until"):
        if name in said:
            values[name] = moment(name, said.pop(name))
    terms = _terms(record.terms, said)
    if terms.age_band is AgeBand.NOBODY and record.terms.age_band is not AgeBand.NOBODY:
        raise BadInput("consent, field age_band: nobody is for characters, which face0 grants itself; say how old")
    return replace(record, purposes=purposes, terms=terms, **values)


def _terms(terms: Terms, said: dict[str, Any]) -> Terms:
    for name in RESTRICTIONS:
        if name in said and said[name] in (ANY, [ANY], (ANY,)):
            said[name] = None
    kept = {name: value for name, value in plain(terms).items() if name not in said}
    return read_terms({**kept, **said})


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"consent, field {name}: a text is expected")
    return value.strip()


def _purposes(values: object) -> frozenset[Purpose]:
    try:
        if isinstance(values, str) or not isinstance(values, list | tuple | set | frozenset):
            raise ValueError
        return frozenset(Purpose(value) for value in values)
    except (ValueError, TypeError) as error:
        raise BadInput(f"consent, field purposes: a list of {', '.join(Purpose)} is expected") from error


def moment(name: str, value: object) -> datetime:
    """Return a day or a time as UTC. A day is this machine's; of `valid_until` it is the last one.

    Raises: BadInput: neither a day nor a time.
    """
    if isinstance(value, str):
        try:
            value = (
                date.fromisoformat(value) if re.fullmatch(r"\d{4}-\d\d-\d\d", value) else datetime.fromisoformat(value)
            )
        except ValueError as error:
            raise BadInput(f"consent, field {name}: expected a day as in 2027-12-31, or a time") from error
    if not isinstance(value, date):  # which every datetime is
        raise BadInput(f"consent, field {name}: expected a day as in 2027-12-31, or a time")
    try:
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        day = value + timedelta(days=1) if name == "valid_until" else value
        return datetime(day.year, day.month, day.day).astimezone().astimezone(UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise BadInput(f"consent, field {name}: too far away; expected a day as in 2027-12-31") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
