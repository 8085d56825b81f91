"""Erase again what a restored backup has brought back: before any worker starts, from what outlives the ledger.

Four places know an erasure: the ledger, the tombstone and the certificate in storage, and the vault. Each is written
at another moment and none is restored by the others' backup, so an erasure that one of them lacks was undone somewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from face0_worker.contract.errors import BadInput, Face0Error, ServiceDown, VerificationFailed
from face0_worker.records import erasure, revocation, tombstones
from face0_worker.records.erasure import Eraser
from face0_worker.records.ledger import database_clock
from face0_worker.records.revocation import Cause
from face0_worker.records.storage import consent_prefixes
from face0_worker.records.tombstones import CERTIFICATES, TOMBSTONES, Tombstone, certificate_key, read_certificate


def _raise(_: str, error: Face0Error) -> None:
    raise error


def replay(eraser: Eraser, *, thorough: bool = False, failed: Callable[[str, Face0Error], None] = _raise) -> list[str]:
    """Do every erasure again that was undone, as far as it can be done now; return the consents' ids.

    Those that were never finished go on, too. Quick where all is whole: storage and vault are listed once. `thorough`:
    look also for objects that somebody has copied back while all four places know of the erasure; that asks storage
    about each erased person. `failed` is told of an erasure that can't go on although its consent is withdrawn or its
    key is gone, so that nothing of it can be rendered; the others are done all the same.
    Raises: VerificationFailed: a tombstone or certificate was changed, of a person whose key is there. ServiceDown.
    """
    known = {one.consent_id: one for one in erasure.list_all(eraser.ledger)}
    stones = tombstones.listed(eraser.storage, TOMBSTONES)
    certified = tombstones.listed(eraser.storage, CERTIFICATES)
    buried = eraser.vault.erased()
    again, unread = list[str](), list[Face0Error]()
    for consent_id in sorted({*known, *stones, *certified, *buried}):
        found = known.get(consent_id)
        whole = found is not None and found.finished and consent_id in stones & certified & buried
        if whole and not eraser.vault.has_key(consent_id) and not (thorough and _left(eraser, consent_id)):
            continue
        try:
            if found is None:
                _note(eraser, _stone(eraser, consent_id, buried, stones))
            elif found.finished:
                erasure.restart(eraser.ledger, consent_id)
            eraser.run(consent_id)
        except ServiceDown:
            raise
        except Face0Error as error:
            if erasure.get(eraser.ledger, consent_id) is not None or not eraser.vault.has_key(consent_id):
                failed(consent_id, error)
            else:
                unread.append(error)
            continue
        if found is None or found.finished:
            again.append(consent_id)
    if unread:
        raise unread[0]
    return again


def _left(eraser: Eraser, consent_id: str) -> int:
    return sum(eraser.storage.versions(prefix) for prefix in consent_prefixes(consent_id))


def _stone(eraser: Eraser, consent_id: str, buried: set[str], stones: set[str]) -> Tombstone:
    """Return what an erasure was that the ledger does not know; what lies in storage counts only when it is signed."""
    public_key = eraser.signer.public_key
    if consent_id in stones:
        try:
            return tombstones.read_tombstone(eraser.storage, public_key, consent_id)
        except VerificationFailed:
            if consent_id not in buried:
                raise
    if consent_id in buried:
        return Tombstone(consent_id, Cause.REVOKED, 0)
    said = read_certificate(eraser.storage.get(certificate_key(consent_id)), public_key)
    if said["consent_id"] != consent_id:
        raise VerificationFailed(f"the certificate of consent {consent_id} is signed, but for somebody else")
    return Tombstone(consent_id, Cause(said["cause"]), int(said["epoch"]))


def _note(eraser: Eraser, stone: Tombstone) -> None:
    """Tell a ledger that is older than the erasure."""
    ledger, consent_id = eraser.ledger, stone.consent_id
    try:
        revocation.revoke(ledger, consent_id, reason="erased before a restore", cause=stone.cause, epoch=stone.epoch)
    except BadInput:  # older than the consent itself: there is nothing to withdraw, but things to erase
        with ledger.transaction() as connection:
            revocation.note(connection, consent_id, stone.cause, stone.epoch, database_clock(connection))
