"""A product list and one photo become a job in the ledger: consent first, then the face, then the job."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from face0_worker.contract.consent import ConsentRecord, Purpose, Use, decide
from face0_worker.contract.errors import BadInput, ConsentRefused, ModelMissing
from face0_worker.contract.job import CatalogueJob, Priority, RenderItem, Subject, item_key
from face0_worker.models import stated_licences
from face0_worker.records import consents
from face0_worker.records.jobs import create_job, left_to_render
from face0_worker.records.ledger import Ledger
from face0_worker.records.offers import ModelOffer, find_model
from face0_worker.records.progress import job_status
from face0_worker.records.release import open_kept
from face0_worker.records.stored_faces import newest_face
from producer.bars import bars_for
from producer.consent import enrolment
from producer.forecast import Forecast, forecast
from producer.lists.twins import count_items
from producer.services import Services
from producer.sources import Source, photo_files, require_own_face


@dataclass(frozen=True)
class SubmitResult:
    """What a submit did. `created` is False when the idempotency key had made this job before.

    `kept` counts items whose picture exists already and is not rendered again. `job_id` is "" after a dry run, which
    also says what rendering the rest takes.
    """

    job_id: str
    created: bool
    items: int
    kept: int
    model: str
    takes: Forecast | None = None


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
    campaign: str = "",
    channel: str = "",
    territory: str = "",
    bars: Path | None = None,
) -> SubmitResult:
    """Check the consent, take the face from the photo, keep both encrypted and write the job.

    The consent is required before list and photo are opened; a photo given as a path is not even read without it.
    Without a `face` the one that was stored last under this consent is taken: an earlier photo, or a character.
    `items` are read twice, one at a time: to check them all before anything is stored, and to write them (an iterator,
    which can be read only once, is held in memory instead).
    `bars`: a file of the quality gate's bars; default: the setting's, else the model's own (docs/quality.md).
    The first photo enrols the person; a later one that shows somebody else is held for a human (consent/enrolment.py).
    With `dry_run` everything is checked and nothing is written (a refused consent is noted in the audit log).

    Raises: ConsentRefused, FaceRefused, FaceHeld; BadInput: the list has no items, the same item twice or SKUs that
    look equal, or what reading it raises; ModelMissing: no worker ever offered the model, or it was made for another
    face pack; ServiceDown.
    """
    use = Use(purpose, campaign, channel, territory)
    record = consents.require(services.ledger, consent_id, use, stage="submit")
    offer = find_model(services.ledger, model)
    licences = dict(offer.facts.get("licences") or {})
    services.require_licences(stated_licences(offer.name, licences, "its worker's offer"))
    require_same_pack(services, offer)
    judged_by = bars_for(offer.facts, bars or services.settings.bars)
    if isinstance(items, Iterator):
        items = tuple(items)
    if record.terms.by_item:
        items = Permitted(services.ledger, items, record, use)
    total = count_items(items)

    source = _source(services, consent_id, face)
    require_own_face(services, consent_id, source)
    face_found = enrolment.look(services, source)
    subject = Subject(
        consent_id=consent_id,
        face_digest=face_found.digest,
        model_digest=offer.digest,
        embedder_digest=services.pack.digest,
        face_policy=source.which,
    )
    if dry_run:
        enrolment.refuse_other(services, consent_id, face_found)
        left = left_to_render(services.ledger, ((item_key(subject, item), item) for item in items))
        takes = forecast(services, offer.digest, left)
        return SubmitResult("", False, total, total - takes.pictures, offer.name, takes)

    where = enrolment.seal(services, consent_id, face_found)
    enrolment.admit(services, consent_id, face_found, where, by=submitter)

    job = CatalogueJob(
        id=f"job-{secrets.token_hex(6)}",
        subject=subject,
        purpose=purpose,
        priority=priority,
        items=items,
        catalogue=catalogue,
        submitter=submitter,
        idempotency_key=idempotency_key,
        campaign=campaign,
        channel=channel,
        territory=territory,
        bars=judged_by,
    )
    job_id, created = create_job(services.ledger, job, where)
    status = job_status(services.ledger, job_id)
    return SubmitResult(job_id, created, status.total, status.kept, offer.name)


class Permitted:
    """A list whose items a consent has to allow one by one, by SKU and prompt; it is asked whenever they are read."""

    def __init__(self, ledger: Ledger, items: Iterable[RenderItem], record: ConsentRecord, use: Use) -> None:
        self._ledger, self._items, self._record, self._use = ledger, items, record, use

    def __iter__(self) -> Iterator[RenderItem]:
        """Yield the items. Raises: ConsentRefused: at the first that is not allowed, by its SKU; audited."""
        now = self._record.valid_from  # the time was asked about already, by the ledger's clock
        for item in self._items:
            decision = decide(self._record, self._use.of_item(item.sku, item.prompt), now)
            if not decision.allowed:
                with self._ledger.transaction() as connection:
                    consents.note_refusal(connection, self._record, self._use.purpose, "submit", decision.code)
                raise ConsentRefused(f"SKU {item.sku}: {decision.english}", decision.code)
            yield item


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
    photo, _ = open_kept(
        services.ledger, services.vault, consent_id, services.storage.get(key), digest=digest, by="submit"
    )
    # embedded anew: the face pack may have changed since
    return Source.from_bytes(photo)


def require_same_pack(services: Services, offer: ModelOffer) -> None:
    """Check that the model was made for the face pack that is installed. Raises: ModelMissing."""
    wanted = str(offer.facts.get("embedder_digest", ""))
    if wanted and wanted != services.pack.digest:
        raise ModelMissing(
            f"model {offer.name} was made for another face pack (digest {wanted[:12]}) than {services.pack.name} "
            f"(digest {services.pack.digest[:12]}); name the right one with FACE0_PACK"
        )
