"""Rejected pictures that a human accepted: committed on a worker's machine, which alone signs (promises P1, P2, P3)."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB

from face0_worker.contract.bars import Bars
from face0_worker.contract.errors import BadInput, ConsentRefused, ItemFailed, LeaseLost
from face0_worker.contract.job import RenderItem, Subject
from face0_worker.contract.receipt import Verdict
from face0_worker.records import commits, consents, held
from face0_worker.records import storage as keys
from face0_worker.records.attempts import ClaimedItem, keep
from face0_worker.records.held import Held
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import TO_COMMIT, held_pictures, items, jobs
from face0_worker.records.tables import commits as commits_table


@dataclass(frozen=True)
class Acceptance:
    """An accepted picture that is to be committed now; `holder` fences off whoever had it before."""

    held: Held
    item: ClaimedItem
    holder: str

    @property
    def verdict(self) -> Verdict:
        """What the receipt says: the numbers and the reason as they were, and who accepted it."""
        told = asdict(self.held.verdict)
        return Verdict(**{**told, "accepted": True, "accepted_by": self.held.decided_by})


def claim(ledger: Ledger, lease_s: float) -> Acceptance | None:
    """Take the acceptance that waits longest, for `lease_s` seconds; None when none waits."""
    due = TO_COMMIT & (held_pictures.c.due_at <= func.now())
    first = select(held_pictures.c.item_id).where(due).order_by(held_pictures.c.due_at).limit(1)
    holder = secrets.token_hex(8)
    taken = {"holder": holder, "due_at": func.now() + timedelta(seconds=lease_s)}
    with ledger.transaction() as connection:
        mine = held_pictures.c.item_id == first.with_for_update(skip_locked=True).scalar_subquery()
        item_id = connection.execute(
            update(held_pictures).where(mine).values(taken).returning(held_pictures.c.item_id)
        ).scalar()
        if item_id is None:
            return None
        row = connection.execute(held.query().where(held_pictures.c.item_id == item_id)).one()
        record = consents.read(connection, row.consent_id)
        return Acceptance(held.read(row), _item(row, record.epoch if record else 0), holder)


def keep_accepted(ledger: Ledger, acceptance: Acceptance) -> None:
    """Carry out an acceptance whose picture stands committed: the item is done and keeps it.

    Raises: ConsentRefused, LeaseLost: as `commit_accepted`. ItemFailed: the picture is not there any more.
    """
    with ledger.transaction() as connection:
        refusal = _ready(connection, acceptance)
        if refusal is None:
            _keep(connection, acceptance)
            return
    raise refusal


def commit_accepted(
    ledger: Ledger, acceptance: Acceptance, picture_key: str, picture_sha256: str, receipt_bytes: bytes
) -> str:
    """Make an accepted, stored picture exist: "committed", or "kept" when an identical item was committed first.

    As `commits.commit`: one transaction, the consent under a lock that a revocation waits for.
    Raises: LeaseLost: another one does it now, or has done it. ConsentRefused: the consent does not allow it; the item
    stays rejected. BadInput: the key is not the picture's.
    """
    item = acceptance.item
    if picture_key != keys.picture_key(item.subject.consent_id, item.item_key, picture_sha256):
        raise BadInput("the picture is not stored under the key of its consent, item and digest")
    values = {
        "item_key": item.item_key,
        "item_id": item.item_id,
        "job_id": item.job_id,
        "attempt_id": f"review-{acceptance.holder}",
        "consent_id": item.subject.consent_id,
        "consent_epoch": item.consent_epoch,
        "purpose": item.purpose,
        "picture_key": picture_key,
        "picture_sha256": picture_sha256,
        "receipt_key": keys.receipt_key(item.subject.consent_id, item.item_key),
        "receipt": receipt_bytes,
        "verdict": asdict(acceptance.verdict),
    }
    with ledger.transaction() as connection:
        refusal = _ready(connection, acceptance)
        if refusal is None:
            if commits.write(connection, values):
                _end(connection, acceptance)
                return "committed"
            _keep(connection, acceptance)
            return "kept"
    raise refusal


def waits(ledger: Ledger, acceptance: Acceptance) -> bool:
    """Say whether it is still to be carried out, by whomever."""
    mine = (held_pictures.c.item_id == acceptance.item.item_id) & TO_COMMIT
    with ledger.transaction() as connection:
        return connection.execute(select(held_pictures.c.item_id).where(mine)).first() is not None


def give_up(ledger: Ledger, acceptance: Acceptance, sentence: str) -> None:
    """End an acceptance that can't be carried out; the item stays rejected, and the sentence says why."""
    mine = (held_pictures.c.item_id == acceptance.item.item_id) & (held_pictures.c.holder == acceptance.holder)
    with ledger.transaction() as connection:
        ended = {"ended_at": func.clock_timestamp(), "error": sentence}
        connection.execute(update(held_pictures).where(mine & TO_COMMIT).values(ended))


def _ready(connection: Connection, acceptance: Acceptance) -> ConsentRefused | None:
    """Lock the held picture and the consent; None when the picture may be committed now. Raises: LeaseLost."""
    item = acceptance.item
    mine = (held_pictures.c.item_id == item.item_id) & (held_pictures.c.holder == acceptance.holder) & TO_COMMIT
    if connection.execute(select(held_pictures.c.item_id).where(mine).with_for_update()).first() is None:
        raise LeaseLost("the accepted picture is committed by another worker meanwhile")
    record, decision = consents.decide_now(connection, item.subject.consent_id, item.use, share=True)
    if not decision.allowed:
        consents.note_refusal(connection, record, item.purpose, "review", decision.code)
        ended = {"ended_at": func.clock_timestamp(), "error": decision.english}
        connection.execute(update(held_pictures).where(mine).values(ended))
        return ConsentRefused(decision.english, decision.code)
    if record is not None and record.epoch != item.consent_epoch:
        connection.execute(update(held_pictures).where(mine).values(holder="", due_at=func.now()))
        return ConsentRefused("The consent changed meanwhile; the picture is committed anew.", "changed")
    connection.execute(select(items.c.id).where(items.c.id == item.item_id).with_for_update())
    return None


def _keep(connection: Connection, acceptance: Acceptance) -> None:
    if not keep(connection, items.c.id == acceptance.item.item_id):
        raise ItemFailed("the picture that it was to keep is not there any more")
    # beside the signed receipt, which says what the gate said then: later jobs need not ask a human again
    accepted = literal({"accepted_by": acceptance.held.decided_by}, JSONB)
    mine = commits_table.c.item_key == acceptance.item.item_key
    connection.execute(update(commits_table).where(mine).values(verdict=commits_table.c.verdict + accepted))
    _end(connection, acceptance)


def _end(connection: Connection, acceptance: Acceptance) -> None:
    """Note that it is done, and let the job's manifest be written anew."""
    ended = {"ended_at": func.clock_timestamp()}
    connection.execute(update(held_pictures).where(held_pictures.c.item_id == acceptance.item.item_id).values(ended))
    again = {"manifest_key": None, "finished_at": None, "reopened": jobs.c.reopened + 1}
    connection.execute(update(jobs).where(jobs.c.id == acceptance.item.job_id).values(again))


def _item(row: Row[Any], epoch: int) -> ClaimedItem:
    subject = Subject(row.consent_id, row.face_digest, row.model_digest, row.embedder_digest, row.face_policy)
    spec = RenderItem.from_json(row.spec)
    if row.seed is not None:
        spec = spec.with_seed(row.seed)
    named = (row.item_id, row.job_id, subject, row.face_key, row.purpose, spec, row.item_key, epoch)
    return ClaimedItem(*named, held.use_of(row), Bars.from_json(row.bars))
