"""What the jobs of a night made: every new picture read back and verified, and what stands in for a missing one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from face0_worker.contract.consent import Decision
from face0_worker.contract.errors import ConsentRefused, VerificationFailed
from face0_worker.contract.job import ItemState
from face0_worker.records import consents
from face0_worker.records.catalogue_pointer import Entry
from face0_worker.records.commits import CommitRow, find_commit, mark_published
from face0_worker.records.progress import ItemRow, job_items, job_status
from face0_worker.records.provenance import open_public_key, verify_picture
from face0_worker.records.storage import StorageMissing
from producer.services import Services, keys_folder

Problem = VerificationFailed | ConsentRefused

_AT_ONCE = 8  # reads of storage


@dataclass(frozen=True)
class Results:
    """A night's pictures in the order of its lists, and how many items ended how. `problems` are sentences."""

    entries: tuple[Entry, ...]
    total: int
    done: int
    failed: int
    refused: int
    cancelled: int
    rendered: int
    verified: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Ended:
    """How one item ended: `how` is done, failed, refused or cancelled."""

    row: ItemRow
    consent_id: str
    how: str
    sentence: str = ""
    verified: bool = False

    @property
    def entry(self) -> Entry | None:
        row = self.row
        if self.how != "done" or row.picture_key is None or row.picture_sha256 is None:
            return None
        names = (row.sku, row.variant, self.consent_id, row.item_key)
        return Entry(*names, row.picture_key, row.picture_sha256, kept=row.kept)


class Verifier:
    """Verifies pictures of this installation, from several threads at once."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._public_key: Ed25519PublicKey = open_public_key(keys_folder(services.settings) / "signing.pub")
        self._storage = services.storage

    def problem(self, item_key: str, picture_key: str, picture_sha256: str) -> Problem | None:
        """Return what is wrong with a stored picture, or None; its bytes, receipt and consent are looked at."""
        try:
            data = self._storage.get(picture_key)
            verified = verify_picture(
                data,
                find_commit=self._find,
                consent_decision=self._decide,
                storage=self._storage,
                public_key=self._public_key,
            )
        except StorageMissing:
            return VerificationFailed("its picture is missing from storage")
        except (VerificationFailed, ConsentRefused) as error:
            return error
        if (verified.sha256, verified.receipt.item_key) != (picture_sha256, item_key):
            return VerificationFailed("its stored bytes are not those that were committed")
        return None

    def publish_receipt(self, item_key: str) -> None:
        """Put a receipt where it belongs, if the dispatcher has not done so yet."""
        commit = self._find(item_key=item_key)
        if commit is not None and commit.published_at is None and not commit.purged:
            self._storage.put(commit.receipt_key, commit.receipt, if_absent=False)
            mark_published(self._services.ledger, item_key)

    def _find(self, *, item_key: str | None = None, picture_sha256: str | None = None) -> CommitRow | None:
        return find_commit(self._services.ledger, item_key=item_key, picture_sha256=picture_sha256)

    def _decide(self, consent_id: str, purpose: str) -> Decision:
        with self._services.ledger.transaction() as connection:
            return consents.decide_now(connection, consent_id, purpose)[1]


def collect(services: Services, job_ids: Sequence[str], before: Collection[Entry]) -> Results:
    """Return how every item of these jobs ended. Each picture that they made is read back and verified.

    An item without one gets the picture that its SKU and variant had `before` under the same consent, marked stale.
    Raises: ServiceDown.
    """
    verifier = Verifier(services)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        ended = list(pool.map(lambda pair: _ended(verifier, *pair), _rows(services, job_ids)))
    earlier = _Earlier(before, {one.row.item_key for one in ended if one.how == "done"})
    entries = []
    for one in ended:
        entry = one.entry or (earlier.take(one) if one.how in ("failed", "cancelled") else None)
        if entry is not None:
            entries.append(entry)
    number = {how: sum(one.how == how for one in ended) for how in ("done", "failed", "refused", "cancelled")}
    return Results(
        entries=tuple(entries),
        total=len(ended),
        **number,
        rendered=sum(one.row.state == ItemState.DONE and not one.row.kept for one in ended),
        verified=sum(one.verified for one in ended),
        problems=tuple(f"SKU {one.row.sku}: {one.sentence}" for one in ended if one.sentence),
    )


def _rows(services: Services, job_ids: Sequence[str]) -> Iterator[tuple[ItemRow, str]]:
    for job_id in job_ids:
        consent_id = job_status(services.ledger, job_id).consent_id
        # a list of its own: rows that are read one by one would hold a transaction open while pictures are read
        for row in list(job_items(services.ledger, job_id)):
            yield row, consent_id


def _ended(verifier: Verifier, row: ItemRow, consent_id: str) -> _Ended:
    if row.state == ItemState.DONE:
        if row.kept:
            return _Ended(row, consent_id, "done")
        verifier.publish_receipt(row.item_key)
        problem = verifier.problem(row.item_key, row.picture_key or "", row.picture_sha256 or "")
        if problem is None:
            return _Ended(row, consent_id, "done", verified=True)
        return _Ended(row, consent_id, "refused" if isinstance(problem, ConsentRefused) else "failed", str(problem))
    if row.state == ItemState.PURGED:
        return _Ended(row, consent_id, "refused", "its consent was revoked")
    if row.state == ItemState.CANCELLED:
        # whoever cancels a job leaves this code; every other one is a consent's
        how = "cancelled" if row.error_code == "cancelled" else "refused"
        return _Ended(row, consent_id, how, row.error or "")
    return _Ended(row, consent_id, "failed", row.error or str(row.state))


class _Earlier:
    """The pictures that were shown before and are not shown as asked now, by name and consent; each is given once."""

    def __init__(self, before: Collection[Entry], done: Collection[str]) -> None:
        self._left: dict[tuple[str, str, str], list[Entry]] = {}
        for entry in before:
            if entry.item_key not in done:
                self._left.setdefault((entry.sku, entry.variant, entry.consent_id), []).append(entry)

    def take(self, one: _Ended) -> Entry | None:
        left = self._left.get((one.row.sku, one.row.variant, one.consent_id))
        if not left:
            return None
        entry = left.pop(0)
        names = (entry.sku, entry.variant, entry.consent_id, entry.item_key)
        return Entry(*names, entry.picture_key, entry.picture_sha256, kept=True, stale=True)


def check_entries(services: Services, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Problem | None]]:
    """Yield each entry of a manifest with what is wrong with its picture, or None."""
    verifier = Verifier(services)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        problems = pool.map(lambda one: verifier.problem(one.item_key, one.picture_key, one.picture_sha256), entries)
        yield from zip(entries, problems, strict=True)
