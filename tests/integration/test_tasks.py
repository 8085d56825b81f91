"""The render worker on a real ledger, vault and storage; only the renderer is a stand-in."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, select

from face0_worker.contract.errors import ConsentRefused, ItemFailed, LedgerDown
from face0_worker.contract.job import ItemState
from face0_worker.records import commits, jobs, release
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import read_reference, verify_receipt
from face0_worker.records.storage import Storage
from face0_worker.records.tables import audit_outbox
from face0_worker.tasks import RenderWorker
from tests import ledgers
from tests.integration.desk import FACE, Asked, Desk, OnStep, Painted, paint_all
from tests.ledgers import GOOD, Broker


def test_every_item_is_committed_with_a_receipt_about_its_bytes(desk: Desk) -> None:
    job_id = desk.submit(3)
    desk.render(paint_all)
    rows = ledgers.item_rows(desk.ledger, job_id)
    assert [row.state for row in rows] == [ItemState.DONE] * 3
    for row in rows:
        assert row.picture_key is not None
        commit = commits.find_commit(desk.ledger, item_key=row.item_key)
        assert commit is not None
        receipt = verify_receipt(commit.receipt, desk.office.signer.public_key)
        assert receipt.picture_sha256 == row.picture_sha256
        assert (receipt.width, receipt.height) == (64, 64)  # of the picture, whatever its list said
        picture = desk.storage.get(row.picture_key)
        assert hashlib.sha256(picture).hexdigest() == row.picture_sha256
        assert read_reference(picture) == row.item_key


def test_the_renderer_gets_the_face_that_was_sealed(desk: Desk) -> None:
    desk.submit(1)
    seen: list[np.ndarray] = []

    def look(asked: Asked, on_step: OnStep) -> list[Painted]:
        seen.extend(face for _, face in asked)
        return paint_all(asked, on_step)

    desk.render(look)
    np.testing.assert_array_equal(seen, [FACE])


def test_an_item_that_fails_does_not_take_its_neighbours_along(desk: Desk) -> None:
    job_id = desk.submit(3)

    def second_fails(asked: Asked, on_step: OnStep) -> list[Painted]:
        painted = paint_all(asked, on_step)
        painted[1] = Painted(None, None, ItemFailed("no such sampler"))
        return painted

    desk.render(second_fails)
    assert ledgers.states(desk.ledger, job_id) == [ItemState.DONE, ItemState.FAILED, ItemState.DONE]
    assert [row.error for row in jobs.job_items(desk.ledger, job_id)] == [None, "no such sampler", None]


def test_a_rejected_picture_is_not_stored(desk: Desk) -> None:
    job_id = desk.submit(1)
    black = replace(GOOD, accepted=False, reason="black")
    desk.render(lambda asked, on_step: [Painted(np.zeros((64, 64, 3), np.uint8), black)])
    assert ledgers.states(desk.ledger, job_id) == [ItemState.REJECTED]
    assert desk.pictures() == []


def test_a_face_whose_key_is_destroyed_is_never_rendered(desk: Desk) -> None:
    job_id = desk.submit(2)
    desk.office.vault.destroy("c1")

    def never(asked: Asked, on_step: OnStep) -> list[Painted]:
        raise AssertionError("rendered without a key")

    desk.render(never)
    assert ledgers.states(desk.ledger, job_id) == [ItemState.CANCELLED] * 2


def test_people_of_different_jobs_share_one_batch(desk: Desk) -> None:
    first, second = desk.submit(2, "c1"), desk.submit(2, "c2")
    sizes: list[int] = []

    def count(asked: Asked, on_step: OnStep) -> list[Painted]:
        sizes.append(len(asked))
        return paint_all(asked, on_step)

    desk.render(count)
    assert sizes == [4]
    assert ledgers.states(desk.ledger, first) == ledgers.states(desk.ledger, second) == [ItemState.DONE] * 2


def test_a_worker_that_was_told_to_stop_claims_nothing_more(desk: Desk) -> None:
    job_id = desk.submit(1)
    worker = RenderWorker(desk.office, paint_all)
    worker.stop()
    worker.run(desk.attempt())
    worker.close()
    assert ledgers.states(desk.ledger, job_id) == [ItemState.DISPATCHED]


def test_an_error_nobody_expected_reaches_the_caller_who_ends_the_process(desk: Desk) -> None:
    desk.submit(1)

    def broken(asked: Asked, on_step: OnStep) -> list[Painted]:
        raise RuntimeError("CUDA error")

    with pytest.raises(RuntimeError):
        desk.render(broken)


def test_nothing_is_rendered_beside_an_item_that_goes_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies of one batch must not be held against a solo item that was being written."""
    desk.submit(2)
    desk.render_and_lose()
    broker = Broker()
    ledgers.dispatch_once(desk.ledger, broker, batch_size=8, window=2)
    alone = broker.take()
    assert len(alone) == 2
    real, log = type(desk.storage).put, []

    def put(self: Storage, key: str, data: bytes, *, if_absent: bool = True) -> bool:
        log.append("write")
        time.sleep(0.3)
        stored = bool(real(self, key, data, if_absent=if_absent))
        log.append("written")
        return stored

    def paint_logged(asked: Asked, on_step: OnStep) -> list[Painted]:
        log.append("render")
        return paint_all(asked, on_step)

    monkeypatch.setattr(type(desk.storage), "put", put)
    worker = RenderWorker(desk.office, paint_logged)
    with ThreadPoolExecutor(2) as hands:
        list(hands.map(worker.run, alone))
    worker.close()
    assert log == ["render", "write", "written"] * 2


def test_no_key_is_used_without_a_consent_and_every_use_is_audited(desk: Desk) -> None:
    desk.submit(2)
    attempt_id = desk.attempt()
    worker = RenderWorker(desk.office, paint_all)
    worker.run(attempt_id)
    worker.close()
    with desk.ledger.transaction() as connection:
        query = select(audit_outbox.c.body).where(audit_outbox.c.kind == "face.opened")
        (body,) = connection.execute(query).scalars()
    assert body == {"consent_id": "c1", "epoch": 1, "purpose": "catalogue", "by": "w1"}
    (key,) = list(desk.storage.list("faces/c1/"))
    ledgers.end_consent_now(desk.ledger, "c1")
    opened = partial(release.open_face, desk.ledger, desk.office.vault, "c1", "catalogue", desk.storage.get(key))
    with pytest.raises(ConsentRefused, match="expired"):
        opened(digest=Path(key).stem, by="w1")
    away = Ledger(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", connect_args={"connect_timeout": 1}))
    with pytest.raises(LedgerDown):
        release.open_face(away, desk.office.vault, "c1", "catalogue", b"", digest="", by="w1")
