"""decide is pure and total, and what it allows is exactly what the record says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.consent import ALLOWED, ConsentRecord, ConsentState, Purpose, Use, decide

times = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
records = st.builds(
    ConsentRecord,
    id=st.text(min_size=1),
    subject=st.text(),
    purposes=st.frozensets(st.sampled_from(Purpose)),
    valid_from=times,
    valid_until=times,
    state=st.sampled_from(ConsentState),
    epoch=st.integers(1, 9),
    revoked_at=st.none() | times,
)
uses = st.builds(Use, st.sampled_from(Purpose))

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RECORD = ConsentRecord("c1", "s", frozenset({Purpose.CATALOGUE}), NOON - timedelta(hours=1), NOON + timedelta(hours=1))
CATALOGUE = Use(Purpose.CATALOGUE)


@given(st.none() | records, uses, times)
def test_every_input_gets_a_decision_with_a_sentence_in_both_languages(
    record: ConsentRecord | None, use: Use, now: datetime
) -> None:
    decision = decide(record, use, now)
    assert decision.code
    assert decision.english
    assert decision.japanese
    assert decision.allowed == (decision == ALLOWED)


@given(records, uses, times)
def test_a_use_is_allowed_exactly_when_granted_in_time_and_for_that_purpose(
    record: ConsentRecord, use: Use, now: datetime
) -> None:
    expected = (
        record.state is ConsentState.GRANTED
        and record.valid_from <= now < record.valid_until
        and use.purpose in record.purposes
    )
    assert decide(record, use, now).allowed == expected


@given(records, uses, times)
def test_a_revoked_consent_allows_nothing_and_the_sentence_never_names_the_person(
    record: ConsentRecord, use: Use, now: datetime
) -> None:
    subject = "Somebody Somewhere"
    decision = decide(replace(record, subject=subject, state=ConsentState.REVOKED), use, now)
    assert decision.code == "revoked"
    assert subject not in decision.english + decision.japanese


def test_each_refusal_has_its_code() -> None:
    revoked = replace(RECORD, state=ConsentState.REVOKED, revoked_at=NOON)
    assert decide(None, CATALOGUE, NOON).code == "unknown"
    assert decide(revoked, CATALOGUE, NOON).code == "revoked"
    assert decide(RECORD, CATALOGUE, NOON - timedelta(hours=2)).code == "not_yet_valid"
    assert decide(RECORD, CATALOGUE, RECORD.valid_from) == ALLOWED
    assert decide(RECORD, CATALOGUE, RECORD.valid_until).code == "expired"
    assert decide(RECORD, Use(Purpose.AD), NOON).code == "wrong_purpose"
