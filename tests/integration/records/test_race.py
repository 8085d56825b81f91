"""A thousand commits against fifty revocations on a real PostgreSQL: none comes after its revocation (promise P3)."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

from sqlalchemy import func, select

from face0_worker.contract.errors import ConsentRefused, ItemFailed
from face0_worker.contract.job import ItemState
from face0_worker.records import attempts, consents
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import audit_outbox, commits, items, jobs
from face0_worker.records.tables import consents as consents_table
from tests.ledgers import Broker, claim_all, commit_item, dispatch_once, give_consent, some_items, submit

PEOPLE, EACH, COMMITTERS, REVOKERS = 50, 20, 12, 3


def test_of_a_thousand_commits_none_comes_after_its_revocation(ledger: Ledger) -> None:
    people = [f"c{number}" for number in range(PEOPLE)]
    for consent_id in people:
        give_consent(ledger, consent_id)
        submit(ledger, some_items(EACH), consent_id=consent_id)
    broker = Broker()
    # batches mix people, so that a revocation meets every worker
    dispatch_once(ledger, broker, batch_size=PEOPLE, window=EACH)
    claims = claim_all(ledger, broker, lease_s=600)
    work = [(claim, item) for claim in claims for item in claim.items]
    assert len(work) == PEOPLE * EACH
    order = random.Random(7)
    order.shuffle(work)
    order.shuffle(people)
    start, first = Barrier(COMMITTERS + REVOKERS, timeout=120), Event()

    def commit_all(number: int) -> int:
        start.wait()
        done = 0
        for claim, item in work[number::COMMITTERS]:
            try:
                done += commit_item(ledger, claim, item, item.item_key) == "committed"
            except (ConsentRefused, ItemFailed):
                continue
            first.set()
        return done

    def revoke_all(number: int) -> None:
        start.wait()
        assert first.wait(120)
        for consent_id in people[number::REVOKERS]:
            consents.revoke(ledger, consent_id)

    with ThreadPoolExecutor(COMMITTERS + REVOKERS) as pool:
        revoking = [pool.submit(revoke_all, number) for number in range(REVOKERS)]
        committing = [pool.submit(commit_all, number) for number in range(COMMITTERS)]
        committed = sum(one.result() for one in committing)
        for one in revoking:
            one.result()
    assert committed
    for claim in claims:
        attempts.finish_attempt(ledger, claim.attempt_id, claim.token)
    _check(ledger, committed)


def _check(ledger: Ledger, committed: int) -> None:
    with ledger.transaction() as connection:
        both = select(func.count()).select_from(
            commits.join(consents_table, consents_table.c.id == commits.c.consent_id)
        )
        assert connection.execute(both).scalar_one() == committed
        late = both.where(
            (commits.c.committed_at >= consents_table.c.revoked_at)
            | (commits.c.consent_epoch >= consents_table.c.epoch)
            | commits.c.purged_at.is_(None)
        )
        assert connection.execute(late).scalar_one() == 0
        counted = select(items.c.state, func.count()).select_from(items.join(jobs)).group_by(items.c.state)
        assert dict(connection.execute(counted).all()) == {
            ItemState.PURGED: committed,
            ItemState.CANCELLED: PEOPLE * EACH - committed,
        }
        events = connection.execute(select(audit_outbox.c.kind, audit_outbox.c.body).order_by(audit_outbox.c.id)).all()
    revoked: set[str] = set()
    told = 0
    for event in events:
        if event.kind == "consent.revoked":
            revoked.add(event.body["consent_id"])
        elif event.kind == "picture.committed":
            told += 1
            assert event.body["consent_id"] not in revoked, "the log tells a commit after the revocation"
    assert (told, len(revoked)) == (committed, PEOPLE)
