"""Open a person's sealed face: the consent is decided in the same step, so that no key is used without one."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Connection

from face0_worker.contract.consent import ConsentRecord
from face0_worker.contract.errors import ConsentRefused
from face0_worker.records import audit, consents
from face0_worker.records.ledger import Ledger
from face0_worker.records.vault import Vault, unseal_face


def open_face(
    ledger: Ledger, vault: Vault, consent_id: str, purpose: str, sealed: bytes, *, digest: str, by: str
) -> tuple[bytes, np.ndarray]:
    """Return (photo, embedding float32 (d,)) of a sealed face, if the consent allows `purpose` at this moment.

    The key is used while the consent is locked, so a revocation comes before it, and then it is refused, or after it.
    Each opening leaves an audit event; `by` says who opens: a worker's id, or a command. A ledger that can't be asked
    opens nothing.
    Raises: ConsentRefused: not allowed now. Refused: the key was destroyed. VerificationFailed: changed, or another
    face than `digest`. LedgerDown, StorageDown.
    """
    with ledger.transaction() as connection:
        record, decision = consents.decide_now(connection, consent_id, purpose, share=True)
        if record is not None and decision.allowed:
            opened = unseal_face(vault, consent_id, sealed, digest=digest)
            _note(connection, record, purpose, by)
            return opened
        consents.note_refusal(connection, record, purpose, "key", decision.code)
    raise ConsentRefused(decision.english, decision.code)


def open_kept(
    ledger: Ledger, vault: Vault, consent_id: str, sealed: bytes, *, digest: str, by: str
) -> tuple[bytes, np.ndarray]:
    """Return (photo, embedding float32 (d,)) for a look that is no use of it: comparing, embedding anew.

    As `open_face`, but for every purpose, and before the consent begins too: a photo is enrolled ahead of time.
    Raises: as `open_face`; ConsentRefused: unknown, revoked or ended.
    """
    with ledger.transaction() as connection:
        record, decision = consents.decide_kept(connection, consent_id)
        if record is not None and decision.allowed:
            opened = unseal_face(vault, consent_id, sealed, digest=digest)
            _note(connection, record, "", by)
            return opened
        consents.note_refusal(connection, record, "", "key", decision.code)
    raise ConsentRefused(decision.english, decision.code)


def _note(connection: Connection, record: ConsentRecord, purpose: str, by: str) -> None:
    facts = {"consent_id": record.id, "epoch": record.epoch, "purpose": purpose, "by": by}
    audit.append(connection, "face.opened", facts)
