"""The consent gate in the ledger: granted once, required by the database's clock, revoked for good (promise P3)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from face0_worker.contract.consent import ConsentRecord, ConsentState, Purpose, Use
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.contract.job import ItemState
from face0_worker.records import consents, jobs
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import audit_outbox
from tests.ledgers import Broker, dispatch_once, end_consent_now, give_consent, run_to_end, some_items, states, submit

CATALOGUE = Use(Purpose.CATALOGUE)


def test_a_consent_is_stored_as_it_was_granted(ledger: Ledger) -> None:
    record = give_consent(ledger, purposes=(Purpose.AD, Purpose.CATALOGUE))
    assert consents.get(ledger, "c1") == record
    assert consents.list_all(ledger) == [record]
    assert consents.require(ledger, "c1", CATALOGUE, stage="submit") == record
    assert consents.get(ledger, "c2") is None


def test_a_consent_is_never_granted_twice_not_even_after_its_revocation(ledger: Ledger) -> None:
    record = give_consent(ledger)
    with pytest.raises(BadInput, match="exists already"):
        consents.grant(ledger, record)
    consents.revoke(ledger, "c1")
    with pytest.raises(BadInput, match="exists already"):
        consents.grant(ledger, record)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../c1"},
        {"id": ""},
        {"purposes": frozenset()},
        {"state": ConsentState.REVOKED},
        {"valid_until": datetime(2020, 1, 1, tzinfo=UTC)},
        {"valid_from": datetime(2020, 1, 1)},
    ],
)
def test_a_consent_that_contradicts_itself_is_refused(ledger: Ledger, change: dict[str, object]) -> None:
    now = datetime.now(UTC)
    record = ConsentRecord("c1", "s", frozenset({Purpose.AD}), now, now + timedelta(days=1))
    with pytest.raises(BadInput):
        consents.grant(ledger, replace(record, **change))  # type: ignore[arg-type]
    assert consents.list_all(ledger) == []


def test_every_refusal_says_why_and_is_audited_without_what_was_typed(ledger: Ledger) -> None:
    give_consent(ledger)
    give_consent(ledger, "later")
    for consent_id, purpose, code in [
        ("Taro Yamada", Purpose.CATALOGUE, "unknown"),
        ("c1", Purpose.AD, "wrong_purpose"),
    ]:
        with pytest.raises(ConsentRefused) as refused:
            consents.require(ledger, consent_id, Use(purpose), stage="submit")
        assert refused.value.code == code
        assert refused.value.exit_code == 3
    with ledger.transaction() as connection:
        kind = audit_outbox.c.kind == "consent.refused"
        bodies = list(connection.execute(select(audit_outbox.c.body).where(kind).order_by(audit_outbox.c.id)).scalars())
    assert [body["code"] for body in bodies] == ["unknown", "wrong_purpose"]
    assert "Yamada" not in str(bodies)


def test_an_expired_consent_is_refused_by_the_databases_clock(ledger: Ledger) -> None:
    now = datetime.now(UTC)
    record = ConsentRecord("c1", "s", frozenset({Purpose.CATALOGUE}), now - timedelta(days=2), now - timedelta(days=1))
    consents.grant(ledger, record)
    with pytest.raises(ConsentRefused) as refused:
        consents.require(ledger, "c1", CATALOGUE, stage="submit")
    assert refused.value.code == "expired"


def test_a_revocation_cancels_what_is_open_purges_what_is_done_and_spares_others(ledger: Ledger) -> None:
    give_consent(ledger)
    give_consent(ledger, "c2")
    done = submit(ledger, some_items(2))
    run_to_end(ledger, Broker())
    kept = submit(ledger, some_items(2))
    waiting = submit(ledger, some_items(2, first=10))
    other = submit(ledger, some_items(2), consent_id="c2")
    dispatch_once(ledger, Broker(), batch_size=1)
    revocation = consents.revoke(ledger, "c1", reason="asked")
    assert (revocation.pictures, revocation.cancelled, revocation.epoch) == (2, 2, 2)
    assert states(ledger, done) == states(ledger, kept) == [ItemState.PURGED] * 2
    assert states(ledger, waiting) == [ItemState.CANCELLED] * 2
    assert not {ItemState.PURGED, ItemState.CANCELLED} & set(states(ledger, other))
    assert consents.revoke(ledger, "c1") == revocation
    record = consents.get(ledger, "c1")
    assert record is not None
    assert (record.state, record.epoch, record.revoked_at) == (ConsentState.REVOKED, 2, revocation.revoked_at)


def test_revoking_what_nobody_granted_is_wrong_input(ledger: Ledger) -> None:
    with pytest.raises(BadInput, match="no such consent"):
        consents.revoke(ledger, "nobody")


def test_dispatch_cancels_jobs_whose_consent_does_not_allow_them_any_more(ledger: Ledger) -> None:
    give_consent(ledger)
    job_id = submit(ledger, some_items(3))
    end_consent_now(ledger, "c1")
    assert dispatch_once(ledger, Broker()) == 0
    assert states(ledger, job_id) == [ItemState.CANCELLED] * 3
    assert {row.error_code for row in jobs.job_items(ledger, job_id)} == {"expired"}
