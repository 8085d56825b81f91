"""The pilot itself: every person with every product through submit, render, pull and verify; repeated, it goes on."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image
from sqlalchemy import func, select

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import ConsentRefused, FaceHeld, FaceRefused
from face0_worker.contract.job import ItemState, Priority, RenderItem, canonical_json
from face0_worker.faces.characters import Recipe
from face0_worker.records import consents
from face0_worker.records.commits import pending_receipts
from face0_worker.records.offers import ModelOffer, live_workers
from face0_worker.records.progress import JobStatus, job_items
from face0_worker.records.release import open_kept
from face0_worker.records.stored_faces import newest_face
from face0_worker.records.tables import commits
from producer.characters import new_character
from producer.check import check_files
from producer.delivery.fetching import Picture
from producer.people import Person
from producer.results import pull
from producer.services import Services
from producer.sources import photo_files
from producer.submit import submit

_PUBLISH_S = 15.0


@dataclass(frozen=True)
class Order:
    """What a pilot is asked for: people by pseudonym, the products, what the pictures are for, and the model."""

    people: Mapping[str, Person]
    items: Sequence[RenderItem]
    purpose: Purpose
    offer: ModelOffer
    out: Path


@dataclass(frozen=True)
class Shot:
    """One finished picture of the pilot. `file`: its place under the pilot's folder.

    `nearest`: the pilot's person whose photo it is most like by the face pack; None: it found no face in it.
    """

    person: str
    file: Path
    picture: Picture
    nearest: str | None


@dataclass(frozen=True)
class Ran:
    """What a pilot did. `refused`: why people or items have no picture, in words, and how often.

    `seconds` is from the first person's submission to the last picture's commit, `workers` those that lived then.
    """

    order: Order
    jobs: Mapping[str, JobStatus]
    shots: tuple[Shot, ...]
    refused: Counter[str]
    verified: int
    seconds: float
    workers: int
    began: datetime | None


def characters(services: Services, count: int) -> dict[str, Person]:
    """Return so many people who do not exist, made or found again: seeds 1, 2, 3 ..."""
    made = {f"character {seed}": new_character(services, Recipe(seed=seed)) for seed in range(1, count + 1)}
    return {name: Person(one.id) for name, one in made.items()}


def run_pilot(services: Services, order: Order, watch: Callable[[str, str], JobStatus]) -> Ran:
    """Take everybody through the whole flow; `watch(person, job id)` returns when the job has ended.

    A refused person is counted and the others go on. The jobs carry idempotency keys: a pilot that was cut short goes
    on with those that it has. Raises: as `submit`, but for refusals; ServiceDown.
    """
    refused: Counter[str] = Counter()
    begun = time.monotonic()
    submitted = {name: _submit(services, order, name, refused) for name in order.people}
    jobs = {name: watch(name, job_id) for name, job_id in submitted.items() if job_id}
    seconds = time.monotonic() - begun
    for status in jobs.values():
        refused.update(_without_picture(services, status))
    _wait_for_receipts(services)
    shots, verified = _bring(services, order, jobs)
    first, last = _span(services, [status.id for status in jobs.values()])
    workers = live_workers(services.ledger).get(order.offer.digest, 0)
    # a pilot that goes on was not watched from its beginning: the ledger knows when its pictures were made
    spent = (last - first).total_seconds() if first and last else 0.0
    return Ran(order, jobs, shots, refused, verified, max(seconds, spent), max(workers, 1), first)


def _submit(services: Services, order: Order, name: str, refused: Counter[str]) -> str:
    person = order.people[name]
    content = canonical_json([person.consent_id, order.offer.digest, [item.to_json() for item in order.items]])
    try:
        made = submit(
            services,
            face=photo_files([person.photo], which=person.which) if person.photo else None,
            items=order.items,
            consent_id=person.consent_id,
            purpose=order.purpose,
            priority=Priority.NORMAL,
            model=order.offer.digest,
            submitter="pilot",
            idempotency_key=f"pilot-{hashlib.sha256(content).hexdigest()}",
        )
    except (ConsentRefused, FaceHeld, FaceRefused) as refusal:
        refused[f"person refused: {refusal}"] += len(order.items)
        return ""
    return made.job_id


def _without_picture(services: Services, status: JobStatus) -> list[str]:
    states = {ItemState.FAILED, ItemState.REJECTED, ItemState.CANCELLED, ItemState.PURGED}
    rows = job_items(services.ledger, status.id, states)
    return [f"{row.state}: {row.error or row.error_code or 'its consent was revoked'}" for row in rows]


def _wait_for_receipts(services: Services) -> None:
    deadline = time.monotonic() + _PUBLISH_S
    while pending_receipts(services.ledger, 1) and time.monotonic() < deadline:
        time.sleep(0.1)


def _bring(services: Services, order: Order, jobs: Mapping[str, JobStatus]) -> tuple[tuple[Shot, ...], int]:
    faces = _faces(services, order, jobs)
    shots: list[Shot] = []
    verified = 0
    for number, (name, status) in enumerate(jobs.items(), start=1):
        if not status.counts[ItemState.DONE]:
            continue
        pulled = pull(services, status.id, order.out / "pictures" / f"person-{number:02d}")
        verified += sum(one.ok for one in check_files(services, [path for _, path in pulled.files]))
        for picture, path in pulled.files:
            shots.append(Shot(name, path, picture, _nearest(services, path, faces)))
    return tuple(shots), verified


def _faces(services: Services, order: Order, jobs: Mapping[str, JobStatus]) -> dict[str, np.ndarray]:
    """Open the people's embeddings, each under its consent: the pilot asks whom a picture is most like."""
    found = {}
    for name in jobs:
        consent_id = order.people[name].consent_id
        consents.require(services.ledger, consent_id, Use(order.purpose), stage="pilot")
        stored = newest_face(services.ledger, consent_id)
        if stored is not None:
            digest, key = stored
            _, face = open_kept(
                services.ledger, services.vault, consent_id, services.storage.get(key), digest=digest, by="pilot"
            )
            found[name] = services.embedder.normalise(face)
    return found


def _nearest(services: Services, file: Path, faces: Mapping[str, np.ndarray]) -> str | None:
    with Image.open(file) as image:
        seen = services.embedder.find(image.convert("RGB"))
    if not seen or not faces:
        return None
    face = services.embedder.normalise(seen[0].embedding)
    return max(faces, key=lambda name: float(face @ faces[name] / np.linalg.norm(faces[name])))


def _span(services: Services, job_ids: Sequence[str]) -> tuple[datetime | None, datetime | None]:
    query = select(func.min(commits.c.committed_at), func.max(commits.c.committed_at))
    with services.ledger.transaction() as connection:
        first, last = connection.execute(query.where(commits.c.job_id.in_(job_ids))).one()
    return first, last
