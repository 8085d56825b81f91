"""What a night asks for: whose faces, which items under which keys; nobody's photo is opened without a consent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from face0_worker.contract.bars import Bars
from face0_worker.contract.consent import ALLOWED, ConsentRecord, Use, decide
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.contract.job import RenderItem, Subject, canonical_json, item_key
from face0_worker.models import stated_licences
from face0_worker.records import consents
from face0_worker.records.offers import ModelOffer
from face0_worker.records.release import open_kept
from face0_worker.records.stored_faces import faces_of_pack, newest_face
from producer.bars import bars_for
from producer.consent import enrolment
from producer.lists.twins import count_items
from producer.services import Services
from producer.sources import Source, require_own_face
from producer.submit import require_same_pack


@dataclass(frozen=True)
class Share:
    """One person's part of a catalogue. `open_photo` is called when the consent allows it; None: the stored face."""

    consent_id: str
    items: tuple[RenderItem, ...]
    open_photo: Callable[[], Source] | None = None


@dataclass(frozen=True)
class Wanted:
    """One picture that the lists ask for."""

    sku: str
    variant: str
    consent_id: str
    item_key: str


@dataclass(frozen=True)
class Cast:
    """A person whose consent allows the night: the face that is known or was found now, and where it is stored."""

    share: Share
    subject: Subject
    face_key: str

    def wanted(self) -> Iterator[Wanted]:
        """Yield the person's pictures in the order of the lists."""
        for item in self.share.items:
            yield Wanted(item.sku, item.variant, self.share.consent_id, item_key(self.subject, item))


@dataclass(frozen=True)
class Plan:
    """A whole night. `refused` are sentences about who and what is left out, `refused_items` pictures in all.

    `bars`: what the quality gate asks. `content` is the same exactly when the same is asked for under the same names.
    """

    cast: tuple[Cast, ...]
    wanted: tuple[Wanted, ...]
    bars: Bars
    refused: tuple[str, ...]
    refused_items: int
    content: str


def make_plan(services: Services, shares: Sequence[Share], use: Use, offer: ModelOffer, bars: Path | None) -> Plan:
    """Require every consent (gate "carry-over"), then find out the faces and the keys.

    A face that is found in a photo now is sealed, stored and enrolled, as a submit does.
    Raises: FaceRefused, FaceHeld; BadInput: a list with nothing in it, or the same picture twice; ModelMissing;
    Refused: a licence; ServiceDown.
    """
    licences = dict(offer.facts.get("licences") or {})
    services.require_licences(stated_licences(offer.name, licences, "its worker's offer"))
    require_same_pack(services, offer)
    judged_by = bars_for(offer.facts, bars or services.settings.bars)
    cast: list[Cast] = []
    refused: list[str] = []
    asked_for = 0
    for share in shares:
        asked_for += count_items(share.items)
        try:
            record = consents.require(services.ledger, share.consent_id, use, stage="carry-over")
        except ConsentRefused as refusal:
            refused.append(str(refusal))
            continue
        items = tuple(_permitted(services, share.items, record, use, refused))
        if items:
            cast.append(_cast(services, replace(share, items=items), offer))
    wanted = tuple(one for person in cast for one in person.wanted())
    named = [[one.sku, one.variant, one.consent_id, one.item_key] for one in wanted]
    everybody = sorted(share.consent_id for share in shares)
    whole = [use.purpose, use.campaign, use.channel, use.territory, judged_by.to_json(), named, everybody, refused]
    content = hashlib.sha256(canonical_json(whole)).hexdigest()
    return Plan(tuple(cast), wanted, judged_by, tuple(refused), asked_for - len(wanted), content)


def _permitted(
    services: Services, items: Sequence[RenderItem], record: ConsentRecord, use: Use, refused: list[str]
) -> Iterator[RenderItem]:
    """Yield the items that the consent allows by SKU and prompt; say of the others why not, to the audit log, too."""
    codes: set[str] = set()
    for item in items:
        decision = ALLOWED
        if record.terms.by_item:
            # the time was asked about already, by the ledger's clock
            decision = decide(record, use.of_item(item.sku, item.prompt), record.valid_from)
        if decision.allowed:
            yield item
        else:
            refused.append(f"SKU {item.sku}: {decision.english}")
            codes.add(decision.code)
    for code in sorted(codes):
        with services.ledger.transaction() as connection:
            consents.note_refusal(connection, record, use.purpose, "carry-over", code)


def _cast(services: Services, share: Share, offer: ModelOffer) -> Cast:
    digest, where, policy = _face(services, share)
    subject = Subject(
        consent_id=share.consent_id,
        face_digest=digest,
        model_digest=offer.digest,
        embedder_digest=services.pack.digest,
        face_policy=policy,
    )
    return Cast(share, subject, where)


def _face(services: Services, share: Share) -> tuple[str, str, str]:
    """Return (face digest, storage key, policy): of the same photo as last time without looking for a face in it."""
    consent_id, ledger = share.consent_id, services.ledger
    known = faces_of_pack(ledger, consent_id, services.pack.digest)
    if share.open_photo is None:
        stored = newest_face(ledger, consent_id)
        if stored is None:
            raise BadInput(f"no face is stored under consent {consent_id} yet; give the photo")
        for face in known:
            if face.digest == stored[0]:
                return face.digest, face.face_key, face.policy
        source = _unsealed(services, consent_id, *stored)
    else:
        source = share.open_photo()
        for face in known:
            if _same(source, _unsealed(services, consent_id, face.digest, face.face_key)):
                return face.digest, face.face_key, source.which
    require_own_face(services, consent_id, source)
    found = enrolment.look(services, source)
    where = enrolment.seal(services, consent_id, found)
    enrolment.admit(services, consent_id, found, where, by=enrolment.account())
    return found.digest, where, source.which


def _same(one: Source, other: Source) -> bool:
    """Whether two sources are the same photos; what was measured on them does not count."""
    return (one.photos, one.recipe, one.which) == (other.photos, other.recipe, other.which)


def _unsealed(services: Services, consent_id: str, digest: str, where: str) -> Source:
    return Source.from_bytes(
        open_kept(
            services.ledger, services.vault, consent_id, services.storage.get(where), digest=digest, by="nightly"
        )[0]
    )
