"""Erase pictures that were stored but never committed: what a worker left that died between the two."""

from __future__ import annotations

from sqlalchemy import exists, select

from face0_worker.records.ledger import Ledger
from face0_worker.records.storage import Storage, item_prefix
from face0_worker.records.tables import OPEN, TO_COMMIT, commits, held_pictures, items, jobs


def sweep_job(ledger: Ledger, storage: Storage, job_id: str) -> int:
    """Erase the uncommitted pictures of a job's items that were tried more than once; return how many there were.

    Safe at any moment: what is listed first and has neither a commit, an open item nor an acceptance to be carried out
    afterwards can't get a commit.
    """
    tried_again = (
        select(items.c.item_key, jobs.c.consent_id)
        .join(jobs)
        .where(items.c.job_id == job_id, items.c.attempts > 1)
        .order_by(items.c.id)
    )
    with ledger.transaction() as connection:
        suspects = list(connection.execute(tried_again))
    return sum(_sweep_item(ledger, storage, row.consent_id, row.item_key) for row in suspects)


def _sweep_item(ledger: Ledger, storage: Storage, consent_id: str, item_key: str) -> int:
    stored = list(storage.list(item_prefix(consent_id, item_key)))
    if not stored:
        return 0
    with ledger.transaction() as connection:
        accepted = exists().where(held_pictures.c.item_id == items.c.id, TO_COMMIT)
        query = select(items.c.id).where(items.c.item_key == item_key, OPEN | accepted).limit(1)
        at_work = connection.execute(query).first()
        mine = commits.c.item_key == item_key
        committed = set(connection.execute(select(commits.c.picture_key).where(mine)).scalars())
    orphans = [] if at_work else [key for key in stored if key not in committed]
    for key in orphans:
        storage.delete(key)
    return len(orphans)
