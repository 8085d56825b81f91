"""What the dispatcher promises about order, fairness, the window and lost messages, on a real PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from face0_worker.contract.errors import BrokerDown
from face0_worker.contract.job import ItemState, Priority
from face0_worker.contract.pace import Pace
from face0_worker.queue.dispatch import Batch, WaitingItem, dispatch, plan_batches, reconcile
from face0_worker.records import attempts, audit, jobs
from face0_worker.records.ledger import Ledger
from face0_worker.records.waiting import take_waiting
from tests.ledgers import (
    MODEL,
    Broker,
    claim_all,
    commit_item,
    dispatch_once,
    give_consent,
    run_to_end,
    some_items,
    states,
    submit,
)


def test_an_urgent_job_overtakes_a_long_one_at_the_next_free_batch(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(60), priority=Priority.NIGHTLY)
    broker = Broker()
    dispatch_once(ledger, broker, batch_size=4, window=2)
    begun = claim_all(ledger, broker)
    urgent = submit(ledger, some_items(4, first=1000), priority=Priority.URGENT)
    assert dispatch_once(ledger, broker) == 0  # the window is full
    attempts.finish_attempt(ledger, begun[0].attempt_id, begun[0].token)
    assert dispatch_once(ledger, broker) == 1
    (claim,) = claim_all(ledger, broker)
    assert {item.job_id for item in claim.items} == {urgent}


def test_never_more_than_the_window_is_outstanding_per_live_worker(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(100))
    jobs.offer_model(ledger, "w2", MODEL, "test", {})
    broker = Broker()
    assert [dispatch_once(ledger, broker, window=3) for _ in range(3)] == [2 * 3, 0, 0]
    claim_all(ledger, broker)
    assert dispatch_once(ledger, broker, window=3) == 0


def test_a_batch_is_as_large_as_the_live_workers_found_best_for_its_size(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(24, width=256, height=256))
    submit(ledger, some_items(24, first=100, width=512, height=256))
    offer_paces(ledger, "w1", Pace(256, 256, 12, 0.1, 0.01))
    offer_paces(ledger, "w2", Pace(256, 256, 6, 0.1, 0.01))
    offer_paces(ledger, "gone", Pace(256, 256, 2, 0.1, 0.01))
    jobs.withdraw_offers(ledger, "gone")
    broker = Broker()
    dispatch(ledger, broker.send, batch_size=4, window=8, queue_length=broker.length, calibrated=True)
    claims = claim_all(ledger, broker)
    assert {claim.items[0].spec.width: len(claim.items) for claim in claims} == {256: 6, 512: 4}
    assert sum(len(claim.items) for claim in claims) == 48


def test_a_batch_size_that_somebody_has_set_holds_whatever_was_measured(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(8, width=256, height=256))
    offer_paces(ledger, "w1", Pace(256, 256, 1, 0.1, 0.01))
    broker = Broker()
    dispatch(ledger, broker.send, batch_size=4, window=8, queue_length=broker.length)
    assert [len(claim.items) for claim in claim_all(ledger, broker)] == [4, 4]


def offer_paces(ledger: Ledger, worker_id: str, *paces: Pace) -> None:
    """Offer MODEL as a worker that has measured itself."""
    jobs.offer_model(ledger, worker_id, MODEL, "test", {"paces": [pace.to_json() for pace in paces]})


def test_a_second_dispatcher_in_the_middle_of_the_first_does_not_exceed_the_window(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(100))
    second: list[str] = []

    def plan_meanwhile(found: Sequence[WaitingItem], batch_size: int) -> list[Batch]:
        submit(ledger, some_items(50, first=1000))
        second.extend(take_waiting(ledger, MODEL, 2, batch_size, plan_batches))
        return plan_batches(found, batch_size)

    first = take_waiting(ledger, MODEL, 2, 4, plan_meanwhile)
    assert (len(first), len(second)) == (2, 0)


def test_nothing_is_sent_for_a_model_that_no_live_worker_has(ledger: Ledger) -> None:
    give_consent(ledger)
    waiting = submit(ledger, some_items(3), model="e" * 64)
    broker = Broker()
    assert dispatch_once(ledger, broker) == 0
    assert states(ledger, waiting) == [ItemState.WAITING] * 3


def test_jobs_of_equal_priority_take_turns_and_share_batches(ledger: Ledger) -> None:
    give_consent(ledger)
    give_consent(ledger, "c2")
    first, second = submit(ledger, some_items(12)), submit(ledger, some_items(12), consent_id="c2")
    batches = run_to_end(ledger, Broker(), batch_size=4, window=1)
    assert len(batches) == 6
    for batch in batches:
        assert Counter(item.job_id for item in batch) == {first: 2, second: 2}
        assert {item.subject.consent_id for item in batch} == {"c1", "c2"}


def test_a_later_job_neither_waits_for_an_earlier_one_nor_stops_it(ledger: Ledger) -> None:
    give_consent(ledger)
    early = submit(ledger, some_items(40))
    broker = Broker()
    dispatch_once(ledger, broker, batch_size=4, window=4)
    for claim in claim_all(ledger, broker):
        for item in claim.items:
            commit_item(ledger, claim, item)
        attempts.finish_attempt(ledger, claim.attempt_id, claim.token)
    late = submit(ledger, some_items(40, first=1000))
    for batch in run_to_end(ledger, broker, batch_size=4, window=1)[:6]:
        assert Counter(item.job_id for item in batch) == {early: 2, late: 2}


def test_many_small_jobs_of_one_submitter_get_no_more_than_anothers_one_large_job(ledger: Ledger) -> None:
    give_consent(ledger)
    for number in range(12):
        submit(ledger, some_items(2, first=100 * number), submitter="agency")
    large = submit(ledger, some_items(24, first=5000), submitter="shop")
    batches = run_to_end(ledger, Broker(), batch_size=4, window=1)
    for batch in batches:
        assert sum(item.job_id == large for item in batch) == 2


def test_every_job_of_many_is_served_in_turn_however_small_the_window(ledger: Ledger) -> None:
    give_consent(ledger)
    ids = [submit(ledger, some_items(3, first=100 * number)) for number in range(7)]
    served: Counter[str] = Counter(dict.fromkeys(ids, 0))
    for batch in run_to_end(ledger, Broker(), batch_size=2, window=1):
        served.update(item.job_id for item in batch)
        assert max(served.values()) - min(served.values()) <= 1
    assert served == dict.fromkeys(ids, 3)


def test_items_of_different_shapes_never_share_a_batch_and_rare_ones_are_served(ledger: Ledger) -> None:
    give_consent(ledger)
    sizes = [128, 64, 128, 128, 64, 128, 96, 128]
    items = [item for seed, size in enumerate(sizes) for item in some_items(1, first=seed, width=size)]
    job_id = submit(ledger, items)
    batches = run_to_end(ledger, Broker(), batch_size=4, window=1)
    assert [sorted({item.spec.width for item in batch}) for batch in batches] == [[128], [64], [96], [128]]
    assert states(ledger, job_id) == [ItemState.DONE] * 8


def test_messages_lost_by_a_flushed_broker_are_sent_again_and_nothing_is_rendered_twice(ledger: Ledger) -> None:
    give_consent(ledger)
    job_id = submit(ledger, some_items(16))
    broker = Broker()
    dispatch_once(ledger, broker, batch_size=4, window=4)
    lost = [message for queue in broker.queues.values() for message in queue]
    assert len(lost) == 4
    broker.flush()
    assert dispatch_once(ledger, broker, window=4, resend_after_s=0) == 0
    claims = claim_all(ledger, broker)
    assert len(claims) == 4
    # the first messages were not lost after all but late: a second claim gets nothing
    for message in lost:
        broker.send("face0.late", message)
    assert claim_all(ledger, broker, worker_id="w2") == []
    assert [commit_item(ledger, claim, item) for claim in claims for item in claim.items] == ["committed"] * 16
    assert states(ledger, job_id) == [ItemState.DONE] * 16


def test_messages_that_are_still_in_the_queue_are_not_sent_again(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(8))
    broker = Broker()
    dispatch_once(ledger, broker)
    for _ in range(3):
        dispatch_once(ledger, broker, resend_after_s=0)
    assert len(broker.take()) == 2


def test_a_broker_that_was_down_gets_the_messages_when_it_is_back(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(8))
    jobs.offer_model(ledger, "w1", MODEL, "test", {})
    broker = Broker()

    def refuse(queue: str, message: dict[str, object]) -> None:
        raise BrokerDown("the broker does not answer")

    with pytest.raises(BrokerDown):
        dispatch(ledger, refuse, batch_size=4, window=2, queue_length=broker.length)
    assert dispatch_once(ledger, broker) == 0
    assert len(claim_all(ledger, broker)) == 2


def test_one_round_of_repairs_mends_everything_that_was_left_half_done(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(2))
    broker = Broker()
    dispatch_once(ledger, broker, batch_size=1)
    for claim in claim_all(ledger, broker, lease_s=-1):
        with pytest.raises(Exception, match="no longer this worker's"):
            commit_item(ledger, claim, claim.items[0])

    def repair() -> tuple[int, ...]:
        done = reconcile(ledger, send=broker.send, queue_length=broker.length, crash_limit=3, resend_after_s=0)
        assert done.down == ()
        return done.released, done.resent

    assert repair() == (2, 0)
    dispatch_once(ledger, broker)
    broker.flush()
    assert repair() == (0, 2)
    for claim in claim_all(ledger, broker):
        commit_item(ledger, claim, claim.items[0])
    assert repair() == (0, 0)
    assert audit.verify(ledger) == 4  # granted, job created, two commits


def test_a_service_that_is_down_keeps_no_other_repair_from_being_made(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(1))
    broker = Broker()
    dispatch_once(ledger, broker)
    broker.flush()

    def down(queue: str) -> int:
        raise BrokerDown("the broker does not answer")

    done = reconcile(ledger, send=broker.send, queue_length=down, crash_limit=3, resend_after_s=0)
    assert [type(error) for error in done.down] == [BrokerDown]
    assert done.chained == 2
