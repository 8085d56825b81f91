"""Who a consent's person is: name and contact, sealed under the consent's own key, read with a note for the audit."""

from __future__ import annotations

import json
from dataclasses import asdict

from face0_worker.contract.errors import BadInput, VerificationFailed
from face0_worker.contract.job import canonical_json
from face0_worker.records import consents, enrolment
from face0_worker.records.storage import StorageMissing, check_id
from producer.consent.form import Person
from producer.services import Services

_ABOUT = "person"


def person_key(consent_id: str) -> str:
    """Return where the sealed name and contact lie: under the consent's faces, and erased with them."""
    return f"faces/{check_id(consent_id)}/person.enc"


def keep_person(services: Services, consent_id: str, person: Person, *, by: str) -> None:
    """Seal name and contact; what was there is replaced. Raises: BadInput: no such consent. Refused: key destroyed."""
    if consents.get(services.ledger, consent_id) is None:
        raise BadInput("no such consent is known; `face0 consent list` shows them")
    services.vault.new_key(consent_id)
    sealed = services.vault.seal(consent_id, canonical_json(asdict(person)), about=_ABOUT)
    services.storage.put(person_key(consent_id), sealed, if_absent=False)
    enrolment.note_access(services.ledger, "contact.written", consent_id, by)


def read_person(services: Services, consent_id: str, *, by: str) -> Person:
    """Return name and contact, noted for the audit before they are opened.

    Raises: BadInput: none are kept. Refused: the key is destroyed. VerificationFailed: what is kept was changed.
    """
    try:
        sealed = services.storage.get(person_key(consent_id))
    except StorageMissing as error:
        raise BadInput(
            f"no name or contact is kept for consent {consent_id}; `face0 consent contact ID --record FILE` keeps them"
        ) from error
    enrolment.note_access(services.ledger, "contact.read", consent_id, by)
    data = services.vault.unseal(consent_id, sealed, about=_ABOUT)
    try:
        return Person(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise VerificationFailed(f"what is kept of the person of consent {consent_id} can't be read") from error
