"""The render worker on a real ledger, vault and storage; only the renderer is a stand-in."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, select

from face0_worker.contract.errors import ConsentRefused, Face0Error, ItemFailed, LedgerDown, StorageDown
from face0_worker.contract.job import CatalogueJob, ItemState, Priority, RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.faces.skin import Lab
from face0_worker.office import Office
from face0_worker.records import attempts, commits, consents, held, jobs, release
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer, read_reference, verify_receipt
from face0_worker.records.storage import Storage, face_key, open_storage, picture_key
from face0_worker.records.sweep import sweep_job
from face0_worker.records.tables import attempts as attempts_table
from face0_worker.records.tables import audit_outbox
from face0_worker.records.vault import Vault, seal_face
from face0_worker.tasks import RenderWorker
from tests import ledgers
from tests.ledgers import GOOD, Broker

FACE = np.random.default_rng(5).standard_normal(128).astype(np.float32)


@dataclass(frozen=True)
class Painted:
    """What a stand-in renderer says of one item."""

    pixels: np.ndarray | None
    verdict: Verdict | None = GOOD
    error: Face0Error | None = None
    skin: Lab | None = None


Asked = Sequence[tuple[RenderItem, np.ndarray]]
OnStep = Callable[[int, int], None]


def paint(item: RenderItem) -> Painted:
    """A picture in one colour that depends on the seed."""
    return Painted(np.full((64, 64, 3), item.seed % 200 + 20, np.uint8))


def paint_all(asked: Asked, on_step: OnStep) -> list[Painted]:
    on_step(1, 1)
    return [paint(item) for item, _ in asked]


@dataclass
class Desk:
    """A worker's office with one person's face in it."""

    ledger: Ledger
    office: Office
    storage: Storage

    def submit(self, count: int, consent_id: str = "c1") -> str:
        """Enqueue `count` items of a consenting person whose face is sealed, and offer the model."""
        if consents.get(self.ledger, consent_id) is None:
            ledgers.give_consent(self.ledger, consent_id)
            self.office.vault.new_key(consent_id)
        digest, sealed = seal_face(self.office.vault, consent_id, b"photo", FACE)
        key = face_key(consent_id, digest)
        self.storage.put(key, sealed)
        subject = replace(ledgers.subject(consent_id), face_digest=digest)
        job = CatalogueJob(
            id=f"job-{consent_id}-{count}",
            subject=subject,
            purpose="catalogue",
            priority=Priority.NORMAL,
            items=ledgers.some_items(count),
        )
        return jobs.create_job(self.ledger, job, key)[0]

    def attempt(self) -> str:
        """Dispatch and return the one attempt that was sent."""
        broker = Broker()
        ledgers.dispatch_once(self.ledger, broker, batch_size=8, window=1)
        (attempt_id,) = broker.take()
        return attempt_id

    def render(self, renderer: Callable[[Asked, OnStep], Sequence[Painted]]) -> None:
        """Run one attempt with this renderer."""
        worker = RenderWorker(self.office, renderer)
        worker.run(self.attempt())
        worker.close()

    def render_and_lose(self) -> None:
        """Claim what waits as a worker that then dies: its items go alone from now on."""
        assert attempts.claim(self.ledger, self.attempt(), "w0", 60) is not None
        assert len(attempts.release(self.ledger, worker_id="w0", crash_limit=3)) == 1

    def pictures(self) -> list[str]:
        """The keys of all stored pictures."""
        return list(self.storage.list("pictures/"))


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    storage = open_storage(str(tmp_path / "storage"))
    office = Office(
        ledger=ledger,
        storage=storage,
        vault=Vault.create(tmp_path / "vault"),
        signer=Signer.create(tmp_path / "keys"),
        worker_id="w1",
        lease_s=60,
    )
    return Desk(ledger, office, storage)


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


def test_a_face_whose_key_is_destroyed_is_never_rendered(desk: Desk) -> None:
    job_id = desk.submit(2)
    desk.office.vault.destroy("c1")

    def never(asked: Asked, on_step: OnStep) -> list[Painted]:
        raise AssertionError("rendered without a key")

    desk.render(never)
    assert ledgers.states(desk.ledger, job_id) == [ItemState.CANCELLED] * 2


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


def test_people_of_different_jobs_share_one_batch(desk: Desk) -> None:
    first, second = desk.submit(2, "c1"), desk.submit(2, "c2")
    sizes: list[int] = []

    def count(asked: Asked, on_step: OnStep) -> list[Painted]:
        sizes.append(len(asked))
        return paint_all(asked, on_step)

    desk.render(count)
    assert sizes == [4]
    assert ledgers.states(desk.ledger, first) == ledgers.states(desk.ledger, second) == [ItemState.DONE] * 2


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
