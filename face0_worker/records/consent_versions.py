"""Every version of a consent, as a document that names the one before it and is signed with the installation's key."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, insert, select

from face0_worker.contract.consent import ConsentRecord, ConsentState
from face0_worker.contract.consent_document import document_hash, from_document, to_document, to_statement
from face0_worker.contract.errors import BadInput, VerificationFailed
from face0_worker.contract.job import canonical_json
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import verify_statement
from face0_worker.records.tables import consent_versions

Sign = Callable[[dict[str, Any]], bytes]  # Signer.sign_statement


@dataclass(frozen=True)
class Version:
    """One version as it was written. `envelope`: DSSE over its in-toto statement, None when nobody signed it."""

    number: int
    document: dict[str, Any]
    hash: str
    envelope: bytes | None
    at: datetime


@dataclass(frozen=True)
class Proof:
    """Whether a consent is what was signed: `signed`, `unsigned` (nobody signed it) or `broken`, and a sentence."""

    state: str
    sentence: str


def write(connection: Connection, record: ConsentRecord, event: Mapping[str, Any], sign: Sign | None) -> None:
    """Write a version in the caller's transaction, signed where there is somebody to sign."""
    document = to_document(record, event)
    values = {
        "consent_id": record.id,
        "version": record.version,
        "document": canonical_json(document).decode(),
        "hash": document_hash(document),
        "envelope": sign(to_statement(document)) if sign else None,
    }
    connection.execute(insert(consent_versions).values(values))


def last_hash(connection: Connection, consent_id: str) -> str:
    """Return the hash of the newest version; "" when none was written: the consent is older than documents are."""
    query = select(consent_versions.c.hash).where(consent_versions.c.consent_id == consent_id)
    return connection.execute(query.order_by(consent_versions.c.version.desc()).limit(1)).scalar() or ""


def history(ledger: Ledger, consent_id: str) -> list[Version]:
    """Return every version of a consent, oldest first."""
    query = select(consent_versions).where(consent_versions.c.consent_id == consent_id)
    with ledger.transaction() as connection:
        rows = connection.execute(query.order_by(consent_versions.c.version)).all()
    return [
        Version(
            row.version,
            json.loads(row.document),
            row.hash,
            None if row.envelope is None else bytes(row.envelope),
            row.at,
        )
        for row in rows
    ]


def prove(record: ConsentRecord, versions: list[Version], public_key: Ed25519PublicKey) -> Proof:
    """Check signatures and chain of all versions, and that the ledger's row says what the newest one says."""
    try:
        unsigned = [version.number for version in versions if not _check(version, public_key)]
        _check_chain(versions)
        _check_row(record, versions)
    except VerificationFailed as error:
        return Proof("broken", str(error))
    if unsigned or not versions:
        which = f"version {unsigned[0]}" if unsigned else "this consent"
        return Proof("unsigned", f"{which} was written without a signature; `face0 consent amend` writes a signed one")
    return Proof("signed", f"{len(versions)} version(s), all signed with this installation's key")


def _check(version: Version, public_key: Ed25519PublicKey) -> bool:
    """Return whether the version is signed. Raises: VerificationFailed: what is signed is something else."""
    what = f"version {version.number} of the consent"
    if document_hash(version.document) != version.hash:
        raise VerificationFailed(f"{what} was changed after it was written")
    if version.envelope is None:
        return False
    statement = verify_statement(version.envelope, public_key, what)
    if canonical_json(statement) != canonical_json(to_statement(version.document)):
        raise VerificationFailed(f"{what} is not the one that was signed")
    return True


def _check_chain(versions: list[Version]) -> None:
    for before, version in zip([None, *versions], versions, strict=False):
        if version.document.get("previous") != (before.hash if before else ""):
            raise VerificationFailed(f"version {version.number} of the consent does not follow the one before it")
        if version.document.get("version") != version.number or (before and version.number != before.number + 1):
            raise VerificationFailed(f"before version {version.number} of the consent one is missing")


def _check_row(record: ConsentRecord, versions: list[Version]) -> None:
    if not versions:
        return
    try:
        written = from_document(versions[-1].document)
    except (KeyError, ValueError, TypeError, BadInput) as error:
        raise VerificationFailed("the newest version of the consent can't be read by this program") from error
    if record.state is ConsentState.REVOKED:
        # a revocation is noted in the row and in the audit log; it can only take away
        record = replace(record, state=written.state, epoch=written.epoch, revoked_at=None, subject=written.subject)
    if record != written:
        raise VerificationFailed("the ledger's row says something else than the newest signed version")
