"""The quality gate in the line: bars, second chances, pictures held for a human, acceptance; on real parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from face0_worker.accept import Acceptor
from face0_worker.contract.bars import Bars, retry_seed
from face0_worker.contract.errors import BadInput, ConsentRefused, Face0Error, ItemFailed
from face0_worker.contract.job import CatalogueJob, ItemState, Priority, RenderItem
from face0_worker.contract.receipt import Receipt, Verdict
from face0_worker.faces.skin import Lab
from face0_worker.office import Office
from face0_worker.records import acceptances, audit, commits, consents, held, jobs, review
from face0_worker.records.erasure import Eraser
from face0_worker.records.jobs import finish_jobs
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer, read_reference, verify_receipt
from face0_worker.records.storage import Storage, face_key, open_storage, picture_key
from face0_worker.records.sweep import sweep_job
from face0_worker.records.tables import audit_outbox
from face0_worker.records.tables import consents as consents_table
from face0_worker.records.tables import items as items_table
from face0_worker.records.vault import Vault, seal_face
from face0_worker.tasks import RenderWorker
from producer.sources import Source
from tests import ledgers
from tests.ledgers import Broker

FACE = np.random.default_rng(5).standard_normal(128).astype(np.float32)
SKIN = (60.0, 10.0, 15.0)
BARS = Bars(face=True, second_face=0.4, identity=0.2, sharpness=0.3, skin_drift=20.0, retries=2)


@dataclass(frozen=True)
class Painted:
    """What a stand-in renderer says of one item."""

    pixels: np.ndarray | None
    verdict: Verdict | None
    error: Face0Error | None = None
    skin: Lab | None = SKIN


Asked = Sequence[tuple[RenderItem, np.ndarray]]


@dataclass
class Painter:
    """Paints each seed in a colour of its own; `likeness` says how much a seed looks like the person."""

    likeness: Callable[[RenderItem], float | Face0Error]
    skin: Lab | None = SKIN
    batches: list[list[int]] = field(default_factory=list)

    def __call__(self, asked: Asked, on_step: Callable[[int, int], None]) -> list[Painted]:
        """Render, and remember which seeds went together."""
        on_step(1, 1)
        self.batches.append([item.seed for item, _ in asked])
        return [self._paint(item) for item, _ in asked]

    def _paint(self, item: RenderItem) -> Painted:
        likeness = self.likeness(item)
        if isinstance(likeness, Face0Error):
            return Painted(None, None, likeness)
        verdict = Verdict(True, "ok", 1, likeness, 0.5, 0.2, sharpness=0.5)
        return Painted(np.full((64, 64, 3), item.seed % 200 + 20, np.uint8), verdict, skin=self.skin)


@dataclass
class Desk:
    """A worker's office, and a person whose face is sealed in it."""

    ledger: Ledger
    office: Office
    storage: Storage

    def submit(self, count: int, bars: Bars = BARS, *, skin: Lab | None = SKIN, name: str = "job") -> str:
        """Enqueue `count` items."""
        if consents.get(self.ledger, "c1") is None:
            ledgers.give_consent(self.ledger, "c1")
            self.office.vault.new_key("c1")
        source = Source(((b"photo", 1.0),), skin=skin)
        digest, sealed = seal_face(self.office.vault, "c1", source.to_bytes(), FACE)
        key = face_key("c1", digest)
        self.storage.put(key, sealed)
        subject = replace(ledgers.subject("c1"), face_digest=digest)
        items = ledgers.some_items(count)
        job = CatalogueJob(name, subject, "catalogue", Priority.NORMAL, items, bars=bars)
        return jobs.create_job(self.ledger, job, key)[0]

    def render(self, renderer: Painter) -> None:
        """Run one attempt with this renderer."""
        broker = Broker()
        ledgers.dispatch_once(self.ledger, broker, batch_size=8, window=1)
        worker = RenderWorker(self.office, renderer)
        for attempt_id in broker.take():
            worker.run(attempt_id)
        worker.close()

    def acceptor(self) -> Acceptor:
        """What a worker's machine carries acceptances out with."""
        return Acceptor(self.ledger, self.storage, self.office.vault, self.office.signer)

    def receipt(self, item_key: str) -> Receipt:
        """The signed receipt of a committed item."""
        commit = commits.find_commit(self.ledger, item_key=item_key)
        assert commit is not None
        return verify_receipt(commit.receipt, self.office.signer.public_key)

    def audited(self, kind: str) -> list[dict[str, object]]:
        """The bodies of the audit events of one kind."""
        with self.ledger.transaction() as connection:
            query = select(audit_outbox.c.body).where(audit_outbox.c.kind == kind).order_by(audit_outbox.c.id)
            return list(connection.execute(query).scalars())


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    storage = open_storage(str(tmp_path / "storage"))
    vault, signer = Vault.create(tmp_path / "vault"), Signer.create(tmp_path / "keys")
    return Desk(ledger, Office(ledger, storage, vault, signer, worker_id="w1", lease_s=60), storage)


def never(item: RenderItem) -> float:
    return 0.1


def one_held(desk: Desk) -> held.Held:
    (one,) = held.list_undecided(desk.ledger)
    return one


def test_a_rejected_picture_is_made_again_alone_with_the_next_seed_and_its_receipt_says_so(desk: Desk) -> None:
    job_id = desk.submit(3)
    second = retry_seed(1, 2)
    painter = Painter(lambda item: 0.9 if item.seed in (0, 2, second) else 0.1)
    desk.render(painter)
    assert painter.batches == [[0, 1, 2], [retry_seed(1, 1)], [second]]
    rows = ledgers.item_rows(desk.ledger, job_id)
    assert [row.state for row in rows] == [ItemState.DONE] * 3
    assert [row.renders for row in rows] == [1, 3, 1]
    receipt = desk.receipt(rows[1].item_key)
    assert (receipt.seed, receipt.verdict.tries, receipt.verdict.identity) == (second, 3, 0.9)
    assert desk.receipt(rows[0].item_key).seed == 0


def test_the_receipt_holds_how_far_the_skin_is_from_the_photo_and_no_colour(desk: Desk) -> None:
    job_id = desk.submit(1)
    desk.render(Painter(lambda item: 0.9, skin=(63.0, 14.0, 15.0)))
    (row,) = ledgers.item_rows(desk.ledger, job_id)
    verdict = desk.receipt(row.item_key).verdict
    assert verdict.skin_drift == pytest.approx(5.0)
    assert "63.0" not in str(desk.receipt(row.item_key).statement())


def test_another_skin_tone_is_rejected(desk: Desk) -> None:
    job_id = desk.submit(1)
    desk.render(Painter(lambda item: 0.9, skin=(80.0, 10.0, 15.0)))
    assert ledgers.states(desk.ledger, job_id) == [ItemState.DONE]
    other = desk.submit(2, name="other")
    desk.render(Painter(lambda item: 0.9, skin=(80.1, 10.0, 15.0)))
    assert ledgers.states(desk.ledger, other) == [ItemState.DONE, ItemState.REJECTED]
    assert one_held(desk).verdict.reason == "skin_drift"


def test_without_bars_everything_is_measured_and_nobody_is_rejected(desk: Desk) -> None:
    job_id = desk.submit(1, Bars())
    desk.render(Painter(never))
    (row,) = ledgers.item_rows(desk.ledger, job_id)
    assert row.state == ItemState.DONE
    assert desk.receipt(row.item_key).verdict.identity == 0.1


def test_a_picture_rejected_every_time_is_held_sealed_with_its_numbers_and_the_best_try_counts(desk: Desk) -> None:
    job_id = desk.submit(1)
    best = retry_seed(0, 1)
    desk.render(Painter(lambda item: 0.15 if item.seed == best else 0.05))
    (row,) = ledgers.item_rows(desk.ledger, job_id)
    assert (row.state, row.error_code, row.renders) == (ItemState.REJECTED, "wrong_person", 3)
    assert row.error == "the likeness to the photo is 0.15, 0.20 needed"
    one = one_held(desk)
    assert (one.item_id, one.seed, one.verdict.identity, one.verdict.tries) == (row.id, best, 0.15, 3)
    assert one.held_key.startswith("held/c1/")
    assert b"PNG" not in desk.storage.get(one.held_key)
    assert list(desk.storage.list("pictures/")) == []


def test_an_error_at_the_second_chance_leaves_the_first_picture_to_a_human(desk: Desk) -> None:
    desk.submit(1)
    desk.render(Painter(lambda item: 0.1 if item.seed == 0 else ItemFailed("the device is gone")))
    assert one_held(desk).seed == 0


def test_an_accepted_picture_is_committed_as_it_was_and_says_who_accepted_it(desk: Desk) -> None:
    job_id = desk.submit(2)
    desk.render(Painter(lambda item: 0.9 if item.seed == 0 else 0.1))
    one = one_held(desk)
    jobs.mark_finished(desk.ledger, job_id, "a manifest")
    review.decide(desk.ledger, one.item_id, review.ACCEPTED, "lead-1")
    assert desk.acceptor().round() == 1
    assert desk.acceptor().round() == 0
    row = ledgers.item_rows(desk.ledger, job_id)[1]
    assert (row.state, row.error, row.renders) == (ItemState.DONE, None, 3)
    receipt = desk.receipt(row.item_key)
    verdict = receipt.verdict
    assert (verdict.accepted, verdict.accepted_by, verdict.reason) == (True, "lead-1", "wrong_person")
    assert (verdict.identity, verdict.tries, receipt.seed) == (0.1, 3, one.seed)
    assert read_reference(desk.storage.get(receipt.picture_key)) == row.item_key
    assert list(desk.storage.list("held/")) == []
    assert list(finish_jobs(desk.ledger)) == [job_id]  # its manifest is written anew
    assert [body["by"] for body in desk.audited("review.accepted")] == ["lead-1"]
    assert len(desk.audited("picture.committed")) == 2


def test_a_kill_between_storing_and_committing_an_accepted_picture_leaves_one_commit(desk: Desk) -> None:
    desk.submit(1)
    desk.render(Painter(never))
    review.decide(desk.ledger, one_held(desk).item_id, review.ACCEPTED, "lead-1")
    assert acceptances.claim(desk.ledger, lease_s=60) is not None  # and dies
    assert desk.acceptor().round() == 0  # still leased
    with desk.ledger.transaction() as connection:
        connection.exec_driver_sql("UPDATE held_pictures SET due_at = now() - interval '1 hour'")
    assert desk.acceptor().round() == 1
    assert len(list(desk.storage.list("pictures/"))) == 1


def test_a_withdrawn_consent_lets_nothing_be_accepted_or_seen(desk: Desk) -> None:
    job_id = desk.submit(1)
    desk.render(Painter(never))
    one = one_held(desk)
    review.decide(desk.ledger, one.item_id, review.ACCEPTED, "lead-1")
    consents.revoke(desk.ledger, "c1")
    assert desk.acceptor().round() == 1
    assert ledgers.states(desk.ledger, job_id) == [ItemState.REJECTED]
    assert list(desk.storage.list("pictures/")) == []
    assert "revoked" in held.get(desk.ledger, one.item_id).error
    with pytest.raises(ConsentRefused):
        review.note_shown(desk.ledger, one, "lead-1")


def test_a_consent_that_changed_meanwhile_is_committed_under_its_new_epoch(desk: Desk) -> None:
    job_id = desk.submit(1)
    desk.render(Painter(never))
    review.decide(desk.ledger, one_held(desk).item_id, review.ACCEPTED, "lead-1")
    taken = acceptances.claim(desk.ledger, lease_s=60)
    assert taken is not None
    with desk.ledger.transaction() as connection:
        connection.execute(update(consents_table).values(epoch=5))
    sha256 = ledgers.digest("picture")
    key = picture_key("c1", taken.item.item_key, sha256)
    with pytest.raises(ConsentRefused):
        acceptances.commit_accepted(desk.ledger, taken, key, sha256, b"receipt")
    acceptances.give_up(desk.ledger, taken, "too late")
    assert desk.acceptor().round() == 1
    (row,) = ledgers.item_rows(desk.ledger, job_id)
    assert desk.receipt(row.item_key).committed_under_epoch == 5


def test_a_decision_is_not_taken_back(desk: Desk) -> None:
    desk.submit(1)
    desk.render(Painter(never))
    item_id = one_held(desk).item_id
    review.decide(desk.ledger, item_id, review.REJECTED, "lead-1")
    assert review.decide(desk.ledger, item_id, review.REJECTED, "lead-2").decided_by == "lead-1"
    with pytest.raises(BadInput, match="was rejected already"):
        review.decide(desk.ledger, item_id, review.ACCEPTED, "lead-1")
    assert list(held.list_undecided(desk.ledger)) == []
    assert desk.acceptor().round() == 0


def test_the_item_of_another_job_is_kept_when_the_same_picture_was_accepted_first(desk: Desk) -> None:
    first = desk.submit(1)
    desk.render(Painter(never))
    second = desk.submit(1, name="second")
    desk.render(Painter(never))
    for one in list(held.list_undecided(desk.ledger)):
        review.decide(desk.ledger, one.item_id, review.ACCEPTED, "lead-1")
        desk.acceptor().round()
    assert ledgers.states(desk.ledger, first) == ledgers.states(desk.ledger, second) == [ItemState.DONE]
    assert ledgers.item_rows(desk.ledger, second)[0].kept
    assert len(list(desk.storage.list("pictures/"))) == 1


def test_a_kept_picture_below_the_new_jobs_bars_waits_for_a_human_and_is_not_made_again(desk: Desk) -> None:
    desk.submit(2, Bars())
    desk.render(Painter(lambda item: 0.9 if item.seed == 0 else 0.1))
    strict = desk.submit(2, name="strict")
    rows = ledgers.item_rows(desk.ledger, strict)
    assert [row.state for row in rows] == [ItemState.DONE, ItemState.REJECTED]
    assert rows[1].error == "kept from an earlier job: the likeness to the photo is 0.10, 0.20 needed"
    one = one_held(desk)
    assert (one.item_id, one.held_key) == (rows[1].id, "")
    review.decide(desk.ledger, one.item_id, review.ACCEPTED, "lead-1")
    assert desk.acceptor().round() == 1
    done = ledgers.item_rows(desk.ledger, strict)[1]
    assert (done.state, done.kept) == (ItemState.DONE, True)
    # what a human accepted needs no second look in the next job
    again = desk.submit(2, name="again")
    assert ledgers.states(desk.ledger, again) == [ItemState.DONE, ItemState.DONE]


def test_an_item_that_became_committed_while_it_waited_is_judged_by_its_own_bars(desk: Desk) -> None:
    strict = desk.submit(1, name="strict")
    desk.submit(1, Bars(), name="loose")
    with desk.ledger.transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET state = 'paused' WHERE id = 'strict'")
    desk.render(Painter(never))
    assert ledgers.states(desk.ledger, "loose") == [ItemState.DONE]
    assert ledgers.states(desk.ledger, strict) == [ItemState.REJECTED]


def test_erasing_a_person_takes_the_held_pictures_and_what_was_measured(desk: Desk) -> None:
    desk.submit(1)
    desk.render(Painter(never))
    consents.revoke(desk.ledger, "c1")
    eraser = Eraser(desk.ledger, desk.storage, desk.office.vault, desk.office.signer, settle_s=0)
    eraser.run("c1")
    assert list(desk.storage.list("held/")) == []
    assert list(held.list_undecided(desk.ledger)) == []
    assert [row.error for row in ledgers.item_rows(desk.ledger, "job")] == [None]
    assert audit.chain(desk.ledger)


def test_a_picture_that_is_accepted_while_the_manifest_is_written_lets_it_be_written_again(desk: Desk) -> None:
    job_id = desk.submit(1)
    desk.render(Painter(never))
    review.decide(desk.ledger, one_held(desk).item_id, review.ACCEPTED, "lead-1")
    seen = finish_jobs(desk.ledger)[job_id]
    assert desk.acceptor().round() == 1
    assert not jobs.mark_finished(desk.ledger, job_id, "a manifest without it", seen)
    assert jobs.mark_finished(desk.ledger, job_id, "a manifest", finish_jobs(desk.ledger)[job_id])


def test_an_accepted_picture_is_not_swept_before_its_commit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = desk.submit(1)
    desk.render(Painter(never))
    with desk.ledger.transaction() as connection:
        connection.execute(update(items_table).values(attempts=2))  # a worker had died of it before
    review.decide(desk.ledger, one_held(desk).item_id, review.ACCEPTED, "lead-1")
    commit = acceptances.commit_accepted

    def sweep_first(*given: Any) -> str:
        assert sweep_job(desk.ledger, desk.storage, job_id) == 0
        return commit(*given)

    monkeypatch.setattr(acceptances, "commit_accepted", sweep_first)
    assert desk.acceptor().round() == 1
    (row,) = ledgers.item_rows(desk.ledger, job_id)
    assert desk.storage.exists(row.picture_key)


def test_who_lost_an_acceptance_erases_nothing_that_another_is_about_to_commit(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.submit(1)
    desk.render(Painter(never))
    review.decide(desk.ledger, one_held(desk).item_id, review.ACCEPTED, "lead-1")
    commit, slow = acceptances.commit_accepted, desk.acceptor()

    def overtaken(*given: Any) -> str:
        """The second worker has stored the picture; before it commits, the first one learns that it lost."""
        monkeypatch.setattr(acceptances, "commit_accepted", commit)
        with desk.ledger.transaction() as connection:
            connection.exec_driver_sql("UPDATE held_pictures SET holder = '', due_at = now() - interval '1 hour'")
        taken = acceptances.claim(desk.ledger, lease_s=60)
        assert taken is not None
        try:
            return commit(*given)
        finally:
            second.append(partial(commit, desk.ledger, taken, *given[2:]))

    second: list[Callable[[], str]] = []
    monkeypatch.setattr(acceptances, "commit_accepted", overtaken)
    assert slow.round() == 1
    assert second[0]() == "committed"
    (row,) = ledgers.item_rows(desk.ledger, job_id)
    assert desk.storage.exists(row.picture_key)


def test_an_acceptance_that_fails_in_an_odd_way_is_not_tried_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.submit(1)
    desk.render(Painter(never))
    one = one_held(desk)
    review.decide(desk.ledger, one.item_id, review.ACCEPTED, "lead-1")
    monkeypatch.setattr(desk.office.signer, "sign", dict[object, bytes]().__getitem__)
    with pytest.raises(KeyError):
        desk.acceptor().round()
    assert held.get(desk.ledger, one.item_id).ended
    assert desk.acceptor().round() == 0
