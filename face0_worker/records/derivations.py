"""Pictures to be made in another form: asked for by readers, made by workers, committed like any other picture."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.consent import Use
from face0_worker.contract.derivation import Form, derivation_key
from face0_worker.contract.errors import BadInput, ConsentRefused, LeaseLost, VerificationFailed
from face0_worker.records import audit, consents
from face0_worker.records import storage as keys
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import UNMADE, commits, derivations, items, jobs

# a picture whose making ends the process must not end every process for ever (promise P8)
TRIES = 5
_CHUNK = 1000
GAVE_UP = f"tried {TRIES} times without a result"


@dataclass(frozen=True)
class Task:
    """One picture to be made, and who makes it now: `holder` fences off whoever had it before."""

    id: str
    job_id: str
    item_key: str
    consent_id: str
    purpose: str
    form: Form
    holder: str
    tries: int


@dataclass(frozen=True)
class Made:
    """A stored picture in another form, with its signed receipt; `epoch` is that of the consent it names."""

    picture_key: str
    picture_sha256: str
    receipt: bytes
    epoch: int


def request(
    ledger: Ledger, *, job_id: str, consent_id: str, purpose: str, parents: Mapping[str, str], form: Form
) -> dict[str, str]:
    """Ask for pictures of a job in another form; return their keys by item key. Repeating it asks for what failed.

    `parents`: the sha256 of the committed picture by item key.
    """
    found = {item_key: derivation_key(sha256, form) for item_key, sha256 in parents.items()}
    same = {"job_id": job_id, "consent_id": consent_id, "purpose": purpose, "form": form.to_json()}
    rows = [{"id": key, "item_key": item_key, **same} for item_key, key in sorted(found.items())]
    failed = derivations.c.state == "failed"
    again = {"state": "waiting", "tries": 0, "error": "", "due_at": func.now(), "ended_at": None}
    with ledger.transaction() as connection:
        for start in range(0, len(rows), _CHUNK):
            asked = upsert(derivations).values(rows[start : start + _CHUNK])
            connection.execute(asked.on_conflict_do_update(index_elements=["id"], set_=again, where=failed))
    return found


def ended(ledger: Ledger, ids: Collection[str]) -> dict[str, str]:
    """Return which of these have ended: "" for one that was made, or a sentence why it can't be made."""
    query = select(derivations.c.id, derivations.c.error).where(
        derivations.c.id.in_(ids), derivations.c.state != "waiting"
    )
    with ledger.transaction() as connection:
        return {row.id: row.error for row in connection.execute(query)}


def last_ended(ledger: Ledger) -> datetime | None:
    """Return when a picture was last made, or could not be; None when there was none yet."""
    with ledger.transaction() as connection:
        when: datetime | None = connection.execute(select(func.max(derivations.c.ended_at))).scalar()
        return when


def claim(ledger: Ledger, lease_s: float) -> Task | None:
    """Take the one that waits longest, for `lease_s` seconds; None when nothing waits."""
    due = (derivations.c.due_at <= func.now()) & UNMADE
    spent = {"state": "failed", "error": GAVE_UP, "ended_at": func.now()}
    first = select(derivations.c.id).where(due).order_by(derivations.c.due_at, derivations.c.id).limit(1)
    taken = {
        "holder": secrets.token_hex(8),
        "tries": derivations.c.tries + 1,
        "due_at": func.now() + timedelta(seconds=lease_s),
    }
    columns = [derivations.c[name] for name in ("id", "job_id", "item_key", "consent_id", "purpose", "form")]
    with ledger.transaction() as connection:
        connection.execute(update(derivations).where(due, derivations.c.tries >= TRIES).values(spent))
        mine = derivations.c.id == first.with_for_update(skip_locked=True).scalar_subquery()
        query = update(derivations).where(mine).values(taken)
        row = connection.execute(query.returning(*columns, derivations.c.holder, derivations.c.tries)).first()
    return Task(**{**row._mapping, "form": Form.from_json(row.form)}) if row else None


def commit(ledger: Ledger, task: Task, made: Made, ending: str) -> str:
    """Make the stored picture exist: "committed", or "kept" when somebody made it first. As `commits.commit`.

    One transaction: the task under its holder, the consent under a lock that a revocation waits for, the parent,
    the receipt's bytes and the audit row.
    Raises: LeaseLost: another one makes it now. ConsentRefused: the consent does not allow it now, or changed
    meanwhile and it is made again. VerificationFailed: the parent is gone. BadInput: the key is not the task's.
    """
    if made.picture_key != keys.picture_key(task.consent_id, task.id, made.picture_sha256, ending):
        raise BadInput("the picture is not stored under the key of its consent, derivation and digest")
    with ledger.transaction() as connection:
        _hold(connection, task)
        record, decision = consents.decide_now(connection, task.consent_id, _use(connection, task), share=True)
        if not decision.allowed:
            consents.note_refusal(connection, record, task.purpose, "derive", decision.code)
            _end(connection, task, "failed", decision.english)
            refusal = ConsentRefused(decision.english, decision.code)
        elif record is not None and record.epoch != made.epoch:
            _postpone(connection, task, 0.0)
            refusal = ConsentRefused("The consent changed while the picture was made; it is made again.", "changed")
        else:
            answer = _write(connection, task, made)
            _end(connection, task, "done", "")
            return answer
    raise refusal


def fail(ledger: Ledger, task: Task, sentence: str) -> None:
    """End a task that can't be done; asking for it again lets it be tried again. Raises: LeaseLost."""
    with ledger.transaction() as connection:
        _hold(connection, task)
        _end(connection, task, "failed", sentence)


def postpone(ledger: Ledger, task: Task, wait_s: float) -> None:
    """Give a task back, to be tried again in `wait_s` seconds. Raises: LeaseLost."""
    with ledger.transaction() as connection:
        _hold(connection, task)
        _postpone(connection, task, wait_s)


def _hold(connection: Connection, task: Task) -> None:
    mine = (derivations.c.id == task.id) & (derivations.c.holder == task.holder) & UNMADE
    if connection.execute(select(derivations.c.id).where(mine).with_for_update()).first() is None:
        raise LeaseLost("the picture is made by another worker meanwhile")


def _use(connection: Connection, task: Task) -> Use:
    names = [jobs.c[name] for name in ("purpose", "campaign", "channel", "territory")]
    query = select(*names, items.c.sku, items.c.spec["prompt"].astext.label("prompt")).select_from(items.join(jobs))
    row = connection.execute(query.where(jobs.c.id == task.job_id, items.c.item_key == task.item_key)).first()
    if row is None:
        raise VerificationFailed("the picture that it was made from is no longer there")
    return consents.job_use(row).of_item(row.sku, row.prompt)


def _postpone(connection: Connection, task: Task, wait_s: float) -> None:
    # nothing went wrong with the picture itself, so the try does not count
    later = {"tries": derivations.c.tries - 1, "holder": "", "due_at": func.now() + timedelta(seconds=wait_s)}
    connection.execute(update(derivations).where(derivations.c.id == task.id).values(later))


def _end(connection: Connection, task: Task, state: str, sentence: str) -> None:
    values = {"state": state, "error": sentence, "ended_at": func.now()}
    connection.execute(update(derivations).where(derivations.c.id == task.id).values(values))


def _write(connection: Connection, task: Task, made: Made) -> str:
    parent = connection.execute(
        select(commits.c.item_id, commits.c.picture_sha256, commits.c.verdict)
        .where(commits.c.item_key == task.item_key, commits.c.purged_at.is_(None))
        .with_for_update(read=True)
    ).first()
    if parent is None or derivation_key(parent.picture_sha256, task.form) != task.id:
        raise VerificationFailed("the picture that it was made from is no longer there")
    named: dict[str, Any] = {
        "item_key": task.id,
        "job_id": task.job_id,
        "attempt_id": f"derive-{task.holder}",
        "consent_id": task.consent_id,
        "consent_epoch": made.epoch,
        "purpose": task.purpose,
        "picture_sha256": made.picture_sha256,
    }
    others = {
        "item_id": parent.item_id,
        "verdict": parent.verdict,
        "picture_key": made.picture_key,
        "receipt_key": keys.receipt_key(task.consent_id, task.id),
        "receipt": made.receipt,
    }
    new = upsert(commits).values(named | others).on_conflict_do_nothing(index_elements=["item_key"])
    if connection.execute(new.returning(commits.c.item_key)).first() is None:
        return "kept"
    audit.append(connection, "picture.committed", named | {"parent_sha256": parent.picture_sha256})
    return "committed"
