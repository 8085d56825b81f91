"""The commit transaction, on a real PostgreSQL (promises P2, P3, P4, P5)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from sqlalchemy import func, select, update

from face0_worker.contract.consent import Purpose
from face0_worker.contract.errors import BadInput, ConsentRefused, Face0Error
from face0_worker.contract.job import ItemState
from face0_worker.records import attempts, audit, commits, consents, jobs
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import audit_events
from face0_worker.records.tables import commits as commits_table
from face0_worker.records.tables import consents as consents_table
from tests.ledgers import (
    GOOD,
    Broker,
    claim_all,
    claim_items,
    commit_item,
    digest,
    dispatch_once,
    give_consent,
    run_to_end,
    some_items,
    states,
    submit,
)


def test_a_committed_picture_can_be_found_by_key_and_by_digest(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    (item,) = claim.items
    assert commit_item(ledger, claim, item, "a picture") == "committed"
    found = commits.find_commit(ledger, item_key=item.item_key)
    assert found is not None
    assert found == commits.find_commit(ledger, picture_sha256=digest("a picture"))
    assert (found.consent_id, found.consent_epoch, found.receipt, found.purged) == ("c1", 1, b"receipt", False)
    assert found.receipt_key == f"receipts/c1/{item.item_key}.json"
    assert states(ledger, item.job_id) == [ItemState.DONE]


def test_a_commit_whose_answer_was_lost_can_be_repeated(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    assert [commit_item(ledger, claim, claim.items[0]) for _ in range(2)] == ["committed", "committed"]
    assert audit_kinds(ledger).count("picture.committed") == 1


def test_a_second_picture_of_a_committed_item_is_not_taken(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    (item,) = claim.items
    commit_item(ledger, claim, item, "first")
    assert commit_item(ledger, claim, item, "second") == "kept"
    found = commits.find_commit(ledger, item_key=item.item_key)
    assert found is not None
    assert found.picture_sha256 == digest("first")


def test_a_picture_under_a_foreign_key_is_not_taken(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    (item,) = claim.items
    sha256 = digest("picture")
    foreign = f"pictures/c2/{item.item_key}/{sha256}.png"
    with pytest.raises(BadInput):
        commits.commit(ledger, claim.attempt_id, claim.token, item, foreign, sha256, b"", GOOD)


def test_no_commit_after_a_revocation_and_its_item_is_cancelled(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(2))
    commit_item(ledger, claim, claim.items[0])
    consents.revoke(ledger, "c1")
    with pytest.raises(ConsentRefused) as refused:
        commit_item(ledger, claim, claim.items[1])
    assert refused.value.code == "revoked"
    assert states(ledger, claim.items[0].job_id) == [ItemState.PURGED, ItemState.CANCELLED]
    assert commits.find_commit(ledger, item_key=claim.items[1].item_key) is None
    purged = commits.find_commit(ledger, item_key=claim.items[0].item_key)
    assert purged is not None
    assert purged.purged


def test_a_commit_of_another_epoch_is_refused_and_the_item_is_rendered_again(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    (item,) = claim.items
    with pytest.raises(ConsentRefused) as refused:
        commit_item(ledger, claim, replace(item, consent_epoch=item.consent_epoch + 1))
    assert refused.value.code == "changed"
    assert states(ledger, item.job_id) == [ItemState.WAITING]


def test_commits_racing_with_revocations_never_come_after_them(ledger: Ledger) -> None:
    """A hundred pairs: of each, either the commit stands and was purged by the later revocation, or it was refused."""
    pairs, workers = 100, 20
    claims = {}
    for number in range(pairs):
        give_consent(ledger, f"c{number}")
        submit(ledger, some_items(1), consent_id=f"c{number}")
    broker = Broker()
    dispatch_once(ledger, broker, batch_size=1, window=pairs)
    for claim in claim_all(ledger, broker):
        claims[claim.items[0].subject.consent_id] = claim
    assert len(claims) == pairs
    barriers = {consent_id: Barrier(2, timeout=60) for consent_id in claims}

    def commit(consent_id: str) -> bool:
        claim = claims[consent_id]
        barriers[consent_id].wait()
        try:
            return commit_item(ledger, claim, claim.items[0]) == "committed"
        except ConsentRefused:
            return False

    def revoke(consent_id: str) -> consents.Revocation:
        barriers[consent_id].wait()
        return consents.revoke(ledger, consent_id)

    with ThreadPoolExecutor(workers) as pool:
        waiting = [(c, pool.submit(commit, c), pool.submit(revoke, c)) for c in claims]
        outcomes = {c: (committed.result(), revocation.result()) for c, committed, revocation in waiting}
    for consent_id, (committed, revocation) in outcomes.items():
        item = claims[consent_id].items[0]
        found = commits.find_commit(ledger, item_key=item.item_key)
        assert (found is not None) == committed
        assert revocation.pictures == int(committed)
        (state,) = states(ledger, item.job_id)
        if found is None:
            assert state == ItemState.CANCELLED
        else:
            assert state == ItemState.PURGED
            assert found.purged
            assert found.committed_at < revocation.revoked_at
            assert found.consent_epoch < revocation.epoch


def test_a_revocation_ends_while_commits_keep_coming(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(120))
    broker = Broker()
    dispatch_once(ledger, broker, batch_size=20, window=6)
    claims = claim_all(ledger, broker)
    started = Barrier(len(claims) + 1, timeout=60)

    def commit_on(claim: attempts.Claim) -> int:
        started.wait()
        for number, item in enumerate(claim.items):
            try:
                commit_item(ledger, claim, item)
            except ConsentRefused:
                return number
        return len(claim.items)

    with ThreadPoolExecutor(len(claims)) as pool:
        running = [pool.submit(commit_on, claim) for claim in claims]
        started.wait()
        revocation = consents.revoke(ledger, "c1")
        committed = sum(run.result() for run in running)
    assert revocation.pictures == committed
    assert revocation.pictures + revocation.cancelled == 120


def test_the_same_item_in_two_jobs_is_rendered_once(ledger: Ledger) -> None:
    give_consent(ledger)
    first, second = submit(ledger, some_items(9)), submit(ledger, some_items(9, first=3))
    batches = run_to_end(ledger, Broker(), batch_size=2)
    rendered = [item.item_key for batch in batches for item in batch]
    assert len(rendered) == len(set(rendered)) == 12
    assert states(ledger, first) == states(ledger, second) == [ItemState.DONE] * 9
    kept = [jobs.job_status(ledger, job_id).kept for job_id in (first, second)]
    assert sum(kept) == 6
    assert all(row.picture_sha256 for job_id in (first, second) for row in jobs.job_items(ledger, job_id))


def test_a_waiting_twin_is_kept_at_the_moment_of_the_commit(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    twin = submit(ledger, some_items(1))
    assert states(ledger, twin) == [ItemState.WAITING]
    commit_item(ledger, claim, claim.items[0])
    (row,) = jobs.job_items(ledger, twin)
    assert (row.state, row.kept, row.picture_sha256) == (ItemState.DONE, True, digest("picture"))


def test_an_item_whose_twin_failed_is_rendered_itself(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    twin = submit(ledger, some_items(1))
    broker = Broker()
    assert dispatch_once(ledger, broker) == 0
    attempts.fail_item(ledger, claim.attempt_id, claim.token, claim.items[0].item_id, "nan", "not a number")
    run_to_end(ledger, broker)
    assert states(ledger, twin) == [ItemState.DONE]


def test_a_twin_for_another_purpose_is_kept_only_if_the_consent_allows_that_purpose(ledger: Ledger) -> None:
    give_consent(ledger, purposes=(Purpose.CATALOGUE, Purpose.AD))
    claim = claim_items(ledger, some_items(1))
    twin = submit(ledger, some_items(1), purpose="ad")
    narrow(ledger, "c1", [Purpose.CATALOGUE])
    commit_item(ledger, claim, claim.items[0])
    assert states(ledger, twin) == [ItemState.WAITING]
    run_to_end(ledger, Broker())
    assert states(ledger, twin) == [ItemState.CANCELLED]


def narrow(ledger: Ledger, consent_id: str, purposes: list[Purpose]) -> None:
    """Let the consent name fewer purposes, behind the back of the room that would cancel what waits."""
    terms = consents_table.c.terms.concat({"purposes": purposes})
    fewer = update(consents_table).where(consents_table.c.id == consent_id).values(terms=terms)
    with ledger.transaction() as connection:
        connection.execute(fewer)


def test_receipts_wait_to_be_published_until_they_are(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(2))
    for item in claim.items:
        commit_item(ledger, claim, item)
    first, second = commits.pending_receipts(ledger)
    assert first == (claim.items[0].item_key, f"receipts/c1/{claim.items[0].item_key}.json", b"receipt")
    commits.mark_published(ledger, first[0])
    assert commits.pending_receipts(ledger) == [second]
    consents.revoke(ledger, "c1")
    assert commits.pending_receipts(ledger) == []


def test_each_commit_has_exactly_one_audit_event_and_the_reverse(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(7))
    submit(ledger, some_items(7))
    run_to_end(ledger, Broker())
    audit.chain(ledger)
    with ledger.transaction() as connection:
        committed = connection.execute(select(commits_table.c.item_key)).scalars().all()
        body = func.cast(audit_events.c.body, commits_table.c.verdict.type)
        named = (
            connection.execute(select(body["item_key"].astext).where(audit_events.c.kind == "picture.committed"))
            .scalars()
            .all()
        )
    assert sorted(committed) == sorted(named)
    assert len(committed) == 7


def test_a_refused_commit_leaves_an_audit_event_and_no_commit(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    consents.revoke(ledger, "c1")
    with pytest.raises(Face0Error):
        commit_item(ledger, claim, claim.items[0])
    kinds = audit_kinds(ledger)
    assert "picture.committed" not in kinds
    assert kinds.count("consent.refused") == 1


def audit_kinds(ledger: Ledger) -> list[str]:
    """Chain what waits and return the kinds of all events in order."""
    audit.chain(ledger)
    with ledger.transaction() as connection:
        return list(connection.execute(select(audit_events.c.kind).order_by(audit_events.c.seq)).scalars())
