"""decide is pure and total, allows nothing that the record does not say, and never more after a right is taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.consent import (
    ALLOWED,
    PICTURES,
    ConsentRecord,
    ConsentState,
    Purpose,
    Use,
    decide,
    needs_approval,
)
from face0_worker.contract.consent_document import from_document, narrows, purposes_alone, succeed, to_document
from face0_worker.contract.consent_terms import AgeBand, Approval, DataKind, Guardian, Notice, Retention, Terms
from face0_worker.contract.depictions import CATEGORIES, JAPANESE

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
names = st.sampled_from(["web", "store", "TV", "tv-*", "*", "JP", "TS-RED-1", "TS-*", "te"])
some = st.none() | st.frozensets(names, max_size=3)
times = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
terms = st.builds(
    Terms,
    age_band=st.sampled_from(AgeBand),
    guardian=st.none() | st.just(Guardian("mother", "g-1")),
    recipients=st.frozensets(names, max_size=2),
    sublicensing=st.booleans(),
    products=some,
    campaigns=some,
    channels=some,
    territories=some,
    prohibited=st.frozensets(st.sampled_from(["alcohol", "水着", "clown"])),
    approvals=st.lists(st.builds(Approval, st.sampled_from("abc"), times), max_size=3).map(tuple),
    faces=st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=2).map(tuple),
)
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
    terms=terms,
)
# of the others most are refused for their time already
live = records.map(
    lambda record: replace(
        record,
        state=ConsentState.GRANTED,
        valid_from=datetime(2020, 1, 1, tzinfo=UTC),
        valid_until=datetime(2030, 1, 2, tzinfo=UTC),
    )
)
asked = st.none() | st.just("") | names
uses = st.builds(
    Use,
    st.sampled_from(Purpose),
    asked,
    asked,
    asked,
    asked,
    st.none() | st.sampled_from(["a portrait", "a person with a Beer", "ビーチで水着の人", "two clowns"]),
    st.just("") | names,
)
RECORD = ConsentRecord("c1", "s", frozenset({Purpose.CATALOGUE}), NOON - timedelta(hours=1), NOON + timedelta(hours=1))
CATALOGUE = Use(Purpose.CATALOGUE)
TWICE = (Approval("a", NOON), Approval("b", NOON))


def with_terms(record: ConsentRecord, **changes: Any) -> ConsentRecord:
    return replace(record, terms=replace(record.terms, **changes))


@given(st.none() | records, uses, times)
def test_every_input_gets_a_decision_with_a_sentence_in_both_languages(
    record: ConsentRecord | None, use: Use, now: datetime
) -> None:
    decision = decide(record, use, now)
    assert decision.code
    for sentence, ends in ((decision.english, "."), (decision.japanese, "。")):
        assert sentence.endswith(ends)
        assert "\n" not in sentence
    assert decision.allowed == (decision == ALLOWED)


@given(records, uses, times)
def test_nothing_is_allowed_that_is_not_granted_in_time_for_that_purpose_and_approved(
    record: ConsentRecord, use: Use, now: datetime
) -> None:
    granted = (
        record.state is ConsentState.GRANTED
        and record.valid_from <= now < record.valid_until
        and use.purpose in record.purposes
        and (len({approval.by for approval in record.terms.approvals}) >= 2 or not needs_approval(record, use.purpose))
    )
    if decide(record, use, now).allowed:
        assert granted
    open_terms = Terms(age_band=record.terms.age_band, approvals=record.terms.approvals)
    assert decide(replace(record, terms=open_terms), replace(use, recipient=""), now).allowed == granted


TAKEN_AWAY: dict[str, Callable[[ConsentRecord], ConsentRecord]] = {
    "a purpose": lambda r: replace(r, purposes=frozenset(sorted(r.purposes)[1:])),
    "time at its end": lambda r: replace(r, valid_until=r.valid_until - timedelta(days=400)),
    "time at its beginning": lambda r: replace(r, valid_from=r.valid_from + timedelta(days=400)),
    "approvals": lambda r: with_terms(r, approvals=r.terms.approvals[1:]),
    "channels": lambda r: with_terms(r, channels=frozenset(sorted(r.terms.channels or ())[1:])),
    "territories": lambda r: with_terms(r, territories=frozenset(sorted(r.terms.territories or ())[1:])),
    "campaigns": lambda r: with_terms(r, campaigns=frozenset(sorted(r.terms.campaigns or ())[1:])),
    "products": lambda r: with_terms(r, products=frozenset(sorted(r.terms.products or ())[1:])),
    "a recipient": lambda r: with_terms(r, recipients=frozenset(sorted(r.terms.recipients)[1:])),
    "sublicensing": lambda r: with_terms(r, sublicensing=False),
    "a depiction": lambda r: with_terms(r, prohibited=r.terms.prohibited | {"portrait"}),
    "everything": lambda r: replace(r, state=ConsentState.REVOKED),
}


@pytest.mark.parametrize("what", TAKEN_AWAY)
@given(record=records | live, use=uses, now=times)
def test_taking_a_right_away_never_allows_more(what: str, record: ConsentRecord, use: Use, now: datetime) -> None:
    less = TAKEN_AWAY[what](record)
    assert decide(record, use, now).allowed or not decide(less, use, now).allowed


FULL = with_terms(
    replace(RECORD, purposes=frozenset({Purpose.AD, Purpose.CATALOGUE})),
    approvals=TWICE,
    recipients=frozenset({"agency"}),
    sublicensing=True,
    **{name: frozenset({"a", "b"}) for name in ("products", "campaigns", "channels", "territories")},
)


@pytest.mark.parametrize("what", TAKEN_AWAY)
def test_each_right_that_is_taken_away_counts_as_narrower_and_coming_back_does_not(what: str) -> None:
    full = with_terms(FULL, sublicensing=False) if what == "a recipient" else FULL
    assert narrows(full, TAKEN_AWAY[what](full))
    assert not narrows(TAKEN_AWAY[what](full), full)


@given(old=records | live, new=records | live, use=uses, now=times)
def test_a_version_that_refuses_what_the_one_before_allowed_counts_as_narrower(
    old: ConsentRecord, new: ConsentRecord, use: Use, now: datetime
) -> None:
    # near enough to differ in few things, or nothing would ever be allowed by one and refused by the other
    for near in (
        new,
        replace(old, terms=new.terms),
        replace(new, terms=old.terms),
        with_terms(old, channels=frozenset()),
    ):
        if decide(old, use, now).allowed and not decide(near, use, now).allowed:
            assert narrows(old, near)
            assert succeed(old, near, "").epoch == old.epoch + 1
    assert not narrows(old, old) or old.state is ConsentState.REVOKED


@given(records, uses, times)
def test_a_revoked_consent_allows_nothing_and_the_sentence_never_names_the_person(
    record: ConsentRecord, use: Use, now: datetime
) -> None:
    subject = "Somebody Somewhere"
    decision = decide(replace(record, subject=subject, state=ConsentState.REVOKED), use, now)
    assert decision.code == "revoked"
    assert subject not in decision.english + decision.japanese


@given(live, st.sampled_from(PICTURES), times)
def test_what_an_old_program_may_decide_alone_is_never_more_than_the_rule_allows(
    record: ConsentRecord, purpose: Purpose, now: datetime
) -> None:
    if purpose in purposes_alone(record):
        # a job of an old program names nothing
        assert decide(record, Use(purpose, "", "", "", "any SKU", "a beer"), now).allowed


@given(records)
def test_a_document_gives_back_the_record(record: ConsentRecord) -> None:
    document = to_document(record, {"kind": "granted", "at": NOON, "by": "staff-1"})
    assert from_document(document) == replace(record, revoked_at=None)


def test_each_refusal_has_its_code() -> None:
    revoked = replace(RECORD, state=ConsentState.REVOKED, revoked_at=NOON)
    assert decide(None, CATALOGUE, NOON).code == "unknown"
    assert decide(revoked, CATALOGUE, NOON).code == "revoked"
    assert decide(RECORD, CATALOGUE, NOON - timedelta(hours=2)).code == "not_yet_valid"
    assert decide(RECORD, CATALOGUE, RECORD.valid_from) == ALLOWED
    assert decide(RECORD, CATALOGUE, RECORD.valid_until).code == "expired"
    assert decide(RECORD, Use(Purpose.AD), NOON).code == "wrong_purpose"


@pytest.mark.parametrize(
    ("terms", "use", "code"),
    [
        ({"channels": frozenset({"web"})}, Use(Purpose.CATALOGUE, channel="Web"), "allowed"),
        ({"channels": frozenset({"web"})}, Use(Purpose.CATALOGUE, channel="tv"), "wrong_channel"),
        ({"channels": frozenset({"web"})}, Use(Purpose.CATALOGUE, channel=""), "wrong_channel"),
        ({"channels": frozenset({"web"})}, CATALOGUE, "allowed"),
        ({"channels": frozenset()}, Use(Purpose.CATALOGUE, channel="web"), "wrong_channel"),
        ({"territories": frozenset({"JP"})}, Use(Purpose.CATALOGUE, territory="jp"), "allowed"),
        ({"territories": frozenset({"JP"})}, Use(Purpose.CATALOGUE, territory="US"), "wrong_territory"),
        ({"campaigns": frozenset({"spring"})}, Use(Purpose.CATALOGUE, campaign="autumn"), "wrong_campaign"),
        ({"products": frozenset({"TS-*"})}, CATALOGUE.of_item("ts-red-1", ""), "allowed"),
        ({"products": frozenset({"TS-*"})}, CATALOGUE.of_item("KN-1", ""), "wrong_product"),
        ({"prohibited": frozenset({"alcohol"})}, CATALOGUE.of_item("A", "a person with beers"), "prohibited_depiction"),
        ({"prohibited": frozenset({"alcohol"})}, CATALOGUE.of_item("A", "ビールを持つ人"), "prohibited_depiction"),
        ({"prohibited": frozenset({"alcohol"})}, CATALOGUE.of_item("A", "a ginger jacket"), "allowed"),
        ({"prohibited": frozenset({"underwear"})}, CATALOGUE.of_item("A", "ｂｉｋｉｎｉ"), "prohibited_depiction"),
        ({"prohibited": frozenset({"Clown"})}, CATALOGUE.of_item("A", "two clowns"), "prohibited_depiction"),
        ({"prohibited": frozenset({"red nose"})}, CATALOGUE.of_item("A", "a red  \nnose"), "prohibited_depiction"),
        ({"recipients": frozenset({"Agency"})}, Use(Purpose.CATALOGUE, recipient="agency"), "allowed"),
        ({}, Use(Purpose.CATALOGUE, recipient="agency"), "wrong_recipient"),
        ({"sublicensing": True}, Use(Purpose.CATALOGUE, recipient="agency"), "allowed"),
        ({"age_band": AgeBand.AGED_16_17}, CATALOGUE, "not_approved"),
        ({"age_band": AgeBand.AGED_16_17, "approvals": TWICE[:1] * 2}, CATALOGUE, "not_approved"),
        ({"age_band": AgeBand.AGED_16_17, "approvals": TWICE}, CATALOGUE, "allowed"),
    ],
)
def test_what_a_consent_restricts_is_refused_outside_and_allowed_inside(
    terms: dict[str, Any], use: Use, code: str
) -> None:
    assert decide(with_terms(RECORD, **terms), use, NOON).code == code


def test_an_ad_waits_for_two_different_approvers() -> None:
    ad = replace(RECORD, purposes=frozenset({Purpose.AD, Purpose.CATALOGUE}))
    assert decide(ad, CATALOGUE, NOON) == ALLOWED
    for approvals in ((), TWICE[:1], TWICE[:1] * 2):
        assert decide(with_terms(ad, approvals=approvals), Use(Purpose.AD), NOON).code == "not_approved"
    assert decide(with_terms(ad, approvals=TWICE), Use(Purpose.AD), NOON) == ALLOWED
    assert decide(with_terms(ad, age_band=AgeBand.NOBODY), Use(Purpose.AD), NOON) == ALLOWED


def test_approvals_are_of_what_was_approved() -> None:
    approved = with_terms(RECORD, approvals=TWICE, channels=frozenset({"web", "tv"}))
    wider = succeed(approved, with_terms(approved, channels=frozenset({"web", "tv", "store"})), "")
    narrower = succeed(approved, with_terms(approved, channels=frozenset({"web"})), "")
    assert (wider.terms.approvals, narrower.terms.approvals) == ((), TWICE)
    assert (wider.epoch, narrower.epoch) == (2, 2)
    enrolled = succeed(approved, with_terms(approved, faces=("f" * 64,)), "")
    assert (enrolled.terms.approvals, enrolled.epoch, enrolled.version) == (TWICE, 1, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"controller": "somebody else"},
        {"guardian": Guardian("father", "guardian-2")},
        {"notice": Notice("https://shop.example/2", "0" * 64, "en")},
        {"retention": Retention(pictures=3650)},
        {"data_kinds": frozenset(DataKind)},
    ],
)
def test_what_is_no_restriction_is_approved_anew(changes: dict[str, Any]) -> None:
    approved = with_terms(RECORD, approvals=TWICE)
    changed = succeed(approved, with_terms(approved, **changes), "")
    assert (changed.terms.approvals, changed.epoch) == ((), 2)
    assert succeed(approved, replace(approved, subject="another"), "").terms.approvals == ()


def test_a_refusal_is_one_line_whatever_was_typed() -> None:
    decision = decide(with_terms(RECORD, channels=frozenset({"web\n"})), Use(Purpose.CATALOGUE, channel="a\r\nb"), NOON)
    assert not {"\n", "\r"} & set(decision.english + decision.japanese)
    assert "asked for: a b." in decision.english


def test_a_refusal_reads_as_japanese_where_nothing_was_named_or_allowed() -> None:
    unnamed = decide(with_terms(RECORD, channels=frozenset({"web"})), Use(Purpose.CATALOGUE, channel=""), NOON)
    assert "許諾された媒体は web のみです(指定: なし)" in unnamed.japanese
    nothing = decide(with_terms(RECORD, channels=frozenset()), Use(Purpose.CATALOGUE, channel="tv"), NOON)
    assert "許諾された媒体はありません(指定: tv)" in nothing.japanese
    drink = decide(with_terms(RECORD, prohibited=frozenset({"alcohol"})), CATALOGUE.of_item("A", "beer"), NOON)
    assert "「酒類」に関する描写" in drink.japanese
    assert set(JAPANESE) == set(CATEGORIES)
