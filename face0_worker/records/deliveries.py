"""The distribution register: where copies of pictures went, so that a withdrawal can name each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.errors import BadInput
from face0_worker.records import audit
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import deliveries

LONGEST_DESTINATION = 1000  # characters


class Channel(StrEnum):
    """By which way a copy left the store."""

    PULL = "pull"
    EXPORT = "export"
    LINK = "link"
    PUBLICATION = "publication"
    ZIP = "zip"
    WEBHOOK = "webhook"


@dataclass(frozen=True)
class Delivery:
    """One copy of one picture, and where it went: a folder, an S3 prefix or until when a link lives."""

    consent_id: str
    job_id: str
    item_key: str
    picture_sha256: str
    channel: str
    destination: str
    at: datetime


def note(
    connection: Connection,
    *,
    consent_id: str,
    job_id: str,
    item_key: str,
    picture_sha256: str,
    channel: str,
    destination: str,
) -> bool:
    """Note a copy in the caller's transaction, with its audit event; return False where that very copy is known.

    Note first and copy then: what dies in between leaves a line too many in a takedown list, never one too few.
    `destination` must say nothing of the person (promise P7): a folder, an S3 prefix, "link until TIME".
    Raises: BadInput: an unknown channel, or a destination that is empty, too long or holds a control character.
    """
    if channel not in set(Channel):
        raise BadInput(f"channel {channel!r} is not known; choose from {', '.join(Channel)}")
    if not destination.strip() or len(destination) > LONGEST_DESTINATION or not destination.isprintable():
        raise BadInput(f"a delivery's destination is one line of 1 to {LONGEST_DESTINATION} characters")
    row = {
        "consent_id": consent_id,
        "job_id": job_id,
        "item_key": item_key,
        "picture_sha256": picture_sha256,
        "channel": str(channel),
        "destination": destination,
    }
    new = connection.execute(
        upsert(deliveries).values(row).on_conflict_do_nothing().returning(deliveries.c.id)
    ).scalar_one_or_none()
    if new is not None:
        # the audit log is exported and kept for long; the place itself stands in the register only
        facts = {name: value for name, value in row.items() if name != "destination"}
        audit.append(connection, "picture.delivered", facts)
    return new is not None


def takedown(ledger: Ledger, consent_id: str) -> Iterator[Delivery]:
    """Yield every copy that was made of this person's pictures, in the order in which they were made."""
    columns = [deliveries.c[field.name] for field in fields(Delivery)]
    query = select(*columns).where(deliveries.c.consent_id == consent_id).order_by(deliveries.c.id)
    with ledger.transaction() as connection:
        for row in connection.execution_options(yield_per=1000).execute(query):
            yield Delivery(**row._mapping)
