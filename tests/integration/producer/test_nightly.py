"""Nights of a catalogue on a real ledger and real storage, with a worker that renders plain pictures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.consent_terms import Terms
from face0_worker.contract.job import Priority
from face0_worker.records import catalogue_runs, consents
from face0_worker.records.progress import JobStatus, job_status, list_jobs
from face0_worker.records.tables import audit_outbox
from face0_worker.records.tables import commits as commits_table
from producer.consent import enrolment
from producer.nightly import Order, preview, run_night
from producer.nights.plan import Share
from producer.nights.report import Night
from producer.services import Services
from producer.sources import Source
from tests.integration.producer.plain_worker import grant, render_everything
from tests.integration.producer.shop import Shop, item, some

pytestmark = pytest.mark.services


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
    night = run_night(shop.services, again, shop.work, clock=lambda: tomorrow)
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
