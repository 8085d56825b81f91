"""A product list and one photo become a job in the ledger: consent first, then the face, then the job."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.contract.job import CatalogueJob, Priority, RenderItem, Subject, item_key
from face0_worker.records import consents
from face0_worker.records.jobs import count_kept, create_job
from face0_worker.records.offers import ModelOffer, find_model
from face0_worker.records.progress import job_status
from face0_worker.records.storage import face_key
from face0_worker.records.stored_faces import newest_face
from face0_worker.records.vault import face_digest, seal_face, unseal_face
from producer.services import Services
from producer.sources import Source, embed, photo_files, require_own_face
from producer.twins import count_items


@dataclass(frozen=True)
class SubmitResult:
    """What a submit did. `created` is False when the idempotency key had made this job before.

    `kept` counts items whose picture exists already and is not rendered again. `job_id` is "" after a dry run.
    """

    job_id: str
    created: bool
    items: int
    kept: int
    model: str


def submit(
    services: Services,
    *,
    face: Path | bytes | Source | None,
    items: Iterable[RenderItem],
    consent_id: str,
    purpose: Purpose = Purpose.CATALOGUE,
    priority: Priority = Priority.NORMAL,
    model: str | None = None,
    catalogue: str = "",
    submitter: str = "",
    idempotency_key: str = "",
    dry_run: bool = False,
) -> SubmitResult:
    """Check the consent, take the face from the photo, keep both encrypted and write the job.

    The consent is required before list and photo are opened; a photo given as a path is not even read without it.
    Without a `face` the one that was stored last under this consent is taken: an earlier photo, or a character.
    `items` are read twice, one at a time: to check them all before anything is stored, and to write them (an iterator,
    which can be read only once, is held in memory instead).
    With `dry_run` everything is checked and nothing is written (a refused consent is noted in the audit log).

    Raises: ConsentRefused, FaceRefused; BadInput: the list has no items, the same item twice or SKUs that look equal,
    or what reading it raises; ModelMissing: no worker ever offered the model, or it was made for another face pack;
    ServiceDown.
    """
    consents.require(services.ledger, consent_id, Use(purpose), stage="submit")
    offer = find_model(services.ledger, model)
    _require_same_pack(services, offer)
    if isinstance(items, Iterator):
        items = tuple(items)
    total = count_items(items)

    source = _source(services, consent_id, face)
    require_own_face(services, consent_id, source)
    embedding = embed(services, source)
    subject = Subject(
        consent_id=consent_id,
        face_digest=face_digest(embedding),
        model_digest=offer.digest,
        embedder_digest=services.pack.digest,
        face_policy=source.which,
    )
    if dry_run:
        kept = count_kept(services.ledger, (item_key(subject, item) for item in items))
        return SubmitResult("", False, total, kept, offer.name)

    services.vault.new_key(consent_id)
    digest, sealed = seal_face(services.vault, consent_id, source.to_bytes(), embedding)
    where = face_key(consent_id, digest)
    services.storage.put(where, sealed)

    job = CatalogueJob(
        id=f"job-{secrets.token_hex(6)}",
        subject=subject,
        purpose=purpose,
        priority=priority,
        items=items,
        catalogue=catalogue,
        submitter=submitter,
        idempotency_key=idempotency_key,
    )
    job_id, created = create_job(services.ledger, job, where)
    status = job_status(services.ledger, job_id)
    return SubmitResult(job_id, created, status.total, status.kept, offer.name)


def _source(services: Services, consent_id: str, face: Path | bytes | Source | None) -> Source:
    if isinstance(face, Source):
        return face
    if isinstance(face, Path):
        return photo_files([face])
    if face is not None:
        return Source(((face, 1.0),))
    stored = newest_face(services.ledger, consent_id)
    if stored is None:
        raise BadInput("no face is stored under this consent yet; give the photo with --face")
    digest, key = stored
    photo, _ = unseal_face(services.vault, consent_id, services.storage.get(key), digest=digest)
    # embedded anew: the face pack may have changed since
    return Source.from_bytes(photo)


def _require_same_pack(services: Services, offer: ModelOffer) -> None:
    wanted = str(offer.facts.get("embedder_digest", ""))
    if wanted and wanted != services.pack.digest:
        raise ModelMissing(
            f"model {offer.name} was made for another face pack (digest {wanted[:12]}) than {services.pack.name} "
            f"(digest {services.pack.digest[:12]}); name the right one with FACE0_PACK"
        )
