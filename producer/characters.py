"""Make a character: a consent of its own for somebody who does not exist, and the sealed face."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.consent_terms import AgeBand, Terms
from face0_worker.faces.characters import Recipe, character_id, mixture_of
from face0_worker.records import consents
from face0_worker.records.storage import face_key
from face0_worker.records.stored_faces import keep_face
from face0_worker.records.vault import face_digest, seal_face
from producer.services import Services
from producer.sources import Source, embed

# nobody's permission runs out: nobody is there. A character is revoked and erased like anybody else
_FOR_EVER = datetime(2999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Character:
    """A character: its id is the consent to submit under. `made` is False when it was there before."""

    id: str
    made: bool
    face_digest: str
    recipe: Recipe


def new_character(services: Services, recipe: Recipe, purposes: frozenset[Purpose] = frozenset(Purpose)) -> Character:
    """Make the character of a recipe, or find it: the same recipe is the same person, over jobs and months.

    Raises: ModelMissing: the face pack has no mixture to draw from. ConsentRefused: this character was revoked.
    """
    consent_id = character_id(mixture_of(services.pack), recipe)
    source = Source(recipe=recipe)
    embedding = embed(services, source)
    made = consents.get(services.ledger, consent_id) is None
    if made:
        about = f"a person who does not exist (seed {recipe.seed})"
        begin = datetime.now(UTC).replace(second=0, microsecond=0)
        record = ConsentRecord(consent_id, about, purposes, begin, _FOR_EVER, terms=Terms(age_band=AgeBand.NOBODY))
        consents.grant(services.ledger, record, sign=services.signer.sign_statement)
    services.vault.new_key(consent_id)
    digest, sealed = seal_face(services.vault, consent_id, source.to_bytes(), embedding)
    key = face_key(consent_id, face_digest(embedding))
    services.storage.put(key, sealed)
    keep_face(services.ledger, consent_id, digest, key)
    return Character(consent_id, made, digest, recipe)
