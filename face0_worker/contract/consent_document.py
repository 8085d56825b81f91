"""A consent as a document: the form that is signed and kept, and whether one version takes rights away from another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from face0_worker.contract.consent import APPROVERS, ConsentRecord, ConsentState, Purpose, includes, needs_approval
from face0_worker.contract.consent_terms import Terms
from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import canonical_json

PREDICATE_TYPE = "https://face0.dev/consent/v1"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
TERMS = frozenset(field.name for field in fields(Terms))
# what a restriction may change besides purposes and time: all that `narrows` can judge
_RESTRICTIONS = ("products", "campaigns", "channels", "territories", "prohibited", "recipients", "sublicensing")


def to_document(record: ConsentRecord, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return one version as plain JSON values; `event` says what made it: kind, at, by. Holds no name or contact."""
    return {
        "id": record.id,
        "version": record.version,
        "previous": record.previous,
        "subject": record.subject,
        "purposes": sorted(record.purposes - {Purpose.TRAINING}),
        "training_use": record.training_use,
        "valid_from": plain(record.valid_from),
        "valid_until": plain(record.valid_until),
        "state": str(record.state),
        "epoch": record.epoch,
        "event": plain(dict(event)),
        **plain(record.terms),
    }


def from_document(document: Mapping[str, Any]) -> ConsentRecord:
    """Return the record that `to_document` wrote. Raises: KeyError, ValueError, BadInput: another form."""
    training = frozenset({Purpose.TRAINING}) if document["training_use"] else frozenset()
    return ConsentRecord(
        id=document["id"],
        subject=document["subject"],
        purposes=frozenset(Purpose(purpose) for purpose in document["purposes"]) | training,
        valid_from=datetime.fromisoformat(document["valid_from"]),
        valid_until=datetime.fromisoformat(document["valid_until"]),
        state=ConsentState(document["state"]),
        epoch=document["epoch"],
        version=document["version"],
        previous=document["previous"],
        terms=read_terms({name: value for name, value in document.items() if name in TERMS}),
    )


def document_hash(document: Mapping[str, Any]) -> str:
    """Return the sha256 hex of a version: what the next one names as `previous`."""
    return hashlib.sha256(canonical_json(document)).hexdigest()


def to_statement(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the in-toto Statement v1 about a version, as it is signed."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": document["id"], "digest": {"sha256": document_hash(document)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": dict(document),
    }


@cache
def _adapter() -> TypeAdapter[Terms]:
    return TypeAdapter(Terms)


def read_terms(data: Mapping[str, Any]) -> Terms:
    """Return the terms that plain values hold. Raises: BadInput: the message names the field and what is wrong."""
    unknown = sorted(set(data) - TERMS)
    if unknown:
        raise BadInput(f"a consent has no field {unknown[0]!r}; docs/consent.md lists them")
    try:
        terms = _adapter().validate_python(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"consent, field {where}: {first['msg']}; docs/consent.md says what stands there") from error
    for name, value in data.items():
        if isinstance(value, Mapping):
            inner = {field.name for field in fields(getattr(terms, name))}
            for stranger in sorted(set(value) - inner):
                raise BadInput(f"a consent has no field {name}.{stranger}; docs/consent.md lists them")
    return terms


def plain(value: Any) -> Any:
    """Return a value as plain JSON values: sets sorted, times in ISO 8601 UTC."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, frozenset):
        return sorted(plain(part) for part in value)
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value) if isinstance(value, str) else value


def narrows(old: ConsentRecord, new: ConsentRecord) -> bool:
    """Whether `new` may refuse a use that `old` allows. Pure; where it can't be told, the answer is yes."""
    before, after = old.terms, new.terms
    sets = ("campaigns", "products", "channels", "territories")
    lost_recipients = not after.sublicensing and (
        before.sublicensing or not all(includes(after.recipients, one) for one in before.recipients)
    )
    return (
        new.state is not ConsentState.GRANTED
        or new.valid_from > old.valid_from
        or new.valid_until < old.valid_until
        or not old.purposes <= new.purposes
        or any(_lost(getattr(before, name), getattr(after, name)) for name in sets)
        or not after.prohibited <= before.prohibited
        or lost_recipients
        or before.age_band != after.age_band
        or len(after.approvers) < min(APPROVERS, len(before.approvers))
    )


def _lost(before: frozenset[str] | None, after: frozenset[str] | None) -> bool:
    if after is None:
        return False
    return before is None or not all(includes(after, name) for name in before)


def succeed(old: ConsentRecord, new: ConsentRecord, previous: str) -> ConsentRecord:
    """Return `new` as the version after `old`: numbered, chained, its epoch raised where rights are taken away.

    Approvals are of what was approved: unless nothing but rights were taken away, they have to be given anew.
    """
    if _rest(old) != _rest(new) or narrows(replace(new, terms=replace(new.terms, approvals=())), old):
        new = replace(new, terms=replace(new.terms, approvals=()))
    epoch = old.epoch + 1 if narrows(old, new) else old.epoch
    return replace(new, version=old.version + 1, previous=previous, epoch=epoch)


def _rest(record: ConsentRecord) -> tuple[str, Terms]:
    """Return what a restriction leaves as it is: whose the consent is, who decides, what was told, what is kept."""
    open_ones = {name: getattr(Terms(), name) for name in _RESTRICTIONS}
    return record.subject, replace(record.terms, approvals=(), faces=(), **open_ones)


def purposes_alone(record: ConsentRecord) -> frozenset[Purpose]:
    """Return the purposes that a program may allow that knows purposes and time only, as old ones do."""
    terms = record.terms
    restricted = terms.by_item or any(
        names is not None for names in (terms.campaigns, terms.channels, terms.territories)
    )
    unapproved = len(terms.approvers) < APPROVERS
    return frozenset(
        purpose
        for purpose in record.purposes
        if not (unapproved and needs_approval(record, purpose)) and (purpose is Purpose.TRAINING or not restricted)
    )
