"""Pictures on their way out: each is allowed now, noted in the distribution register, and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection

from face0_worker.contract.consent import Use, decide
from face0_worker.contract.derivation import Form
from face0_worker.contract.errors import ConsentRefused, Face0Error, ItemFailed, VerificationFailed
from face0_worker.contract.receipt import Receipt
from face0_worker.records import consents, deliveries
from face0_worker.records.commits import CommitRow, find_commits
from face0_worker.records.deliveries import Channel
from face0_worker.records.ledger import database_clock
from face0_worker.records.provenance import open_public_key, verify_receipt
from face0_worker.records.storage import StorageMissing
from producer.delivery.derived import Patience, ask, wait_for
from producer.delivery.selection import Selection, Wanted, prompts
from producer.services import Services, keys_folder

AT_ONCE = 8  # reads of storage, and writes
_CONSENT_AGAIN = 50  # pictures; a withdrawal in the middle of a long pull stops the rest

T = TypeVar("T")
Load = Callable[[], bytes]


@dataclass(frozen=True)
class Picture:
    """One finished picture whose bytes hash to what was committed and whose receipt is signed.

    `data` is empty where the bytes were not asked for, or lie in a file already.
    """

    sku: str
    variant: str
    prompt: str
    kept: bool
    receipt_key: str
    envelope: bytes
    receipt: Receipt
    data: bytes = field(default=b"", repr=False)

    def with_data(self, data: bytes) -> Picture:
        """Return the same picture with these bytes."""
        return replace(self, data=data)


@dataclass(frozen=True)
class Exit:
    """By which way pictures leave: the gate's name in the audit log, and what the distribution register notes.

    `recipient`: somebody else who gets them, whom the consent must name; "": they stay in the house.
    """

    stage: str
    channel: Channel
    destination: str
    recipient: str = ""

    @property
    def noted(self) -> str:
        """Where the register says that copies went."""
        return f"{self.destination}, for {self.recipient}" if self.recipient else self.destination

    def of(self, use: Use) -> Use:
        """Return a use with this recipient, as the consent is asked for it."""
        return replace(use, recipient=self.recipient)


@dataclass(frozen=True)
class Request:
    """Which pictures are to leave by which way; `form`: not as they were rendered, but as workers make them then."""

    selection: Selection
    way: Exit
    form: Form | None = None
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class _Part:
    """Some pictures that leave together: prompts and commits by item key, and what is wrong with the others."""

    wanted: Sequence[Wanted]
    prompts: Mapping[str, str]
    commits: Mapping[str, CommitRow]
    faults: Mapping[str, Face0Error]


def fetch(services: Services, request: Request) -> Iterator[tuple[Wanted, Picture | Face0Error]]:
    """Yield each picture with its checked bytes, or what is wrong with one, in order; consent comes first.

    Raises: ConsentRefused: it does not allow this now. ServiceDown.
    """
    return work_through(services, request, lambda _, picture, load: picture.with_data(load()))


def work_through(
    services: Services, request: Request, work: Callable[[Wanted, Picture, Load], T]
) -> Iterator[tuple[Wanted, T | Face0Error]]:
    """Do `work` with each picture in a few threads; yield what it returned, or what is wrong, in order.

    `work` gets a function that loads the checked bytes, for it may not need them. Raises: as `fetch`.
    """
    selection, way = request.selection, request.way
    public_key = open_public_key(keys_folder(services.settings) / "signing.pub")
    if selection.person is not None:
        consent_id, use = selection.person
        consents.require(services.ledger, consent_id, way.of(use), stage=way.stage)
    derived = ask(services, selection.wanted, request.form) if request.form else {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(selection.wanted), _CONSENT_AGAIN):
            part = _committed(services, request, selection.wanted[start : start + _CONSENT_AGAIN], derived)
            part = _let_out(services, part, request)
            doing = [pool.submit(_do, services, public_key, part, one, work) for one in part.wanted]
            for one, done in zip(part.wanted, doing, strict=True):
                yield one, done.result()


def _committed(services: Services, request: Request, wanted: Sequence[Wanted], derived: Mapping[str, str]) -> _Part:
    """Find the commits; of pictures in another form, when they have been made."""
    keys = {one.item_key: derived.get(one.item_key, one.item_key) for one in wanted}
    faults: dict[str, Face0Error] = {}
    if derived:
        ended = wait_for(services, [*keys.values()], request.patience)
        faults = {item_key: ItemFailed(ended[key]) for item_key, key in keys.items() if ended[key]}
    found = find_commits(services.ledger, [*keys.values()])
    commits = {item_key: found[key] for item_key, key in keys.items() if key in found and not found[key].purged}
    return _Part(wanted, prompts(services, wanted), commits, faults)


def _let_out(services: Services, part: _Part, request: Request) -> _Part:
    """Ask every consent and note the copies, in one transaction that a revocation waits for; return what may leave.

    Raises: ConsentRefused: the one person's consent refuses.
    """
    way = request.way
    refused: dict[str, Face0Error] = {}
    people = {one.consent_id: way.of(one.use) for one in part.wanted}
    with services.ledger.transaction() as connection:
        records = {consent_id: consents.read(connection, consent_id, share=True) for consent_id in sorted(people)}
        now = database_clock(connection)
        codes: set[tuple[str, str]] = set()  # each reason is audited once, not with every picture
        for one in part.wanted:
            use = way.of(one.use).of_item(one.sku, part.prompts.get(one.item_key, ""))
            decision = decide(records[one.consent_id], use, now)
            if not decision.allowed:
                refused[one.item_key] = ConsentRefused(decision.english, decision.code)
                codes.add((one.consent_id, decision.code))
            elif one.item_key in part.commits:
                _note(connection, one, part.commits[one.item_key], way)
        for consent_id, code in sorted(codes):
            consents.note_refusal(connection, records[consent_id], people[consent_id].purpose, way.stage, code)
        whole = [decide(records[consent_id], people[consent_id], now) for consent_id in people]
    if request.selection.person is not None and whole and not whole[0].allowed:
        raise ConsentRefused(whole[0].english, whole[0].code)
    return replace(part, faults={**part.faults, **refused})


def _note(connection: Connection, one: Wanted, commit: CommitRow, way: Exit) -> None:
    deliveries.note(
        connection,
        consent_id=one.consent_id,
        job_id=one.job_id,
        item_key=commit.item_key,
        picture_sha256=commit.picture_sha256,
        channel=way.channel,
        destination=way.noted,
    )


def _do(
    services: Services,
    public_key: Ed25519PublicKey,
    part: _Part,
    one: Wanted,
    work: Callable[[Wanted, Picture, Load], T],
) -> T | Face0Error:
    """Check the receipt and do the work; what is wrong with this picture alone is returned."""
    if one.item_key in part.faults:
        return part.faults[one.item_key]
    try:
        commit = part.commits.get(one.item_key)
        if commit is None:
            raise VerificationFailed("the ledger has no commit for it")
        receipt = verify_receipt(commit.receipt, public_key)
        about = receipt.parent_sha256 or receipt.picture_sha256
        if (receipt.picture_sha256, about) != (commit.picture_sha256, one.picture_sha256):
            raise VerificationFailed("its receipt is about another picture")
        named = (one.sku, one.variant, part.prompts.get(one.item_key, ""), one.kept)
        picture = Picture(*named, commit.receipt_key, commit.receipt, receipt)
        return work(one, picture, partial(_load, services, commit))
    except (VerificationFailed, StorageMissing) as error:
        return error


def _load(services: Services, commit: CommitRow) -> bytes:
    data = services.storage.get(commit.picture_key)
    if hashlib.sha256(data).hexdigest() != commit.picture_sha256:
        raise VerificationFailed("its stored bytes are not those that were committed")
    return data
