"""What of a person the ledger itself could tell, and how it forgets that."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, select, update

from face0_worker.contract.job import ItemState
from face0_worker.records.tables import (
    commits,
    deliveries,
    enrolments,
    faces,
    held_faces,
    held_pictures,
    items,
    jobs,
)


def forget(connection: Connection, consent_id: str) -> None:
    """Empty what was measured on a face or leads to it: face digests, enrolments, verdicts, receipts. Repeatable.

    What stays proves what happened and names no one: the consent's versions with its pseudonym, ids, states, times,
    the digests of generated pictures (by which `face0 verify` tells whoever still has a copy to delete it) and the
    distribution register.
    """
    for table in (faces, enrolments, held_faces, held_pictures):
        connection.execute(delete(table).where(table.c.consent_id == consent_id))
    connection.execute(
        update(commits).where(commits.c.consent_id == consent_id).values(receipt=b"", receipt_key="", verdict={})
    )
    theirs = items.c.job_id.in_(select(jobs.c.id).where(jobs.c.consent_id == consent_id))
    # the sentence tells how much a picture looked like the person
    connection.execute(update(items).where(theirs, items.c.state == ItemState.REJECTED).values(error=None))
    connection.execute(update(jobs).where(jobs.c.consent_id == consent_id).values(face_digest="", face_key=""))


def count_copies(connection: Connection, consent_id: str) -> int:
    """Return how many copies of this person's pictures the distribution register knows."""
    query = select(func.count()).select_from(deliveries).where(deliveries.c.consent_id == consent_id)
    return int(connection.execute(query).scalar_one())
