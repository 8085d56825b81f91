"""Publishing a catalogue: its pointer switches to a complete manifest, never with pictures whose consent has ended.

A manifest is written whole under names of its own content before the pointer is put in one atomic write, so that who
reads the pointer at any moment finds a complete one (docs/nightly.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.consent import Use
from face0_worker.contract.errors import BadInput, ConsentRefused, Face0Error, VerificationFailed
from face0_worker.contract.receipt import STATEMENT_TYPE
from face0_worker.records import audit, consents, webhooks
from face0_worker.records.catalogue_pointer import (
    MANIFEST_TYPE,
    Entry,
    Named,
    Pointer,
    manifest_parts,
    read_entries,
    read_pointer,
)
from face0_worker.records.ledger import Ledger, database_clock
from face0_worker.records.manifest import write_shards
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage, catalogue_prefix, catalogues_prefix, check_id, pointer_key
from face0_worker.records.tables import catalogues


@dataclass(frozen=True)
class Draft:
    """What shall be published. `content`: the digest of what was asked for, "" when something of it is missing."""

    catalogue: str
    run_id: str
    use: Use
    entries: tuple[Entry, ...]
    content: str = ""

    def without(self, refused: frozenset[str]) -> Draft:
        """Return the draft without the pictures of these consents."""
        left = tuple(entry for entry in self.entries if entry.consent_id not in refused)
        return self if len(left) == len(self.entries) else replace(self, entries=left, content="")


class _Overtaken(Face0Error):
    """The catalogue was published by somebody else in between."""


def publish(ledger: Ledger, storage: Storage, signer: Signer, draft: Draft) -> Pointer:
    """Write the draft's manifest and switch the catalogue's pointer to it; return the new pointer. Repeatable.

    Each consent is required again (gate "publication"), under a lock that a revocation waits for: pictures of a refused
    one are left out.
    Raises: VerificationFailed: the present pointer was changed. ServiceDown: the pointer is whole, and names the new
    manifest or the one before.
    """
    return _publish(ledger, storage, signer, draft, None)


def supersede(ledger: Ledger, storage: Storage, signer: Signer, consent_id: str) -> tuple[str, ...]:
    """Publish every catalogue that names pictures of this consent anew without them; return the catalogues' names.

    Their manifests of before that name such pictures are erased. To be called after the consent was revoked, outside
    its transaction, also again: what names it no more is left alone.
    Raises: VerificationFailed: a catalogue's pointer or its manifest was changed. ServiceDown.
    """
    with ledger.transaction() as connection:
        names = list(connection.execute(select(catalogues.c.name).order_by(catalogues.c.name)).scalars())
    changed = []
    for name in names:
        if leave_out(ledger, storage, signer, name, {consent_id}):
            changed.append(name)
        _erase_manifests(storage, signer.public_key, name, consent_id)
    return tuple(changed)


def leave_out(ledger: Ledger, storage: Storage, signer: Signer, name: str, gone: Iterable[str] = ()) -> bool:
    """Publish a catalogue anew without pictures of `gone` and of consents that don't hold now; say if there were any.

    Then no manifest of before is named any more: there is no way back to those pictures. Raises: as `publish`.
    """
    while (pointer := read_pointer(storage, signer.public_key, name)) is not None:
        refused = frozenset(gone) | _refused(ledger, pointer.consents, pointer.use)
        behind = pointer.previous is not None and _names_any(storage, signer.public_key, pointer.previous, gone)
        if not behind and not refused & set(pointer.consents):
            return False
        entries = tuple(read_entries(storage, signer.public_key, pointer.manifest))
        draft = Draft(name, pointer.run_id, pointer.use, entries).without(refused)
        try:
            _publish(ledger, storage, signer, draft, pointer, previous=None)
        except _Overtaken:
            continue
        return True
    return False


def _names_any(storage: Storage, public_key: Ed25519PublicKey, manifest: Named, gone: Iterable[str]) -> bool:
    """Whether a manifest names pictures of these consents; one that can't be read counts as if it did."""
    theirs = frozenset(gone)
    try:
        return any(entry.consent_id in theirs for entry in read_entries(storage, public_key, manifest))
    except VerificationFailed:
        return True


def _erase_manifests(storage: Storage, public_key: Ed25519PublicKey, name: str, consent_id: str) -> None:
    """Erase the manifests that name pictures of a consent and are not the one that is shown."""
    pointer = read_pointer(storage, public_key, name)
    shown = pointer.manifest.key if pointer else ""
    roots = [key for key in storage.list(catalogues_prefix(name)) if "/root-" in key and key != shown]
    going: list[str] = []
    staying = [shown] if shown else []
    for key in roots:
        manifest = Named(key, hashlib.sha256(storage.get(key)).hexdigest())
        (going if _names_any(storage, public_key, manifest, {consent_id}) else staying).append(key)
    needed = {part for key in staying for part in manifest_parts(storage, key)}
    for key in going:
        for part in set(manifest_parts(storage, key)) - needed:
            storage.delete(part)
        storage.delete(key)  # last: until then a repeated call finds it


def rollback(ledger: Ledger, storage: Storage, signer: Signer, name: str) -> Pointer:
    """Let the catalogue show again what it showed before the last switch, where the consents still hold.

    What it shows now becomes the one before, so that a second rollback undoes the first.
    Raises: BadInput: there is no manifest before, or somebody publishes now. ConsentRefused: none of its pictures may
    be shown any more. And as `publish`.
    """
    pointer = read_pointer(storage, signer.public_key, name)
    if pointer is None or pointer.previous is None:
        raise BadInput(
            f"catalogue {name} has no manifest before the present one; `face0 nightly history` lists its runs"
        )
    entries = tuple(read_entries(storage, signer.public_key, pointer.previous))
    run_id = pointer.previous.key.split("/")[2]
    draft = Draft(name, run_id, pointer.use, entries)
    draft = draft.without(_refused(ledger, {entry.consent_id for entry in entries}, pointer.use))
    if entries and not draft.entries:
        raise ConsentRefused(f"no picture of the manifest before may be shown any more; {name} is as it was", "refused")
    try:
        return _publish(ledger, storage, signer, draft, pointer, previous=pointer.manifest)
    except _Overtaken as error:
        raise BadInput(f"catalogue {name} was published in this moment; look at it, and try again") from error


def _publish(
    ledger: Ledger,
    storage: Storage,
    signer: Signer,
    draft: Draft,
    instead_of: Pointer | None,
    *,
    previous: Named | None = None,
) -> Pointer:
    """Publish; `instead_of`: the only pointer that may be replaced, and `previous` what its successor names then."""
    check_id(draft.catalogue)
    refused = _refused(ledger, {entry.consent_id for entry in draft.entries}, draft.use)
    while True:
        draft = draft.without(refused)
        manifest = _write(storage, signer, draft)
        with ledger.transaction() as connection:
            serial = _lock(connection, draft.catalogue)
            refused = _refused_now(connection, {entry.consent_id for entry in draft.entries}, draft.use, share=True)
            if refused:
                continue  # it ended in between: again without it
            now = read_pointer(storage, signer.public_key, draft.catalogue)
            if instead_of is None:
                previous = None if now is None else now.previous if now.manifest == manifest else now.manifest
            elif now != instead_of:
                raise _Overtaken(f"catalogue {draft.catalogue} was published meanwhile")
            serial = max(serial, now.serial if now else 0) + 1
            return _switch(connection, storage, signer, draft, manifest, serial, previous)


def _refused(ledger: Ledger, consent_ids: Iterable[str], use: Use) -> frozenset[str]:
    with ledger.transaction() as connection:
        return _refused_now(connection, consent_ids, use)


def _refused_now(
    connection: Connection, consent_ids: Iterable[str], use: Use, *, share: bool = False
) -> frozenset[str]:
    refused = set()
    for consent_id in sorted(set(consent_ids)):
        record, decision = consents.decide_now(connection, consent_id, use, share=share)
        if not decision.allowed:
            consents.note_refusal(connection, record, use.purpose, "publication", decision.code)
            refused.add(consent_id)
    return frozenset(refused)


def _write(storage: Storage, signer: Signer, draft: Draft) -> Named:
    prefix = catalogue_prefix(draft.catalogue, draft.run_id)
    shards = write_shards(storage, prefix, (vars(entry) for entry in draft.entries))
    predicate = {"catalogue": draft.catalogue, "run_id": draft.run_id, "total": len(draft.entries)}
    statement = {"_type": STATEMENT_TYPE, "subject": shards, "predicateType": MANIFEST_TYPE, "predicate": predicate}
    root = signer.sign_statement(statement)
    sha256 = hashlib.sha256(root).hexdigest()
    key = f"{prefix}root-{sha256[:16]}.json"
    storage.put(key, root, if_absent=False)
    return Named(key, sha256)


def _lock(connection: Connection, name: str) -> int:
    """Lock the catalogue, before any consent, and return its serial; it is made when it is new."""
    connection.execute(upsert(catalogues).values(name=name).on_conflict_do_nothing())
    query = select(catalogues.c.serial).where(catalogues.c.name == name).with_for_update()
    return int(connection.execute(query).scalar_one())


def _switch(
    connection: Connection,
    storage: Storage,
    signer: Signer,
    draft: Draft,
    manifest: Named,
    serial: int,
    previous: Named | None,
) -> Pointer:
    """Put the pointer, the one moment at which a reader's catalogue changes; the caller's transaction holds the locks.

    When the ledger fails to commit afterwards the pointer is right all the same, and the run is published again.
    """
    pointer = Pointer(
        catalogue=draft.catalogue,
        run_id=draft.run_id,
        serial=serial,
        purpose=draft.use.purpose,
        manifest=manifest,
        total=len(draft.entries),
        stale=sum(entry.stale for entry in draft.entries),
        consents=tuple(sorted({entry.consent_id for entry in draft.entries})),
        previous=previous,
        published_at=database_clock(connection).isoformat(),
        campaign=draft.use.campaign or "",
        channel=draft.use.channel or "",
        territory=draft.use.territory or "",
    )
    storage.put(pointer_key(draft.catalogue), signer.sign_statement(pointer.statement()), if_absent=False)
    change = {"serial": serial, "run_id": draft.run_id, "content": draft.content}
    row = update(catalogues).where(catalogues.c.name == draft.catalogue)
    connection.execute(row.values(**change, published_at=func.clock_timestamp()))
    facts = {"catalogue": draft.catalogue, "run_id": draft.run_id, "serial": serial, "total": pointer.total}
    audit.append(connection, "catalogue.published", facts | {"manifest_sha256": manifest.sha256})
    webhooks.emit(connection, webhooks.WebhookEvent.CATALOGUE_PUBLISHED, facts)
    return pointer


def published_content(ledger: Ledger, name: str) -> tuple[str, str]:
    """Return the run that a catalogue's pointer names and the digest of what it asked for; "" where unknown."""
    with ledger.transaction() as connection:
        query = select(catalogues.c.run_id, catalogues.c.content).where(catalogues.c.name == name)
        row = connection.execute(query).first()
    return (row.run_id, row.content) if row else ("", "")
