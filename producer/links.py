"""Links to a job's finished pictures, for people and systems that have no credentials of the store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import BadInput, Face0Error
from face0_worker.contract.job import ItemState
from face0_worker.records import consents
from face0_worker.records.progress import ItemRow, job_items, job_status
from face0_worker.records.storage import StorageMissing
from producer.services import Services

LONGEST_S = 7 * 24 * 3600  # what S3 signatures allow
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_CONSENT_AGAIN = 50  # links; a withdrawal in the middle of a long list stops the rest


@dataclass(frozen=True)
class Link:
    """A URL by which anybody may fetch one picture until `expires_at`."""

    url: str
    expires_at: datetime


def link_seconds(text: str) -> int:
    """Return how long links live, from text like 7d, 12h, 30m or 90s. Raises: BadInput."""
    match = re.fullmatch(r"(\d{1,6})([dhms])", text.strip().lower(), re.ASCII)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= LONGEST_S:
        raise BadInput(f"--expires {text}: expected 7d, 12h, 30m or 90s, more than nothing and at most 7d")
    return seconds


def links(services: Services, job_id: str, seconds: int) -> Iterator[tuple[ItemRow, Link | Face0Error]]:
    """Yield a job's done items, each with a link that lives for `seconds`, or with what is wrong; consent comes first.

    No link outlives the consent. It ends earlier when the picture is erased or the credentials that signed it end.
    Raises: ConsentRefused: the consent does not allow the job's purpose now. BadInput: no such job, or the pictures
    lie in a local folder. ServiceDown.
    """
    job = job_status(services.ledger, job_id)
    use = Use(Purpose(job.purpose))
    consent = consents.require(services.ledger, job.consent_id, use, stage="links")
    for number, row in enumerate(list(job_items(services.ledger, job_id, {ItemState.DONE}))):
        if number and number % _CONSENT_AGAIN == 0:
            consent = consents.require(services.ledger, job.consent_id, use, stage="links")
        if row.picture_key is None or not services.storage.exists(row.picture_key):
            yield row, StorageMissing("its picture is not in the storage; run `face0 verify` on what you have of it")
            continue
        now = datetime.now(UTC)
        lives = max(1, min(seconds, int((consent.valid_until - now).total_seconds())))
        yield row, Link(services.storage.link(row.picture_key, lives), now + timedelta(seconds=lives))
