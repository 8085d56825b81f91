"""Links to a job's finished pictures, for people and systems that have no credentials of the store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from face0_worker.contract.errors import BadInput, Face0Error
from face0_worker.records import consents
from face0_worker.records.deliveries import Channel
from face0_worker.records.progress import job_status
from face0_worker.records.storage import StorageMissing
from producer.delivery.fetching import Exit, Load, Picture, Request, work_through
from producer.delivery.selection import Wanted, of_job
from producer.services import Services

LONGEST_S = 7 * 24 * 3600  # what S3 signatures allow
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


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


def links(
    services: Services, job_id: str, seconds: int, recipient: str = ""
) -> Iterator[tuple[Wanted, Link | Face0Error]]:
    """Yield a job's finished pictures, each with a link that lives for `seconds`, or with what is wrong with one.

    The consent comes first, and no link outlives it. A link ends earlier when the picture is erased or the credentials
    that signed it end. The distribution register notes each before anybody has it.
    `recipient`: somebody else who gets them; "": they stay in the house.
    Raises: ConsentRefused: the consent does not allow the job's use or the recipient now. BadInput: no such job, or
    the pictures lie in a local folder. ServiceDown.
    """
    job = job_status(services.ledger, job_id)
    consent = consents.require(services.ledger, job.consent_id, replace(job.use, recipient=recipient), stage="links")
    ends = min(datetime.now(UTC) + timedelta(seconds=seconds), consent.valid_until)
    way = Exit("links", Channel.LINK, f"link until {ends.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC", recipient)

    def give(wanted: Wanted, picture: Picture, load: Load) -> Link:
        key = picture.receipt.picture_key
        if not services.storage.exists(key):
            raise StorageMissing("its picture is not in the storage; run `face0 verify` on what you have of it")
        lives = max(1, int((ends - datetime.now(UTC)).total_seconds()))
        return Link(services.storage.link(key, lives), ends)

    yield from work_through(services, Request(of_job(services, job_id), way), give)
