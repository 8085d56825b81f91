"""Pictures kept from an identical earlier item are judged by the bars of the job that would keep them.

The earlier picture is not made again: there is one commit for each item key (promise P2). What was measured on it then
is held against the bars of now.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.bars import Bars, judge, told
from face0_worker.contract.job import ItemState
from face0_worker.contract.receipt import Verdict
from face0_worker.records import webhooks
from face0_worker.records.tables import commits, held_pictures, items, jobs

_AT_ONCE = 1000


def reject_kept(connection: Connection, wanted: ColumnElement[bool]) -> set[int]:
    """End those of the wanted items as rejected whose committed picture is below their job's bars; return their ids.

    They wait for a human (`review`) like any rejected picture.
    """
    query = (
        select(items.c.id, items.c.job_id, items.c.item_key, jobs.c.consent_id, jobs.c.bars, commits.c.verdict)
        .select_from(items.join(jobs).join(commits, commits.c.item_key == items.c.item_key))
        .where(wanted, commits.c.purged_at.is_(None), jobs.c.bars != literal_column("'{}'::jsonb"))
    )
    below = []
    for row in connection.execute(query.execution_options(yield_per=_AT_ONCE)):
        bars = Bars.from_json(row.bars)
        verdict = judge(Verdict(**row.verdict), bars)
        if not verdict.accepted:
            below.append((row, verdict, told(verdict, bars)))
    for row, verdict, sentence in below:
        _reject(connection, row, verdict, f"kept from an earlier job: {sentence}")
    return {row.id for row, _, _ in below}


def _reject(connection: Connection, row: Any, verdict: Verdict, sentence: str) -> None:
    end = {"state": ItemState.REJECTED, "error_code": verdict.reason, "error": sentence}
    connection.execute(update(items).where(items.c.id == row.id).values(end))
    held = {"item_id": row.id, "job_id": row.job_id, "consent_id": row.consent_id, "verdict": asdict(verdict)}
    connection.execute(upsert(held_pictures).values(held).on_conflict_do_nothing())
    about = {"job_id": row.job_id, "item_key": row.item_key}
    webhooks.emit(connection, webhooks.WebhookEvent.ITEM_REJECTED, about)
