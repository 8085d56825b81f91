"""Jobs: created, paused, cancelled, tried again, finished. Reading them is `progress`, model offers are `offers`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from sqlalchemy import ColumnElement, Connection, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.consent import PICTURES
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.contract.job import CatalogueJob, ItemState, RenderItem, canonical_json, item_key
from face0_worker.records import audit, consent_changes, consents, webhooks
from face0_worker.records.kept import reject_kept
from face0_worker.records.ledger import Ledger, lock_items
from face0_worker.records.offers import ModelOffer as ModelOffer
from face0_worker.records.offers import find_model as find_model
from face0_worker.records.offers import live_workers as live_workers
from face0_worker.records.offers import offer_model as offer_model
from face0_worker.records.offers import withdraw_offers as withdraw_offers
from face0_worker.records.progress import ItemRow as ItemRow
from face0_worker.records.progress import JobStatus as JobStatus
from face0_worker.records.progress import job_items as job_items
from face0_worker.records.progress import job_status as job_status
from face0_worker.records.progress import list_jobs as list_jobs
from face0_worker.records.storage import check_id
from face0_worker.records.tables import IN_FLIGHT, OPEN, WAITING, commits, faces, items, jobs

# after so many new rows PostgreSQL's picture of the table is wrong, and autovacuum takes a minute to come by
MANY_ITEMS = 5000
_KEYS_AT_ONCE = 5000
_ITEMS_AT_ONCE = 500


def create_job(ledger: Ledger, job: CatalogueJob, face_key: str) -> tuple[str, bool]:
    """Write the job and its items in one transaction; return its id and True.

    The items are read once, one at a time, into the ledger: a million need no memory here, and if one is wrong, or
    reading them raises, nothing of the job remains. A repeated idempotency key of the same submitter returns the first
    job's id and False. Items whose key is committed already are done at once and marked kept, or rejected
    where what was measured on that picture is below the job's bars.
    Raises: BadInput: no items, the same item twice, or the idempotency key stands for another list.
    ConsentRefused: the consent does not allow the purpose (also for kept items).
    """
    check_id(job.id)
    if job.purpose not in PICTURES:
        raise BadInput(f"purpose {job.purpose!r} is not known; choose from {', '.join(PICTURES)}")
    refused: ConsentRefused | None = None
    with ledger.transaction() as connection:
        content = _Content(job)
        if not _insert_job(connection, job, face_key):
            return _earlier(connection, job, content), False
        _copy_items(connection, job, content)
        change = {"content": content.digest(), "total": content.total}
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(change))
        _refuse_equal_items(connection, job.id)
        # Before the consent is locked, too: a picture is purged by its consent's revocation only, which is seen below.
        if job.bars.to_json():
            reject_kept(connection, (items.c.job_id == job.id) & WAITING)
        kept = _keep_committed(connection, job.id)
        # The last step, under the lock that a revocation waits for: a revocation before it is seen here, one after
        # it finds the job. Locked only now, because a million items take a while to write and to keep.
        use = consents.job_use(job)
        record, decision = consents.decide_now(connection, job.subject.consent_id, use, share=True)
        if decision.allowed and record is not None and record.terms.by_item:
            decision = consent_changes.first_refusal(connection, record, job)
        if decision.allowed:
            facts = {"job_id": job.id, "consent_id": job.subject.consent_id, "purpose": job.purpose}
            audit.append(connection, "job.created", {**facts, "items": content.total, "kept": kept})
        else:
            refused = ConsentRefused(decision.english, decision.code)
            connection.get_transaction().rollback()  # type: ignore[union-attr]
    if refused is not None:
        with ledger.transaction() as connection:
            consents.note_refusal(connection, record, job.purpose, "submit", refused.code)
        raise refused
    if content.total >= MANY_ITEMS:
        with ledger.transaction() as connection:
            connection.execute(text("ANALYZE items"))
    return job.id, True


class _Content:
    """The digest of what a job asks for, taken while its items go by: canonical JSON of [purpose, [key, ...]].

    Where a campaign, channel or territory is named, [purpose, campaign, channel, territory] stands for the purpose.
    """

    def __init__(self, job: CatalogueJob) -> None:
        self._job, self.total = job, 0
        place = [job.campaign, job.channel, job.territory]
        asked = [job.purpose, *place] if any(place) else job.purpose
        self._sha256 = hashlib.sha256(b"[" + canonical_json(asked) + b",[")

    def keyed(self) -> Iterator[tuple[str, RenderItem]]:
        """Yield each item with its key. Raises: BadInput: an item that no ledger can hold, or no items."""
        for item in self._job.items:
            try:
                key = item_key(self._job.subject, item)
                item.sku.encode()
            except ValueError as error:
                raise BadInput(f"item {self.total + 1}: not a number, or broken Unicode in a text") from error
            if "\0" in item.sku + item.variant + item.prompt + item.negative_prompt:
                raise BadInput(f"item {self.total + 1}: a text holds the character NUL")
            self._sha256.update((b"," if self.total else b"") + canonical_json(key))
            self.total += 1
            yield key, item
        if not self.total:
            raise BadInput("the job has no items; nothing was enqueued")

    def digest(self) -> str:
        """Return the sha256 hex of the items that have gone by."""
        whole = self._sha256.copy()
        whole.update(b"]]")
        return whole.hexdigest()


def _insert_job(connection: Connection, job: CatalogueJob, face_key: str) -> bool:
    """Write the job's row; its content and total are known and set when its items have been written."""
    subject = job.subject
    row = {
        "id": job.id,
        "consent_id": subject.consent_id,
        "face_digest": subject.face_digest,
        "model_digest": subject.model_digest,
        "embedder_digest": subject.embedder_digest,
        "face_policy": subject.face_policy,
        "face_key": face_key,
        "purpose": job.purpose,
        "priority": int(job.priority),
        "catalogue": job.catalogue,
        "submitter": job.submitter,
        "idempotency_key": job.idempotency_key or None,
        "content": "",
        "total": 0,
        "campaign": job.campaign,
        "channel": job.channel,
        "territory": job.territory,
        "bars": job.bars.to_json(),
    }
    written = connection.execute(upsert(jobs).values(row).on_conflict_do_nothing().returning(jobs.c.id)).first()
    if written is None:
        return False
    face = {"consent_id": subject.consent_id, "digest": subject.face_digest, "face_key": face_key}
    connection.execute(upsert(faces).values(face).on_conflict_do_nothing())
    return True


def _earlier(connection: Connection, job: CatalogueJob, content: _Content) -> str:
    same_key = (jobs.c.submitter == job.submitter) & (jobs.c.idempotency_key == job.idempotency_key)
    row = connection.execute(select(jobs.c.id, jobs.c.content).where(same_key)).first()
    if row is None:
        raise BadInput(f"job {job.id} exists already")
    for _ in content.keyed():
        pass
    if row.content != content.digest():
        raise BadInput(f"this idempotency key was used for another list (job {row.id}); choose a new key")
    return str(row.id)


def _copy_items(connection: Connection, job: CatalogueJob, content: _Content) -> None:
    columns = "COPY items (job_id, position, item_key, sku, variant, spec) FROM STDIN"
    driver = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the ledger's connection was closed inside its transaction")
    with driver.cursor() as cursor, cursor.copy(columns) as copy:
        for position, (key, item) in enumerate(content.keyed()):
            spec = canonical_json(item.to_json()).decode()
            copy.write_row((job.id, position, key, item.sku, item.variant, spec))


def _refuse_equal_items(connection: Connection, job_id: str) -> None:
    theirs = items.c.job_id == job_id
    twice = select(items.c.item_key).where(theirs).group_by(items.c.item_key).having(func.count() > 1)
    first = connection.execute(twice.order_by(func.min(items.c.position)).limit(1)).scalar()
    if first is None:
        return
    places = select(items.c.position).where(theirs, items.c.item_key == first).order_by(items.c.position).limit(2)
    one, other = connection.execute(places).scalars()
    raise BadInput(
        f"items {one + 1} and {other + 1} of the list are the same picture; "
        "remove one, or give it another seed. Nothing was enqueued"
    )


def count_kept(ledger: Ledger, item_keys: Iterable[str]) -> int:
    """Return for how many of these keys a picture stands committed; reads the keys a few thousand at once."""
    keys, kept = iter(item_keys), 0
    while some := list(islice(keys, _KEYS_AT_ONCE)):
        query = select(func.count()).where(commits.c.item_key == func.any(some), commits.c.purged_at.is_(None))
        with ledger.transaction() as connection:
            kept += connection.execute(query).scalar_one()
    return kept


def left_to_render(ledger: Ledger, keyed: Iterable[tuple[str, RenderItem]]) -> Iterator[RenderItem]:
    """Yield the items, given with their keys, of which no picture stands committed; asked some hundred at once."""
    rest = iter(keyed)
    while some := list(islice(rest, _ITEMS_AT_ONCE)):
        keys = [key for key, _ in some]
        query = select(commits.c.item_key).where(commits.c.item_key == func.any(keys), commits.c.purged_at.is_(None))
        with ledger.transaction() as connection:
            kept = set(connection.execute(query).scalars())
        yield from (item for key, item in some if key not in kept)


def _keep_committed(connection: Connection, job_id: str) -> int:
    return connection.execute(
        update(items)
        .where(items.c.job_id == job_id, WAITING, items.c.item_key == commits.c.item_key, commits.c.purged_at.is_(None))
        .values(
            state=ItemState.DONE, kept=True, picture_key=commits.c.picture_key, picture_sha256=commits.c.picture_sha256
        )
    ).rowcount


def cancel_job(ledger: Ledger, job_id: str, skus: Collection[str] = ()) -> int:
    """End every open item of the job as cancelled, also one that is being rendered; return how many.

    With `skus` only the items of those, in all their variants, and the job goes on with the others.
    Raises: BadInput: no such job, or it has no such SKU; then nothing is cancelled.
    """
    with ledger.transaction() as connection:
        state = _lock_job(connection, job_id)
        theirs = items.c.job_id == job_id
        if skus:
            _require_skus(connection, job_id, skus)
            theirs &= items.c.sku.in_(skus)
        lock_items(connection, theirs & OPEN)
        why = "its SKU was cancelled" if skus else "the job was cancelled"
        cancelled = connection.execute(
            update(items).where(theirs, OPEN).values(state=ItemState.CANCELLED, error_code="cancelled", error=why)
        ).rowcount
        if not skus and state in ("active", "paused"):
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(state="cancelled"))
        audit.append(connection, "job.cancelled", {"job_id": job_id, "items": cancelled, "whole": not skus})
        return cancelled


def _require_skus(connection: Connection, job_id: str, skus: Collection[str]) -> None:
    query = select(items.c.sku).where(items.c.job_id == job_id, items.c.sku.in_(skus)).distinct()
    missing = sorted(set(skus) - set(connection.execute(query).scalars()))
    if missing:
        raise BadInput(f"{job_id} has no SKU {', '.join(missing[:5])}; `face0 results pull` and the list show them")


def pause_job(ledger: Ledger, job_id: str) -> None:
    """Stop dispatching the job; what a worker has begun is finished. Raises: BadInput: no such job, or it ended."""
    with ledger.transaction() as connection:
        _change(connection, job_id, "paused")
        unbegun = (items.c.job_id == job_id) & IN_FLIGHT & (items.c.state == ItemState.DISPATCHED)
        lock_items(connection, unbegun)
        connection.execute(update(items).where(unbegun).values(state=ItemState.WAITING, attempt_id=None))


def resume_job(ledger: Ledger, job_id: str) -> None:
    """Dispatch a paused job again. Raises: BadInput: no such job, or it ended."""
    with ledger.transaction() as connection:
        _change(connection, job_id, "active")


def retry_failed(ledger: Ledger, job_id: str) -> int:
    """Let the job's failed items wait again with a clean count, and its manifest be written again; return how many.

    Raises: BadInput: no such job.
    """
    with ledger.transaction() as connection:
        state = _lock_job(connection, job_id)
        failed = (items.c.job_id == job_id) & (items.c.state == ItemState.FAILED)
        lock_items(connection, failed)
        again = connection.execute(
            update(items)
            .where(failed)
            .values(state=ItemState.WAITING, attempt_id=None, attempts=0, crashes=0, error_code=None, error=None)
        ).rowcount
        if again:
            open_again = {
                "state": "paused" if state == "paused" else "active",
                "finished_at": None,
                "manifest_key": None,
                "reopened": jobs.c.reopened + 1,
            }
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(open_again))
        return again


def _lock_job(connection: Connection, job_id: str) -> str:
    query = select(jobs.c.state).where(jobs.c.id == job_id).with_for_update(key_share=True)
    state = connection.execute(query).scalar_one_or_none()
    if state is None:
        raise BadInput("no such job is known; `face0 status` lists them")
    return str(state)


def _change(connection: Connection, job_id: str, state: str) -> None:
    now = _lock_job(connection, job_id)
    if now not in ("active", "paused"):
        raise BadInput(f"job {job_id} is {now} already; it can't become {state}")
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(state=state))


def _all_ended() -> ColumnElement[bool]:
    # the first one through its index, once a job: PostgreSQL answers EXISTS by reading all that wait, a million perhaps
    first = select(items.c.position).where(items.c.job_id == jobs.c.id, WAITING).order_by(items.c.position).limit(1)
    waiting = first.scalar_subquery().is_not(None)
    in_flight = exists().where(items.c.job_id == jobs.c.id, IN_FLIGHT)
    return ~waiting & ~in_flight


def finish_jobs(ledger: Ledger) -> dict[str, int]:
    """Return the jobs whose last item has ended and that have no manifest yet; the caller writes it.

    With each job how often it was reopened, by which `mark_finished` tells whether that happened while its manifest
    was written.
    """
    query = select(jobs.c.id, jobs.c.reopened)
    query = query.where(jobs.c.manifest_key.is_(None), _all_ended()).order_by(jobs.c.created_at)
    with ledger.transaction() as connection:
        return {row.id: row.reopened for row in connection.execute(query)}


def mark_finished(ledger: Ledger, job_id: str, manifest_key: str, reopened: int | None = None) -> bool:
    """Note that the job's manifest stands. False when something changed in between: write it anew later.

    An item was opened again; or, as `reopened` differs, a rejected picture was accepted.
    """
    done = {"manifest_key": manifest_key, "finished_at": func.now()}
    finished = func.replace(func.replace(jobs.c.state, "active", "finished"), "paused", "finished")
    change = update(jobs).where(jobs.c.id == job_id, _all_ended()).values(done | {"state": finished})
    if reopened is not None:
        change = change.where(jobs.c.reopened == reopened)
    with ledger.transaction() as connection:
        if connection.execute(change).rowcount != 1:
            return False
        webhooks.emit_job_ended(connection, job_id)
        return True
