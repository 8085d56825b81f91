"""What a program of one schema version says to its ledger, recorded so that a later version's ledger can be asked it.

Record before the schema changes, with the program as it is then, on a server whose database may be filled:

    python -m tests.integration.records.program 0002 postgresql://...

The recording holds every statement of a session through all rooms, with its values and how many rows it touched.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import event

from face0_worker.contract.consent import Purpose, Use
from face0_worker.contract.derivation import FileFormat, Form
from face0_worker.contract.errors import ConsentRefused
from face0_worker.finishing import Finisher
from face0_worker.queue.dispatch import reconcile
from face0_worker.records import (
    attempts,
    audit,
    catalogue_runs,
    catalogues,
    checkpoints,
    consent_versions,
    consents,
    deliveries,
    derivations,
    enrolment,
    held,
    jobs,
    progress,
    review,
    webhooks,
)
from face0_worker.records.catalogue_pointer import Entry
from face0_worker.records.catalogues import Draft
from face0_worker.records.commits import find_commit
from face0_worker.records.consent_changes import amend
from face0_worker.records.derivations import Made
from face0_worker.records.enrolment import Enrolled
from face0_worker.records.held import Sealed, hold_picture
from face0_worker.records.ledger import Ledger, open_ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage, held_key, open_storage, picture_key
from face0_worker.records.sweep import sweep_job
from face0_worker.records.webhook_keys import Keys
from face0_worker.records.webhooks import WebhookEvent
from tests.ledgers import (
    GOOD,
    MODEL,
    Broker,
    claim_all,
    commit_item,
    digest,
    dispatch_once,
    expire_lease,
    give_consent,
    some_items,
    submit,
)

FOR_EVER_DAYS = 36500.0
COMMIT, ROLLBACK, PING = "COMMIT", "ROLLBACK", ";"


def recording(revision: str) -> Path:
    """Return where the recording of the program of this schema version lies."""
    return Path(__file__).with_name(f"program_{revision}.json")


@dataclass(frozen=True)
class Said:
    """One thing a program said: a statement (COPY with its rows), its values, and the rows it touched (-1: unknown)."""

    statement: str
    values: Any
    rows: int


def session(ledger: Ledger, folder: Path) -> None:
    """Take a path through every room of the records: from consent over crash and retry to revocation."""
    broker, storage, signer = Broker(), open_storage(str(folder / "storage")), Signer.create(folder / "keys")
    for consent_id in ("c1", "c2"):
        give_consent(ledger, consent_id, days=FOR_EVER_DAYS)
    consents.require(ledger, "c1", Use(Purpose.CATALOGUE), stage="submit")
    _enrol(ledger, signer)
    webhook, _ = webhooks.add(ledger, Keys.open(folder / "keys", create=True), "https://e.org/", [*WebhookEvent], ())
    jobs.offer_model(ledger, "w1", MODEL, "test", {"steps": 4})
    jobs.find_model(ledger, "test")
    done = submit(ledger, some_items(3), idempotency_key="once")
    withdrawn = submit(ledger, some_items(2), consent_id="c2")
    cancelled = submit(ledger, some_items(1, first=50))
    jobs.pause_job(ledger, cancelled)
    jobs.resume_job(ledger, cancelled)
    jobs.cancel_job(ledger, cancelled)

    def repair() -> None:
        reconcile(
            ledger,
            send=broker.send,
            queue_length=broker.length,
            crash_limit=3,
            resend_after_s=0,
        )
        Finisher(ledger, storage, signer).round()

    dispatch_once(ledger, broker)
    (lost, *_) = claim_all(ledger, broker)
    expire_lease(ledger, lost.attempt_id)  # its worker died
    repair()
    while dispatch_once(ledger, broker, window=10):
        broker.flush()  # every message is lost, and sent again
        repair()
        for claim in claim_all(ledger, broker):
            attempts.renew(ledger, claim.attempt_id, claim.token, 60)
            for item in claim.items:
                if item.spec.seed == 2 and item.subject.consent_id == "c1":
                    attempts.fail_item(ledger, claim.attempt_id, claim.token, item.item_id, "test", "it was told to")
                elif item.spec.seed == 1 and item.subject.consent_id == "c2":
                    key = held_key("c2", item.item_key, digest("held"))
                    hold_picture(ledger, claim.attempt_id, claim.token, item, Sealed(key, 1, GOOD, "blurred"))
                else:
                    commit_item(ledger, claim, item)
            attempts.finish_attempt(ledger, claim.attempt_id, claim.token)
    jobs.retry_failed(ledger, done)
    jobs.cancel_job(ledger, done)
    submit(ledger, some_items(2), purpose="catalogue", submitter="second")  # kept: both are committed
    _hand_out(ledger, storage, signer, done)
    _decide(ledger)
    consents.revoke(ledger, "c2", reason="asked for")
    repair()
    sweep_job(ledger, storage, done)
    progress.list_jobs(ledger)
    for row in list(progress.job_items(ledger, withdrawn)):
        find_commit(ledger, item_key=row.item_key)
    attempts.release(ledger, worker_id="w1", crash_limit=3)
    jobs.withdraw_offers(ledger, "w1")
    _tell(ledger, webhook.id)
    audit.chain(ledger)
    checkpoints.make(ledger, signer)
    checkpoints.publish(ledger, storage)
    audit.verify(ledger)


def _hand_out(ledger: Ledger, storage: Storage, signer: Signer, job_id: str) -> None:
    """Note a copy, make a picture in another form, and publish a catalogue."""
    row = next(row for row in progress.job_items(ledger, job_id) if row.picture_sha256)
    assert row.picture_key
    assert row.picture_sha256
    same: dict[str, str] = {"consent_id": "c1", "job_id": job_id}
    with ledger.transaction() as connection:
        deliveries.note(
            connection,
            **same,
            item_key=row.item_key,
            picture_sha256=row.picture_sha256,
            channel="pull",
            destination="a folder",
        )
    list(deliveries.takedown(ledger, "c1"))
    form = Form(FileFormat.JPEG, 85)
    derivations.request(ledger, **same, purpose="catalogue", parents={row.item_key: row.picture_sha256}, form=form)
    task = derivations.claim(ledger, 60)
    assert task
    made = Made(picture_key("c1", task.id, digest("jpeg"), "jpg"), digest("jpeg"), b"receipt", 2)
    with suppress(ConsentRefused):  # its epoch is another one: it is asked for again
        derivations.commit(ledger, task, made, "jpg")
    derivations.ended(ledger, [task.id])
    catalogue_runs.begin(
        ledger, "run-1", catalogue="autumn", content="c", purpose="catalogue", deadline=None, jobs=[job_id]
    )
    entry = Entry(row.sku, row.variant, "c1", row.item_key, row.picture_key, row.picture_sha256)
    catalogues.publish(ledger, storage, signer, Draft("autumn", "run-1", Use(Purpose.CATALOGUE), (entry,), "c"))
    catalogue_runs.end(ledger, "run-1", "published", {"done": 1})
    catalogue_runs.history(ledger)


def _decide(ledger: Ledger) -> None:
    """Look at the pictures that are held, and reject them."""
    for one in list(held.list_undecided(ledger)):
        review.note_shown(ledger, one, "staff")
        review.decide(ledger, one.item_id, "rejected", "staff")
        review.mark_erased(ledger, one.item_id)


def _tell(ledger: Ledger, webhook_id: str) -> None:
    """Deliver one message, fail with another, and remove the webhook."""
    (first,) = webhooks.take(ledger, 10, 60)
    webhooks.note_delivered(ledger, first.id, 204)
    (second,) = webhooks.take(ledger, 10, 60)
    webhooks.note_failed(ledger, second, 500, "it answered 500")
    webhooks.remove(ledger, webhook_id)


def _enrol(ledger: Ledger, signer: Signer) -> None:
    """Change a consent, enrol a face under it, and hold two more."""
    sign = signer.sign_statement
    amend(ledger, "c1", lambda old, _: replace(old, terms=replace(old.terms, withdrawal="ask")), sign=sign)
    face = Enrolled("d" * 64, "faces/c1/d.enc", MODEL, "k" * 64, b"sealed")
    enrolment.enrol(ledger, "c1", face, first=True, sign=sign)
    accepted, rejected = (
        enrolment.hold(ledger, "c1", mark * 64, f"faces/c1/{mark}.enc", MODEL, 0.9, 0.5) for mark in "ef"
    )
    again = replace(face, digest=accepted.digest, face_key=accepted.face_key, keyed_digest="l" * 64)
    enrolment.enrol(ledger, "c1", again, first=False, sign=sign, held=accepted.id)
    enrolment.reject(ledger, rejected.id)
    enrolment.list_held(ledger)
    enrolment.note_access(ledger, "face.viewed", "c1", "staff")
    consent_versions.history(ledger, "c1")


def record(ledger: Ledger, act: Callable[[Ledger], None]) -> list[Said]:
    """Return everything that `act` says to the ledger, from its first connection on."""
    said: list[Said] = []

    class Cursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **how: Any) -> Any:
            done = super().execute(query, params, **how)
            if query != PING:
                said.append(Said(str(query), params, self.rowcount))
            return done

        def executemany(self, query: Any, params_seq: Iterable[Any], **how: Any) -> None:
            for params in params_seq:
                self.execute(query, params)

        def copy(self, statement: Any, *args: Any, **how: Any) -> Any:
            return _Copying(str(statement), super().copy(statement, *args, **how), said)

    class StreamingCursor(psycopg.ServerCursor[Any]):
        def execute(self, query: Any, params: Any = None, **how: Any) -> Any:
            said.append(Said(str(query), params, -1))
            return super().execute(query, params, **how)

    def connecting(dialect: Any, record: Any, args: Any, options: dict[str, Any]) -> None:
        options["cursor_factory"] = Cursor

    def connected(connection: Any, record: Any) -> None:
        connection.server_cursor_factory = StreamingCursor

    ledger.close()
    event.listen(ledger.engine, "do_connect", connecting)
    event.listen(ledger.engine, "connect", connected)
    event.listen(ledger.engine, "commit", lambda connection: said.append(Said(COMMIT, None, -1)))
    event.listen(ledger.engine, "rollback", lambda connection: said.append(Said(ROLLBACK, None, -1)))
    act(ledger)
    return said


class _Copying:
    """A COPY that is carried out and noted with its rows."""

    def __init__(self, statement: str, copy: Any, said: list[Said]) -> None:
        self._statement, self._copy, self._said = statement, copy, said
        self._rows: list[Any] = []

    def __enter__(self) -> _Copying:
        self._inner = self._copy.__enter__()
        return self

    def write_row(self, row: Any) -> None:
        self._rows.append(list(row))
        self._inner.write_row(row)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        self._said.append(Said(self._statement, self._rows, -1))
        return self._copy.__exit__(kind, error, trace)


def play(url: str, said: Iterable[Said]) -> list[str]:
    """Say the same to the database at this URL; return each statement that touched another number of rows."""
    different = []
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for one in said:
            if one.statement in (COMMIT, ROLLBACK):
                connection.commit() if one.statement == COMMIT else connection.rollback()
            elif one.statement.startswith("COPY "):
                with cursor.copy(one.statement) as copy:
                    for row in one.values:
                        copy.write_row(row)
            else:
                cursor.execute(one.statement, one.values)
                if one.rows not in (-1, cursor.rowcount):
                    different.append(f"{one.rows} rows were touched then, {cursor.rowcount} now: {one.statement}")
    return different


def write(file: Path, revision: str, said: list[Said]) -> None:
    """Write a recording: each statement once, then what was said in which order."""
    statements = list(dict.fromkeys(one.statement for one in said))
    place = {statement: number for number, statement in enumerate(statements)}
    order = [[place[one.statement], one.values, one.rows] for one in said]
    lines = ",\n".join(json.dumps(one, default=_plain, ensure_ascii=False) for one in order)
    head = json.dumps({"revision": revision, "statements": statements}, ensure_ascii=False, indent=1)
    file.write_text(f'{head[:-2]},\n "said": [\n{lines}\n]}}\n', encoding="utf-8")


def read(file: Path) -> list[Said]:
    """Return what a recording holds."""
    recorded = json.loads(file.read_text(encoding="utf-8"))
    return [Said(recorded["statements"][n], _value(values), rows) for n, values, rows in recorded["said"]]


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, timedelta):
        return {"$seconds": value.total_seconds()}
    if isinstance(value, psycopg.Binary):
        return {"$bytes": value.obj.hex()}
    if isinstance(value, Jsonb):
        return {"$json": value.obj}
    raise TypeError(f"a value of {type(value)} can't be recorded yet")


_KINDS: dict[str, Callable[[Any], Any]] = {
    "$time": datetime.fromisoformat,
    "$seconds": lambda seconds: timedelta(seconds=seconds),
    "$bytes": bytes.fromhex,
    "$json": Jsonb,
}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(part) for part in value]
    if isinstance(value, dict):
        kind = next(iter(value), "")
        return _KINDS[kind](value[kind]) if kind in _KINDS else {name: _value(part) for name, part in value.items()}
    return value


if __name__ == "__main__":
    revision, url = sys.argv[1:]
    opened = open_ledger(url)
    with tempfile.TemporaryDirectory() as scratch:
        write(recording(revision), revision, record(opened, lambda ledger: session(ledger, Path(scratch))))
    opened.close()
