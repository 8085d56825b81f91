"""The render worker when something is taken away meanwhile: a consent, a job, its lease, a service."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from face0_worker.contract.errors import ItemFailed, LedgerDown, StorageDown
from face0_worker.contract.job import ItemState
from face0_worker.records import attempts, commits, consents, held, jobs
from face0_worker.records.storage import Storage, picture_key
from face0_worker.records.sweep import sweep_job
from face0_worker.records.tables import attempts as attempts_table
from face0_worker.tasks import RenderWorker
from tests import ledgers
from tests.integration.desk import Asked, Desk, OnStep, Painted, paint, paint_all
from tests.ledgers import GOOD


def test_a_worker_that_lost_its_lease_leaves_no_commit_and_no_picture(desk: Desk) -> None:
    job_id = desk.submit(2)

    def lose(asked: Asked, on_step: OnStep) -> list[Painted]:
        with desk.ledger.transaction() as connection:
            (attempt_id,) = connection.execute(select(attempts_table.c.id)).scalars()
        ledgers.expire_lease(desk.ledger, attempt_id)
        assert attempts.release(desk.ledger, expired=True, crash_limit=3) == [attempt_id]
        return paint_all(asked, on_step)

    desk.render(lose)
    assert ledgers.states(desk.ledger, job_id) == [ItemState.WAITING] * 2
    assert desk.pictures() == []


def test_a_consent_revoked_while_rendering_leaves_no_picture(desk: Desk) -> None:
    job_id = desk.submit(2)

    def revoke(asked: Asked, on_step: OnStep) -> list[Painted]:
        consents.revoke(desk.ledger, "c1")
        return paint_all(asked, on_step)

    desk.render(revoke)
    assert ledgers.states(desk.ledger, job_id) == [ItemState.CANCELLED] * 2
    assert desk.pictures() == []


def test_a_job_cancelled_while_rendering_does_not_take_its_neighbours_along(desk: Desk) -> None:
    cancelled, other = desk.submit(2, "c1"), desk.submit(2, "c2")

    def cancel(asked: Asked, on_step: OnStep) -> list[Painted]:
        jobs.cancel_job(desk.ledger, cancelled)
        return paint_all(asked, on_step)

    desk.render(cancel)
    assert ledgers.states(desk.ledger, cancelled) == [ItemState.CANCELLED] * 2
    assert ledgers.states(desk.ledger, other) == [ItemState.DONE] * 2
    assert len(desk.pictures()) == 2


def test_a_store_that_is_down_for_a_while_costs_no_item(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = desk.submit(2)
    attempt_id = desk.attempt()
    real, failures = type(desk.storage).put, [StorageDown("no answer")] * 3

    def put(self: Storage, key: str, data: bytes, *, if_absent: bool = True) -> bool:
        if failures:
            raise failures.pop()
        return bool(real(self, key, data, if_absent=if_absent))

    monkeypatch.setattr(type(desk.storage), "put", put)
    monkeypatch.setattr("face0_worker.lease.PAUSE_S", 0.01)
    worker = RenderWorker(desk.office, paint_all)
    worker.run(attempt_id)
    worker.close()
    rows = ledgers.item_rows(desk.ledger, job_id)
    assert [(row.state, row.crashes) for row in rows] == [(ItemState.DONE, 0)] * 2


def test_a_picture_left_by_a_worker_that_died_before_its_commit_is_swept(desk: Desk) -> None:
    job_id = desk.submit(1)
    claim = attempts.claim(desk.ledger, desk.attempt(), "w1", 60)
    assert claim is not None
    item = claim.items[0]
    orphan = picture_key(item.subject.consent_id, item.item_key, ledgers.digest("left behind"))
    desk.storage.put(orphan, b"left behind")
    attempts.release(desk.ledger, worker_id="w1", crash_limit=3)
    assert sweep_job(desk.ledger, desk.storage, job_id) == 0  # the item is open: its pictures are not touched
    desk.render(paint_all)
    assert sweep_job(desk.ledger, desk.storage, job_id) == 1
    (row,) = ledgers.item_rows(desk.ledger, job_id)
    assert desk.pictures() == [row.picture_key]


def _away_at_first(monkeypatch: pytest.MonkeyPatch, module: object, name: str, meanwhile: Callable[[], object]) -> None:
    """Let a call of the ledger fail three times as in an outage; `meanwhile` happens in it."""
    real, failures = getattr(module, name), [LedgerDown("no answer")] * 3

    def call(*given: Any, **named: Any) -> Any:
        if failures:
            meanwhile()
            raise failures.pop()
        return real(*given, **named)

    monkeypatch.setattr(module, name, call)
    monkeypatch.setattr("face0_worker.lease.PAUSE_S", 0.01)


@pytest.mark.parametrize("name", ["claim", "renew", "commit", "fail_item", "finish_attempt"])
def test_a_ledger_that_is_away_at_any_call_costs_no_item(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    job_id = desk.submit(3)
    attempt_id = desk.attempt()

    def lease_runs_out() -> None:
        if name != "claim":  # nobody could renew it
            ledgers.expire_lease(desk.ledger, attempt_id)

    _away_at_first(monkeypatch, commits if name == "commit" else attempts, name, lease_runs_out)
    slipped = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + slipped[0], sleep=time.sleep)
    monkeypatch.setattr("face0_worker.lease.time", clock)

    def second_fails(asked: Asked, on_step: OnStep) -> list[Painted]:
        if name == "renew":
            for step in range(8):
                slipped[0] += desk.office.lease_s / 8  # beyond a third of the lease, by the worker's clock
                on_step(step, 8)
        painted = paint_all(asked, on_step)
        painted[1] = Painted(None, None, ItemFailed("no such sampler"))
        return painted

    worker = RenderWorker(desk.office, second_fails)
    worker.run(attempt_id)
    worker.close()
    rows = ledgers.item_rows(desk.ledger, job_id)
    assert [row.state for row in rows] == [ItemState.DONE, ItemState.FAILED, ItemState.DONE]
    assert [(row.crashes, row.solo) for row in rows] == [(0, False)] * 3
    assert len(desk.pictures()) == 2


def test_what_was_taken_away_during_an_outage_is_not_committed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = desk.submit(1)
    attempt_id = desk.attempt()

    def taken() -> None:
        ledgers.expire_lease(desk.ledger, attempt_id)
        attempts.release(desk.ledger, expired=True, crash_limit=3)

    _away_at_first(monkeypatch, commits, "commit", taken)
    worker = RenderWorker(desk.office, paint_all)
    worker.run(attempt_id)
    worker.close()
    assert ledgers.states(desk.ledger, job_id) == [ItemState.WAITING]
    assert desk.pictures() == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker ask at every step which items are still wanted."""
    monkeypatch.setattr("face0_worker.lease.ASK_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_revoked_person_leaves_the_running_batch_at_the_next_step_and_the_others_are_rendered(desk: Desk) -> None:
    gone, stays = desk.submit(2, "c1"), desk.submit(2, "c2")
    calls: list[int] = []

    def revoke_in_the_middle(asked: Asked, on_step: OnStep) -> list[Painted]:
        calls.append(len(asked))
        on_step(1, 3)
        if len(calls) == 1:
            consents.revoke(desk.ledger, "c1")
        on_step(2, 3)
        calls.append(-len(asked))
        return [paint(item) for item, _ in asked]

    desk.render(revoke_in_the_middle)
    # the first call never reached its end; the second was without the person
    assert calls == [4, 2, -2]
    assert ledgers.states(desk.ledger, gone) == [ItemState.CANCELLED] * 2
    assert ledgers.states(desk.ledger, stays) == [ItemState.DONE] * 2
    assert all(key.startswith("pictures/c2/") for key in desk.pictures())


@pytest.mark.usefixtures("impatient")
def test_a_batch_of_nobody_is_left_at_once_and_its_attempt_ends(desk: Desk) -> None:
    job_id = desk.submit(3)
    finished: list[bool] = []

    def revoke_in_the_middle(asked: Asked, on_step: OnStep) -> list[Painted]:
        consents.revoke(desk.ledger, "c1")
        on_step(1, 1000)
        finished.append(True)
        return [paint(item) for item, _ in asked]

    desk.render(revoke_in_the_middle)
    assert not finished
    assert ledgers.states(desk.ledger, job_id) == [ItemState.CANCELLED] * 3
    with desk.ledger.transaction() as connection:
        assert set(connection.execute(select(attempts_table.c.state)).scalars()) == {"finished"}


@pytest.mark.usefixtures("impatient")
def test_a_picture_that_is_revoked_before_it_is_stored_is_not_stored(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.submit(2)
    stored: list[str] = []
    put = type(desk.storage).put

    def watched(storage: Any, key: str, data: bytes, **given: Any) -> bool:
        stored.append(key)
        return put(storage, key, data, **given)

    def revoke_at_the_end(asked: Asked, on_step: OnStep) -> list[Painted]:
        monkeypatch.setattr(type(desk.storage), "put", watched)
        consents.revoke(desk.ledger, "c1")
        return [paint(item) for item, _ in asked]

    desk.render(revoke_at_the_end)
    assert stored == []


@pytest.mark.parametrize(("module", "name"), [(commits, "commit"), (held, "hold_picture")])
def test_a_picture_whose_commit_was_heard_stays_also_where_the_answer_and_then_the_lease_were_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    job_id = desk.submit(1)
    attempt_id = desk.attempt()
    real, answers = getattr(module, name), ["lost"]

    def heard(*given: Any) -> Any:
        if not answers:
            return real(*given)
        real(*given)
        answers.pop()
        ledgers.expire_lease(desk.ledger, attempt_id)
        attempts.release(desk.ledger, expired=True, crash_limit=3)
        raise LedgerDown("no answer")

    monkeypatch.setattr(module, name, heard)
    monkeypatch.setattr("face0_worker.lease.PAUSE_S", 0.01)
    verdict = GOOD if module is commits else replace(GOOD, accepted=False, reason="black")
    worker = RenderWorker(desk.office, lambda asked, _: [replace(paint(item), verdict=verdict) for item, _ in asked])
    worker.run(attempt_id)
    worker.close()
    (row,) = ledgers.item_rows(desk.ledger, job_id)
    assert row.state == (ItemState.DONE if module is commits else ItemState.REJECTED)
    key = row.picture_key or held.get(desk.ledger, row.id).held_key
    assert desk.storage.exists(key)
