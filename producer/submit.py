"""A product list and one photo become a job in the ledger: consent first, then the face, then the job."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.contract.job import CatalogueJob, Priority, RenderItem, Subject, item_key
from face0_worker.records import consents
from face0_worker.records.commits import find_commit
from face0_worker.records.jobs import create_job
from face0_worker.records.offers import ModelOffer, find_model
from face0_worker.records.progress import job_status
from face0_worker.records.storage import face_key
from face0_worker.records.vault import face_digest, seal_face
from producer.services import Services


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
    face: Path | bytes,
    items: Sequence[RenderItem],
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

    The consent is required before the photo is opened; a photo given as a path is not even read without it.
    With `dry_run` everything is checked and nothing is written (a refused consent is noted in the audit log).

    Raises: ConsentRefused, FaceRefused; BadInput: the list has no items or the same item twice; ModelMissing: no
    worker ever offered the model, or it was made for another face pack; ServiceDown.
    """
    consents.require(services.ledger, consent_id, Use(purpose), stage="submit")
    offer = find_model(services.ledger, model)
    _require_same_pack(services, offer)

    photo = face if isinstance(face, bytes) else _read_photo(face)
    embedding = services.embedder.embed_photo(photo).embedding
    subject = Subject(
        consent_id=consent_id,
        face_digest=face_digest(embedding),
        model_digest=offer.digest,
        embedder_digest=services.pack.digest,
    )
    _refuse_equal_items(subject, items)
    if dry_run:
        kept = sum(_is_kept(services, item_key(subject, item)) for item in items)
        return SubmitResult("", False, len(items), kept, offer.name)

    services.vault.new_key(consent_id)
    digest, sealed = seal_face(services.vault, consent_id, photo, embedding)
    where = face_key(consent_id, digest)
    services.storage.put(where, sealed)

    job = CatalogueJob(
        id=f"job-{secrets.token_hex(6)}",
        subject=subject,
        purpose=purpose,
        priority=priority,
        items=tuple(items),
        catalogue=catalogue,
        submitter=submitter,
        idempotency_key=idempotency_key,
    )
    job_id, created = create_job(services.ledger, job, where)
    status = job_status(services.ledger, job_id)
    return SubmitResult(job_id, created, status.total, status.kept, offer.name)


def _require_same_pack(services: Services, offer: ModelOffer) -> None:
    wanted = str(offer.facts.get("embedder_digest", ""))
    if wanted and wanted != services.pack.digest:
        raise ModelMissing(
            f"model {offer.name} was made for another face pack (digest {wanted[:12]}) than {services.pack.name} "
            f"(digest {services.pack.digest[:12]}); name the right one with FACE0_PACK"
        )


def _read_photo(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        # the file's name may be the person's: it is not repeated
        raise BadInput(f"the photo can't be read: {error.strerror or type(error).__name__}; see --face") from error


def _refuse_equal_items(subject: Subject, items: Sequence[RenderItem]) -> None:
    """Refuse the list before anything is stored; the ledger checks again in its transaction."""
    if not items:
        raise BadInput("the list has no items; nothing was enqueued")
    seen: dict[str, RenderItem] = {}
    for item in items:
        first = seen.setdefault(item_key(subject, item), item)
        if first is not item:
            raise BadInput(
                f"SKU {item.sku} asks for the same picture as SKU {first.sku} (same prompt, seed and size); "
                "remove one, or give it another seed. Nothing was enqueued"
            )


def _is_kept(services: Services, key: str) -> bool:
    found = find_commit(services.ledger, item_key=key)
    return found is not None and not found.purged
