"""Leases, fencing tokens and crashes, on a real PostgreSQL (promises P1, P4, P8)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import insert, select, update

from face0_worker.contract.errors import ItemFailed, LeaseLost
from face0_worker.contract.job import ItemState
from face0_worker.records import attempts, commits, consents, jobs
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import attempts as attempts_table
from face0_worker.records.tables import items as items_table
from tests.ledgers import (
    MODEL,
    Broker,
    claim_all,
    claim_items,
    commit_item,
    dispatch_once,
    end_consent_now,
    expire_lease,
    give_consent,
    item_rows,
    run_to_end,
    some_items,
    states,
    submit,
)


def test_of_many_workers_that_claim_one_attempt_exactly_one_gets_it(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(40))
    broker = Broker()
    dispatch_once(ledger, broker, batch_size=4, window=10)
    attempt_ids = broker.take()
    assert len(attempt_ids) == 10
    workers = 8
    barrier = Barrier(workers)

    def claim(worker: int) -> list[attempts.Claim]:
        barrier.wait()
        claims = [attempts.claim(ledger, attempt_id, f"w{worker}", 60) for attempt_id in attempt_ids]
        return [claim for claim in claims if claim]

    with ThreadPoolExecutor(workers) as pool:
        claims = [claim for found in pool.map(claim, range(workers)) for claim in found]
    assert sorted(claim.attempt_id for claim in claims) == sorted(attempt_ids)
    taken = [item.item_id for claim in claims for item in claim.items]
    assert len(taken) == len(set(taken)) == 40
    assert len({claim.token for claim in claims}) == 10
    for claimed in claims:
        attempts.renew(ledger, claimed.attempt_id, claimed.token, 60)


def test_a_later_claim_of_the_same_item_has_a_larger_token(ledger: Ledger) -> None:
    give_consent(ledger)
    first = claim_items(ledger, some_items(1))
    expire_lease(ledger, first.attempt_id)
    attempts.release(ledger, expired=True, crash_limit=3)
    broker = Broker()
    dispatch_once(ledger, broker)
    (second,) = claim_all(ledger, broker, worker_id="w2")
    assert second.items == first.items
    assert second.token > first.token


def test_a_worker_that_lost_its_lease_cannot_commit(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    expire_lease(ledger, claim.attempt_id)
    with pytest.raises(LeaseLost):
        commit_item(ledger, claim, claim.items[0])
    attempts.release(ledger, expired=True, crash_limit=3)
    with pytest.raises(LeaseLost):
        commit_item(ledger, claim, claim.items[0])
    assert commits.find_commit(ledger, item_key=claim.items[0].item_key) is None


def test_a_worker_with_another_workers_token_cannot_commit(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    stale = attempts.Claim(claim.attempt_id, claim.token - 1, claim.items)
    with pytest.raises(LeaseLost):
        commit_item(ledger, stale, stale.items[0])
    with pytest.raises(LeaseLost):
        attempts.fail_item(ledger, stale.attempt_id, stale.token, stale.items[0].item_id, "x", "x")
    with pytest.raises(LeaseLost):
        attempts.finish_attempt(ledger, stale.attempt_id, stale.token)
    with pytest.raises(LeaseLost):
        attempts.renew(ledger, stale.attempt_id, stale.token, 60)


def test_the_loser_of_a_race_between_commit_and_release_changes_nothing(ledger: Ledger) -> None:
    give_consent(ledger)
    rounds = 30
    submit(ledger, some_items(rounds))
    broker = Broker()
    dispatch_once(ledger, broker, batch_size=1, window=rounds)
    claims = [attempts.claim(ledger, attempt_id, f"w-{attempt_id}", 60) for attempt_id in broker.take()]
    barrier = Barrier(2, timeout=60)

    def commit(claim: attempts.Claim) -> bool:
        barrier.wait()
        try:
            return commit_item(ledger, claim, claim.items[0]) == "committed"
        except LeaseLost:
            return False

    def release(claim: attempts.Claim) -> list[str]:
        barrier.wait()
        return attempts.release(ledger, worker_id=f"w-{claim.attempt_id}", crash_limit=3)

    with ThreadPoolExecutor(2) as pool:
        for claim in claims:
            assert claim is not None
            committing, releasing = pool.submit(commit, claim), pool.submit(release, claim)
            committed, released = committing.result(), releasing.result()
            (item,) = claim.items
            assert (commits.find_commit(ledger, item_key=item.item_key) is not None) == committed
            state = states(ledger, item.job_id)[item.spec.seed]
            assert state == (ItemState.DONE if committed else ItemState.WAITING)
            # a release that met the commit's lock leaves the attempt for its next round
            assert committed or released == [claim.attempt_id]


def test_renewing_keeps_the_lease_and_a_late_renewal_is_refused(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(
        ledger,
        some_items(1),
    )
    attempts.renew(ledger, claim.attempt_id, claim.token, 120)
    assert attempts.release(ledger, expired=True, crash_limit=3) == []
    expire_lease(ledger, claim.attempt_id)
    with pytest.raises(LeaseLost):
        attempts.renew(ledger, claim.attempt_id, claim.token, 120)


def test_a_poison_item_ends_failed_and_its_neighbours_finish(ledger: Ledger) -> None:
    give_consent(ledger)
    job_id = submit(ledger, some_items(6))
    poison = 3
    broker = Broker()
    crashes = 0
    while dispatch_once(ledger, broker, batch_size=6):
        for attempt_id in broker.take():
            claim = attempts.claim(ledger, attempt_id, "w1", 60)
            assert claim is not None
            if any(item.spec.seed == poison for item in claim.items):
                crashes += 1
                assert attempts.release(ledger, worker_id="w1", crash_limit=3) == [claim.attempt_id]
                continue
            for item in claim.items:
                commit_item(ledger, claim, item)
            attempts.finish_attempt(ledger, claim.attempt_id, claim.token)
    ended = states(ledger, job_id)
    assert ended[poison] == ItemState.FAILED
    assert ended[:poison] + ended[poison + 1 :] == [ItemState.DONE] * 5
    row = item_rows(ledger, job_id)[poison]
    assert row.error_code == "poison"
    assert crashes == 4  # once in company, which counts against nobody, then three times alone
    assert [row.crashes for row in item_rows(ledger, job_id) if row.position != poison] == [0] * 5


def test_items_of_a_lost_batch_go_alone_from_then_on(ledger: Ledger) -> None:
    give_consent(ledger)
    claim_items(ledger, some_items(4))
    attempts.release(ledger, worker_id="w1", crash_limit=3)
    broker = Broker()
    assert dispatch_once(ledger, broker, batch_size=4, window=10) == 4
    assert [len(claim.items) for claim in claim_all(ledger, broker)] == [1, 1, 1, 1]


def test_an_item_that_always_comes_back_unfinished_ends_failed(ledger: Ledger) -> None:
    give_consent(ledger)
    job_id = submit(ledger, some_items(1))
    broker = Broker()
    tries = 0
    while dispatch_once(ledger, broker):
        for claim in claim_all(ledger, broker):
            tries += 1
            attempts.finish_attempt(ledger, claim.attempt_id, claim.token)
    assert tries == attempts.ATTEMPT_LIMIT
    assert states(ledger, job_id) == [ItemState.FAILED]
    assert jobs.retry_failed(ledger, job_id) == 1
    assert states(ledger, job_id) == [ItemState.WAITING]


def test_a_failed_item_does_not_touch_its_neighbours(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(3))
    attempts.fail_item(
        ledger, claim.attempt_id, claim.token, claim.items[0].item_id, "no_face", "no face", ItemState.REJECTED
    )
    attempts.fail_item(ledger, claim.attempt_id, claim.token, claim.items[1].item_id, "nan", "not a number")
    commit_item(ledger, claim, claim.items[2])
    attempts.finish_attempt(ledger, claim.attempt_id, claim.token)
    job_id = claim.items[0].job_id
    assert states(ledger, job_id) == [ItemState.REJECTED, ItemState.FAILED, ItemState.DONE]
    assert [row.error for row in jobs.job_items(ledger, job_id)] == ["no face", "not a number", None]


def test_a_cancelled_item_stays_cancelled_whatever_its_worker_says(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(2))
    job_id = claim.items[0].job_id
    assert jobs.cancel_job(ledger, job_id) == 2
    with pytest.raises(ItemFailed):
        commit_item(ledger, claim, claim.items[0])
    attempts.fail_item(ledger, claim.attempt_id, claim.token, claim.items[1].item_id, "x", "x")
    attempts.finish_attempt(ledger, claim.attempt_id, claim.token)
    assert states(ledger, job_id) == [ItemState.CANCELLED] * 2


def test_a_claim_requires_consent_again(ledger: Ledger) -> None:
    give_consent(ledger)
    give_consent(ledger, "c2")
    gone, there = submit(ledger, some_items(1)), submit(ledger, some_items(1), consent_id="c2")
    broker = Broker()
    dispatch_once(ledger, broker)
    consents.revoke(ledger, "c1")
    (claim,) = claim_all(ledger, broker)
    assert [item.job_id for item in claim.items] == [there]
    assert states(ledger, gone) == [ItemState.CANCELLED]


def test_a_claim_cancels_what_expired_since_dispatch(ledger: Ledger) -> None:
    record = give_consent(ledger)
    job_id = submit(ledger, some_items(2))
    broker = Broker()
    dispatch_once(ledger, broker)
    end_consent_now(ledger, record.id)
    assert claim_all(ledger, broker) == []
    assert states(ledger, job_id) == [ItemState.CANCELLED] * 2
    assert {row.error_code for row in jobs.job_items(ledger, job_id)} == {"expired"}


def test_a_claim_keeps_an_item_that_was_committed_since_its_dispatch(ledger: Ledger) -> None:
    give_consent(ledger)
    twin = submit(ledger, some_items(1))
    broker = Broker()
    dispatch_once(ledger, broker)
    # dispatch never lets twins out together, so a dispatcher of another release is played by hand
    late = attempt_for(ledger, submit(ledger, some_items(1)))
    (claim,) = claim_all(ledger, broker)
    commit_item(ledger, claim, claim.items[0])
    assert attempts.claim(ledger, late, "w2", 60) is None
    assert states(ledger, twin) == [ItemState.DONE]
    assert [row.kept for row in jobs.job_items(ledger, item_job(ledger, late))] == [True]


def test_a_paused_job_is_not_rendered_and_goes_on_when_resumed(ledger: Ledger) -> None:
    give_consent(ledger)
    job_id = submit(ledger, some_items(2))
    broker = Broker()
    dispatch_once(ledger, broker)
    jobs.pause_job(ledger, job_id)
    assert claim_all(ledger, broker) == []
    assert dispatch_once(ledger, broker) == 0
    jobs.resume_job(ledger, job_id)
    run_to_end(ledger, broker)
    assert states(ledger, job_id) == [ItemState.DONE] * 2


def attempt_for(ledger: Ledger, job_id: str) -> str:
    """Make a dispatched attempt of all waiting items of a job."""
    with ledger.transaction() as connection:
        connection.execute(insert(attempts_table).values(id="late", model_digest=MODEL))
        change = {"state": "dispatched", "attempt_id": "late"}
        connection.execute(update(items_table).where(items_table.c.job_id == job_id).values(change))
    return "late"


def item_job(ledger: Ledger, attempt_id: str) -> str:
    """Return the job of an attempt's items."""
    with ledger.transaction() as connection:
        query = select(items_table.c.job_id).where(items_table.c.attempt_id == attempt_id)
        return str(connection.execute(query).scalars().first())
