"""Nights of a catalogue on a real ledger and real storage, with a worker that renders plain pictures."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.consent_terms import Terms
from face0_worker.contract.errors import BadInput, VerificationFailed
from face0_worker.contract.job import Priority, RenderItem
from face0_worker.records import catalogue_runs, catalogues, consents
from face0_worker.records.catalogue_pointer import Entry, Pointer, read_entries, read_pointer
from face0_worker.records.progress import JobStatus, job_status, list_jobs
from face0_worker.records.storage import pointer_key
from face0_worker.records.tables import audit_outbox
from face0_worker.records.tables import commits as commits_table
from producer.consent import enrolment
from producer.demo import PERSON
from producer.nightly import Order, preview, run_night
from producer.nights.outcome import check_entries
from producer.nights.plan import Share
from producer.nights.report import Night
from producer.services import Services
from producer.sources import Source, photo_files
from tests.integration.producer.plain_worker import grant, render_everything

pytestmark = pytest.mark.services


def item(sku: str, prompt: str = "a red shirt", **fields: Any) -> RenderItem:
    """One line of a list; its seed is its SKU's number."""
    return RenderItem(sku, prompt, seed=int(sku[1:] or 0), width=64, height=64, steps=4, **fields)


def some(*numbers: int, prompt: str = "a red shirt") -> tuple[RenderItem, ...]:
    """Lines of SKUs with these numbers."""
    return tuple(item(f"s{number}", prompt) for number in numbers)


def open_photo() -> Source:
    """The sample person's photo."""
    return photo_files([PERSON])


class Shop:
    """Somebody who runs nights; a worker renders while they wait."""

    def __init__(self, services: Services, worker: Services) -> None:
        """`worker`: the same installation as another process sees it."""
        self.services, self.worker = services, worker
        self.rendered = 0

    def order(self, *lists: tuple[str, Sequence[RenderItem]], **more: Any) -> Order:
        """An order for (consent id, items) pairs."""
        shares = tuple(Share(consent_id, tuple(items), open_photo) for consent_id, items in lists)
        return Order("autumn", shares, **more)

    def night(self, *lists: tuple[str, Sequence[RenderItem]], fail: str = "", **more: Any) -> Night:
        """Run one night to its end; the item of SKU `fail` fails."""
        self.rendered = 0

        def work(_: Sequence[JobStatus]) -> None:
            self.rendered += render_everything(self.worker, fail=fail)

        return run_night(self.services, self.order(*lists, **more), work, poll_s=0.01)

    def pointer(self) -> Pointer | None:
        """What the pointer says."""
        return read_pointer(self.services.storage, self.services.signer.public_key, "autumn")

    def shown(self) -> list[Entry]:
        """The entries of the published manifest, every picture of it verified."""
        pointer = self.pointer()
        if pointer is None:
            return []
        entries = list(read_entries(self.services.storage, self.services.signer.public_key, pointer.manifest))
        assert [str(problem) for _, problem in check_entries(self.services, entries) if problem] == []
        assert pointer.total == len(entries)
        return entries

    def skus(self) -> list[str]:
        """The published SKUs in the order of the manifest."""
        return [entry.sku for entry in self.shown()]


@pytest.fixture
def shop(services: Services) -> Iterator[Shop]:
    grant(services.ledger)
    with Services(services.settings) as worker:
        yield Shop(services, worker)


def test_the_second_night_renders_exactly_what_changed(shop: Shop) -> None:
    first = shop.night(("c1", some(*range(40))))
    assert (shop.rendered, first.counts.added, first.exit_code) == (40, 40, 0)
    lines = [*some(*range(2, 40)), item("s99")]
    lines[5] = replace(lines[5], prompt="a blue shirt")
    second = shop.night(("c1", lines))
    assert shop.rendered == 2
    counts = second.counts
    assert (counts.added, counts.changed, counts.kept, counts.removed) == (1, 1, 37, 2)
    assert (counts.rendered, counts.verified, counts.items, counts.done) == (2, 2, 39, 39)
    assert shop.skus() == [line.sku for line in lines]
    pointer = shop.pointer()
    assert pointer is not None
    assert pointer.previous == (first.pointer and first.pointer.manifest)


def test_nothing_changed_makes_no_job_and_looks_at_no_photo(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.night(("c1", some(*range(5))))
    before, made = shop.pointer(), list_jobs(shop.services.ledger)

    def look(*_: object) -> None:
        raise AssertionError("the photo was looked at")

    monkeypatch.setattr(enrolment, "look", look)
    night = shop.night(("c1", some(*range(5))))
    assert (night.run.state, night.counts.kept, night.counts.rendered, night.exit_code) == ("unchanged", 5, 0, 0)
    assert list_jobs(shop.services.ledger) == made
    assert shop.pointer() == before
    assert [run.state for run in catalogue_runs.history(shop.services.ledger, "autumn")] == ["unchanged", "published"]


def test_the_stored_face_is_used_without_a_photo(shop: Shop) -> None:
    shop.night(("c1", some(1)))
    stored = Order("autumn", (Share("c1", some(1), None),))
    assert run_night(shop.services, stored).run.state == "unchanged"


def test_jobs_are_of_the_lowest_priority_and_named_by_their_catalogue(shop: Shop) -> None:
    night = shop.night(("c1", some(1)))
    (job,) = (job_status(shop.services.ledger, job_id) for job_id in night.run.jobs)
    assert (job.priority, job.catalogue) == (Priority.NIGHTLY, "autumn")


def test_many_people_share_one_catalogue_and_a_refused_one_is_left_out(shop: Shop) -> None:
    grant(shop.services.ledger, "c2")
    lists = ("c1", some(1, 2)), ("c2", some(3, 4, 5))
    shop.night(*lists)
    assert shop.skus() == ["s1", "s2", "s3", "s4", "s5"]
    consents.revoke(shop.services.ledger, "c1")
    night = shop.night(*lists)
    assert shop.skus() == ["s3", "s4", "s5"]
    assert (night.counts.refused, night.counts.kept, night.counts.removed, night.exit_code) == (2, 3, 2, 3)
    assert shop.rendered == 0
    assert "revoked" in night.problems[0]


def test_an_item_that_the_consent_forbids_is_left_out_and_the_others_go_on(shop: Shop) -> None:
    now = datetime.now(UTC)
    begin, end = now - timedelta(days=1), now + timedelta(days=1)
    terms = Terms(products=frozenset({"s1", "s2"}))
    purposes = frozenset({Purpose.CATALOGUE})
    consents.grant(shop.services.ledger, ConsentRecord("c3", "a pseudonym", purposes, begin, end, terms=terms))
    night = shop.night(("c3", some(1, 2, 3)))
    assert (shop.skus(), night.counts.refused, night.exit_code) == (["s1", "s2"], 1, 3)
    assert night.problems[0].startswith("SKU s3: Consent c3 allows these only for product")
    with shop.services.ledger.transaction() as connection:
        events = select(audit_outbox.c.body).where(audit_outbox.c.kind == "consent.refused")
        bodies = connection.execute(events).scalars().all()
    assert {(body["stage"], body["code"]) for body in bodies} == {("carry-over", "wrong_product")}
    assert shop.night(("c3", some(1, 2, 3))).run.state == "unchanged"


def test_a_photo_is_not_opened_without_a_consent(services: Services) -> None:
    def open_it() -> Source:
        raise AssertionError("the photo was opened")

    night = run_night(services, Order("autumn", (Share("nobody", some(1), open_it),)))
    assert (night.run.state, night.counts.refused, night.exit_code) == ("withheld", 1, 3)


def test_a_failed_item_shows_its_picture_of_before_and_is_tried_again_the_next_night(shop: Shop) -> None:
    shop.night(("c1", some(*range(4))))
    before = {entry.sku: entry.item_key for entry in shop.shown()}
    lines = (*some(0, 1), item("s2", "a blue shirt"), item("s3"), item("s4"))
    night = shop.night(("c1", lines), fail="s2", min_done=0.8)
    assert [(entry.sku, entry.stale) for entry in shop.shown()] == [
        ("s0", False),
        ("s1", False),
        ("s2", True),
        ("s3", False),
        ("s4", False),
    ]
    assert {entry.sku: entry.item_key for entry in shop.shown()}["s2"] == before["s2"]
    counts = night.counts
    assert (counts.failed, counts.stale, counts.kept, counts.added, night.exit_code) == (1, 1, 3, 1, 1)
    assert "asked to fail" in night.problems[0]
    again = shop.night(("c1", lines))
    assert (shop.rendered, again.counts.changed, again.exit_code) == (1, 1, 0)
    assert not any(entry.stale for entry in shop.shown())


def test_a_product_that_went_to_somebody_else_never_shows_the_picture_of_before(shop: Shop) -> None:
    grant(shop.services.ledger, "c2")
    shop.night(("c1", some(1, 2)))
    night = shop.night(("c1", some(1)), ("c2", some(2)), fail="s2", min_done=0)
    assert (shop.skus(), night.counts.stale, night.counts.failed) == (["s1"], 0, 1)


def test_a_picture_that_is_gone_from_storage_is_no_good_picture(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(key: str, data: bytes, *, if_absent: bool = True) -> bool:
        return key.startswith("pictures/") or put(key, data, if_absent=if_absent)

    put = shop.worker.storage.put
    monkeypatch.setattr(shop.worker.storage, "put", lose)
    night = shop.night(("c1", some(1)))
    assert (night.run.state, night.counts.failed, shop.pointer()) == ("withheld", 1, None)
    assert "missing from storage" in night.problems[0]


def test_a_picture_that_was_purged_is_not_taken_as_unchanged(shop: Shop) -> None:
    shop.night(("c1", some(1)))
    with shop.services.ledger.transaction() as connection:
        connection.execute(update(commits_table).values(purged_at=datetime.now(UTC)))
    assert preview(shop.services, shop.order(("c1", some(1)))).to_render == 1
    with pytest.raises(KeyboardInterrupt):  # it is asked for, so there is something to wait for
        run_night(shop.services, shop.order(("c1", some(1))), _interrupt)


def test_two_commands_at_once_are_one_night(shop: Shop) -> None:
    order = shop.order(("c1", some(1, 2)))
    ended: list[Night] = []
    other = threading.Thread(target=lambda: ended.append(run_night(shop.worker, order, poll_s=0.01)))

    def work(_: Sequence[JobStatus]) -> None:
        if not other.ident:
            other.start()
        shop.rendered += render_everything(shop.services)

    night = run_night(shop.services, order, work, poll_s=0.01)
    other.join(60)
    assert (night.exit_code, ended[0].exit_code) == (0, 0)
    assert (shop.rendered, shop.skus()) == (2, ["s1", "s2"])
    assert len([job for job in list_jobs(shop.services.ledger) if job.catalogue == "autumn"]) == 1


def test_too_few_pictures_leave_the_pointer_where_it_is(shop: Shop) -> None:
    shop.night(("c1", some(*range(4))))
    before = shop.pointer()
    night = shop.night(("c1", some(*range(10))), fail="s7")
    assert (night.run.state, night.exit_code) == ("withheld", 1)
    assert shop.pointer() == before
    shop.night(("c1", some(*range(10))))
    assert shop.rendered == 1  # the others were kept from the night that was not published
    assert len(shop.shown()) == 10


def test_a_night_that_is_not_good_enough_still_leaves_out_whose_consent_ended(shop: Shop) -> None:
    grant(shop.services.ledger, "c2")
    shop.night(("c1", some(1, 2)), ("c2", some(3)))
    consents.revoke(shop.services.ledger, "c1")
    night = shop.night(("c1", some(1, 2)), ("c2", some(3, 4)), fail="s4")
    assert night.run.state == "withheld"
    assert shop.skus() == ["s3"]


@pytest.mark.parametrize(("publish", "skus"), [(True, ["s0", "s1"]), (False, ["s0"])])
def test_at_the_deadline_what_is_complete_is_published_or_the_old_kept_and_the_rest_cancelled(
    shop: Shop, publish: bool, skus: list[str]
) -> None:
    shop.night(("c1", some(0)))
    begin = datetime.now(UTC)
    times = iter([begin, begin, begin + timedelta(hours=9)])
    order = shop.order(("c1", some(0, 1)), deadline=begin + timedelta(hours=8), publish_at_deadline=publish)
    if publish:
        # one of two new ones is rendered before the deadline
        order = shop.order(("c1", some(0, 1, 2)), deadline=begin + timedelta(hours=8))
    calls = 0

    def work(standing: Sequence[JobStatus]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1 and publish:
            _render_one(shop.services)

    night = run_night(shop.services, order, work, clock=lambda: next(times), poll_s=0.01)
    assert night.counts.cancelled == 1
    assert night.run.state == ("published" if publish else "withheld")
    assert shop.skus() == skus
    assert night.exit_code == 1
    shop.night(("c1", some(0, 1, 2)))
    assert shop.skus() == ["s0", "s1", "s2"]


def test_an_open_run_whose_deadline_has_passed_is_closed_and_a_new_one_begins(shop: Shop) -> None:
    shop.night(("c1", some(0)))
    begin = datetime.now(UTC)
    order = shop.order(("c1", some(0, 1)), deadline=begin + timedelta(hours=8))
    with pytest.raises(KeyboardInterrupt):
        run_night(shop.services, order, _interrupt, clock=lambda: begin)
    tomorrow = begin + timedelta(hours=24)
    again = replace(order, deadline=tomorrow + timedelta(hours=8))
    night = run_night(shop.services, again, lambda _: _render(shop), clock=lambda: tomorrow)
    assert (night.run.state, shop.skus()) == ("published", ["s0", "s1"])
    states = [run.state for run in catalogue_runs.history(shop.services.ledger, "autumn")]
    assert states == ["published", "published", "published"]  # the one in the middle with what was complete


def test_another_list_takes_the_place_of_an_open_run(shop: Shop) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_night(shop.services, shop.order(("c1", some(0, 1))), _interrupt)
    shop.night(("c1", some(1, 2)))
    assert (shop.rendered, shop.skus()) == (2, ["s1", "s2"])
    assert [run.state for run in catalogue_runs.history(shop.services.ledger)] == ["published", "replaced"]


def test_the_same_list_goes_on_with_the_open_run(shop: Shop) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_night(shop.services, shop.order(("c1", some(0, 1))), _interrupt)
    assert shop.pointer() is None
    (open_run,) = catalogue_runs.history(shop.services.ledger)
    assert shop.night(("c1", some(0, 1))).run.id == open_run.id
    assert len(list_jobs(shop.services.ledger)) == 1


def _interrupt(_: Sequence[JobStatus]) -> None:
    raise KeyboardInterrupt


def _render(shop: Shop) -> None:
    render_everything(shop.worker)


# ---- consent against the pointer


def test_a_consent_that_ends_while_the_manifest_is_written_is_left_out(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(shop.services.ledger, "c2")
    put = shop.services.storage.put

    def put_and_revoke(key: str, data: bytes, *, if_absent: bool = True) -> bool:
        if "/root-" in key:
            consents.revoke(shop.worker.ledger, "c2")
        return put(key, data, if_absent=if_absent)

    monkeypatch.setattr(shop.services.storage, "put", put_and_revoke)
    night = shop.night(("c1", some(1)), ("c2", some(2, 3)))
    assert shop.skus() == ["s1"]
    assert (night.counts.refused, night.counts.done, night.exit_code) == (2, 1, 3)


def test_a_revoked_consent_leaves_every_catalogue_that_names_it(shop: Shop) -> None:
    services = shop.services
    grant(services.ledger, "c2")
    shop.night(("c1", some(1)), ("c2", some(2)))
    others = (Share("c2", some(7), open_photo),)
    run_night(services, replace(shop.order(), catalogue="winter", shares=others), lambda _: _render(shop))
    mine = (Share("c1", some(8), open_photo),)
    run_night(services, replace(shop.order(), catalogue="summer", shares=mine), lambda _: _render(shop))
    consents.revoke(services.ledger, "c2")
    office = services.ledger, services.storage, services.signer
    assert catalogues.supersede(*office, "c2") == ("autumn", "winter")
    assert shop.skus() == ["s1"]
    winter = read_pointer(services.storage, services.signer.public_key, "winter")
    assert winter is not None
    assert (winter.total, winter.consents) == (0, ())
    assert catalogues.supersede(*office, "c2") == ()
    everything = [services.storage.get(key) for key in services.storage.list("catalogues/") if key.endswith("jsonl")]
    assert everything
    assert not any(b'"c2"' in data for data in everything)


def test_a_revoked_consent_leaves_the_manifests_of_earlier_nights_too(shop: Shop) -> None:
    grant(shop.services.ledger, "c2")
    office = shop.services.ledger, shop.services.storage, shop.services.signer
    shop.night(("c1", some(1)), ("c2", some(2)))
    shop.night(("c1", some(1, 3)), ("c2", some(2)))
    shop.night(("c1", some(1, 3)))
    consents.revoke(shop.services.ledger, "c2")
    assert catalogues.supersede(*office, "c2") == ("autumn",)
    assert shop.skus() == ["s1", "s3"]
    assert not any(b'"c2"' in shop.services.storage.get(key) for key in shop.services.storage.list("catalogues/"))
    assert len([key for key in shop.services.storage.list("catalogues/") if "/root-" in key]) == 1
    with pytest.raises(BadInput, match="has no manifest before"):
        catalogues.rollback(*office, "autumn")


def test_rollback_shows_what_was_shown_before_and_twice_undoes_it(shop: Shop) -> None:
    grant(shop.services.ledger, "c2")
    office = shop.services.ledger, shop.services.storage, shop.services.signer
    with pytest.raises(BadInput, match="has no manifest before"):
        catalogues.rollback(*office, "autumn")
    shop.night(("c1", some(1)), ("c2", some(2)))
    shop.night(("c1", some(3)))
    catalogues.rollback(*office, "autumn")
    assert shop.skus() == ["s1", "s2"]
    catalogues.rollback(*office, "autumn")
    assert shop.skus() == ["s3"]
    consents.revoke(shop.services.ledger, "c2")
    catalogues.rollback(*office, "autumn")
    assert shop.skus() == ["s1"]
    # the next night follows the lists again, though they are those of the last
    assert shop.night(("c1", some(3))).run.state == "published"
    assert shop.skus() == ["s3"]


def test_a_changed_pointer_or_manifest_is_noticed(shop: Shop) -> None:
    shop.night(("c1", some(1)))
    pointer, storage = shop.pointer(), shop.services.storage
    assert pointer is not None
    signed = storage.get(pointer.manifest.key)
    storage.put(pointer.manifest.key, signed.replace(b"autumn", b"winter") + b" ", if_absent=False)
    with pytest.raises(VerificationFailed, match="not the one that the pointer names"):
        shop.shown()
    storage.put(pointer.manifest.key, signed, if_absent=False)
    (shard,) = (key for key in storage.list("catalogues/") if key.endswith(".jsonl"))
    storage.put(shard, storage.get(shard).replace(b"s1", b"s2"), if_absent=False)
    with pytest.raises(VerificationFailed, match="not as it was signed"):
        shop.shown()
    storage.put(pointer_key("autumn"), b"{}", if_absent=False)
    with pytest.raises(VerificationFailed, match="pointer of catalogue autumn"):
        shop.pointer()


def _render_one(services: Services) -> None:
    """Let the worker get one item and no more."""
    from face0_worker.queue.dispatch import dispatch
    from face0_worker.records import attempts
    from face0_worker.records.provenance import Signer
    from producer.services import keys_folder
    from tests.integration.producer import plain_worker
    from tests.ledgers import Broker

    broker = Broker()
    dispatch(services.ledger, broker.send, batch_size=1, window=1, queue_length=broker.length)
    (attempt_id,) = broker.take()
    claim = attempts.claim(services.ledger, attempt_id, "w1", lease_s=600)
    assert claim is not None
    plain_worker._render(services, Signer.open(keys_folder(services.settings)), claim, claim.items[0], "")
    attempts.finish_attempt(services.ledger, claim.attempt_id, claim.token)


# ---- a night that is cut short


class Killed(BaseException):
    """The process ended here."""


class Mortal:
    """Counts every write to storage and every transaction, and dies at one of them: before it, or after."""

    def __init__(self, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.die_at = -1
        self.after = False
        put, transaction = services.storage.put, services.ledger.transaction

        def dying_put(key: str, data: bytes, *, if_absent: bool = True) -> bool:
            with self._step(f"put {key.split('/')[0]}"):
                return put(key, data, if_absent=if_absent)

        @contextmanager
        def dying_transaction() -> Iterator[Connection]:
            with self._step("transaction"), transaction() as connection:
                yield connection

        monkeypatch.setattr(services.storage, "put", dying_put)
        monkeypatch.setattr(services.ledger, "transaction", dying_transaction)

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        mine = len(self.steps)
        self.steps.append(what)
        if mine == self.die_at and not self.after:
            raise Killed
        yield
        if mine == self.die_at:
            raise Killed

    def live(self) -> None:
        """Die no more."""
        self.die_at = -1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_the_pointer_names_a_whole_manifest_and_the_same_command_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    shop.night(("c1", some(0, 1)))
    mortal = Mortal(shop.services, monkeypatch)
    shop.night(("c1", some(0, 1, 2)))
    steps = len(mortal.steps)
    moments = random.Random(20261127).sample(range(steps), 4)
    moments += [number for number, what in enumerate(mortal.steps) if what == "put catalogues"]
    for number, moment in enumerate(moments):
        lines = (*some(0, 1), item(f"s{100 + number}"))
        before = shop.skus()
        mortal.steps, mortal.die_at, mortal.after = [], moment, after
        died = False
        try:
            shop.night(("c1", lines))
        except Killed:
            died = True
        mortal.live()
        assert died
        assert shop.skus() in (before, [line.sku for line in lines])
        night = shop.night(("c1", lines))
        assert night.exit_code == 0
        assert shop.skus() == [line.sku for line in lines]
        assert catalogue_runs.find_open(shop.services.ledger, "autumn") is None
    jobs = [job for job in list_jobs(shop.services.ledger, 1000) if job.catalogue == "autumn"]
    assert len(jobs) == len(moments) + 2, "a job was made twice"
