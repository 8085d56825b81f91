"""Which models workers offer, and which of them live."""

from __future__ import annotations

import socket
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from face0_worker.contract.errors import ModelMissing
from face0_worker.contract.job import ITEM_FORM
from face0_worker.contract.pace import Pace, read_paces
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import models

# a worker offers its models again every few seconds; one that is silent for longer is gone
LIVE_S = 30


@dataclass(frozen=True)
class Worker:
    """A worker as its offer of one model tells it; host, device and version are "" and `first_seen_at` is None where
    the worker's program is too old to say them. Times are UTC by the ledger's clock.

    `paces`: what it has measured of itself, a size each.
    """

    worker_id: str
    host: str
    device: str
    version: str
    model: str
    digest: str
    first_seen_at: datetime | None
    seen_at: datetime
    paces: tuple[Pace, ...] = ()


@dataclass(frozen=True)
class ModelOffer:
    """A model that a worker has offered. `live`: some worker offers it now. `facts` is what face0.json says."""

    digest: str
    name: str
    facts: dict[str, Any]
    live: bool


def offer_model(ledger: Ledger, worker_id: str, digest: str, name: str, facts: dict[str, Any]) -> None:
    """Say that this worker renders with this model; also its heartbeat, to be repeated well within LIVE_S seconds.

    The ledger also notes this machine's name, the version of this program, which items it can read and the device
    (`facts["device"]`).
    """
    told = {
        "name": name,
        "facts": {**facts, "item_form": ITEM_FORM},
        **_machine(),
        "device": str(facts.get("device", "")),
    }
    row = {"worker_id": worker_id, "digest": digest, **told}
    fresh = {**told, "seen_at": func.now(), "withdrawn": False}
    with ledger.transaction() as connection:
        connection.execute(
            upsert(models).values(row).on_conflict_do_update(index_elements=["worker_id", "digest"], set_=fresh)
        )


@cache
def _machine() -> dict[str, str]:
    return {"host": socket.gethostname(), "version": version("face0")}


def withdraw_offers(ledger: Ledger, worker_id: str) -> None:
    """Say that this worker renders no more. Its models stay known, so that jobs can wait for another worker."""
    with ledger.transaction() as connection:
        connection.execute(update(models).where(models.c.worker_id == worker_id).values(withdrawn=True))


def is_live() -> ColumnElement[bool]:
    """Return the condition that an offer stands now."""
    return ~models.c.withdrawn & (models.c.seen_at > func.now() - text(f"interval '{LIVE_S} seconds'"))


def find_model(ledger: Ledger, name_or_digest: str | None) -> ModelOffer:
    """Return the newest offer with this name, digest or beginning of a digest (None: any), a live one first.

    Raises: ModelMissing: no worker has ever offered it.
    """
    live = is_live()
    query = select(models, live.label("live")).order_by(live.desc(), models.c.seen_at.desc()).limit(1)
    if name_or_digest is not None:
        starts = func.starts_with(models.c.digest, name_or_digest)
        query = query.where(or_(models.c.name == name_or_digest, starts))
    with ledger.transaction() as connection:
        row = connection.execute(query).first()
    if row is None:
        asked = f"model {name_or_digest}" if name_or_digest else "any model"
        raise ModelMissing(f"no worker has ever offered {asked}; start one with `face0-worker run`")
    return ModelOffer(row.digest, row.name, row.facts, row.live)


def list_workers(ledger: Ledger) -> list[Worker]:
    """Return the workers that live now, by host, with each model that they offer."""
    named = [models.c[field.name] for field in fields(Worker) if field.name not in ("model", "paces")]
    query = select(models.c.name.label("model"), models.c.facts, *named).where(is_live())
    with ledger.transaction() as connection:
        rows = connection.execute(query.order_by(models.c.host, models.c.worker_id, models.c.digest))
        return [_worker(**row._mapping) for row in rows]


def _worker(facts: dict[str, Any], **told: Any) -> Worker:
    return Worker(**told, paces=read_paces(facts))


def live_workers(ledger: Ledger) -> dict[str, int]:
    """Return how many live workers offer each model digest."""
    query = select(models.c.digest, func.count().label("workers")).where(is_live()).group_by(models.c.digest)
    with ledger.transaction() as connection:
        return {row.digest: row.workers for row in connection.execute(query)}


def live_paces(ledger: Ledger) -> dict[str, list[tuple[Pace, ...]]]:
    """Return what the live workers of each model digest have measured of themselves."""
    query = select(models.c.digest, models.c.facts).where(is_live(), models.c.facts.has_key("paces"))
    found: dict[str, list[tuple[Pace, ...]]] = {}
    with ledger.transaction() as connection:
        for row in connection.execute(query):
            found.setdefault(row.digest, []).append(read_paces(row.facts))
    return found
