"""Tombstones and deletion certificates: signed objects that outlive the ledger, so that no backup undoes an erasure.

A tombstone stands from the moment in which the erasure begins, its certificate when it has ended. Both name the
consent by its id, which is a pseudonym: without it a restored ledger could not be told what to erase (adr/0007).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from face0_worker.contract.errors import VerificationFailed
from face0_worker.contract.receipt import STATEMENT_TYPE
from face0_worker.records.provenance import Signer, verify_statement
from face0_worker.records.revocation import Cause
from face0_worker.records.storage import Storage, check_id

TOMBSTONE_TYPE = "https://face0.dev/tombstone/v1"
CERTIFICATE_TYPE = "https://face0.dev/erasure/v1"
TOMBSTONES, CERTIFICATES = "tombstones/", "erasures/"
# said in the certificate itself: whoever reads it has nothing else
REMAINS = (
    "ids, states and times in the ledger and its audit log, without name, photo or embedding",
    "sha256 digests of the erased pictures, to recognise copies",
    "the register of copies that were delivered, see `face0 consent takedown`",
)


@dataclass(frozen=True)
class Tombstone:
    """What must be erased, again and again, wherever a backup brings it back."""

    consent_id: str
    cause: Cause
    epoch: int


def tombstone_key(consent_id: str) -> str:
    """Return where a tombstone stands."""
    return f"{TOMBSTONES}{check_id(consent_id)}.json"


def certificate_key(consent_id: str) -> str:
    """Return where a deletion certificate stands."""
    return f"{CERTIFICATES}{check_id(consent_id)}.json"


def write_tombstone(
    storage: Storage, signer: Signer, consent_id: str, cause: Cause, epoch: int, requested_at: datetime
) -> None:
    """Write the tombstone of an erasure; one of an earlier epoch is replaced."""
    predicate = {"cause": cause, "epoch": epoch, "requested_at": _iso(requested_at)}
    envelope = signer.sign_statement(_statement(TOMBSTONE_TYPE, consent_id, predicate))
    storage.put(tombstone_key(consent_id), envelope, if_absent=False)


def read_tombstone(storage: Storage, public_key: Ed25519PublicKey, consent_id: str) -> Tombstone:
    """Return a tombstone. Raises: VerificationFailed: it is not as it was signed. StorageMissing."""
    statement = verify_statement(storage.get(tombstone_key(consent_id)), public_key, "the tombstone")
    predicate = statement.get("predicate", {})
    if (statement.get("predicateType"), predicate.get("consent_id")) != (TOMBSTONE_TYPE, consent_id):
        raise VerificationFailed(f"the tombstone of consent {consent_id} is signed, but for something else")
    return Tombstone(consent_id, Cause(predicate["cause"]), int(predicate["epoch"]))


def certify(signer: Signer, consent_id: str, cause: Cause, epoch: int, facts: dict[str, Any]) -> bytes:
    """Return the signed deletion certificate. `facts`: requested_at, erased_at (datetimes) and counts."""
    predicate = {
        "cause": cause,
        "epoch": epoch,
        "requested_at": _iso(facts["requested_at"]),
        "erased_at": _iso(facts["erased_at"]),
        "counts": facts["counts"],
        "key": "destroyed",
        "remains": list(REMAINS),
    }
    return signer.sign_statement(_statement(CERTIFICATE_TYPE, consent_id, predicate))


def read_certificate(envelope: bytes, public_key: Ed25519PublicKey) -> dict[str, Any]:
    """Return what a deletion certificate says. Raises: VerificationFailed: it is not as it was signed."""
    statement = verify_statement(envelope, public_key, "the certificate")
    if statement.get("predicateType") != CERTIFICATE_TYPE:
        raise VerificationFailed("this is signed, but it is no deletion certificate")
    return dict(statement["predicate"])


def listed(storage: Storage, prefix: str) -> set[str]:
    """Return the consent ids that have an object under TOMBSTONES or CERTIFICATES."""
    names = (key.removeprefix(prefix) for key in storage.list(prefix))
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def _statement(kind: str, consent_id: str, predicate: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(consent_id.encode()).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": consent_id, "digest": {"sha256": digest}}],
        "predicateType": kind,
        "predicate": {"consent_id": consent_id, **predicate},
    }


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()
