"""The gate's bars: what rejects a picture, what speaks against nobody, and the seeds of second chances."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.bars import Bars, Calibration, judge, of_model, retry_seed, told
from face0_worker.contract.errors import BadInput
from face0_worker.contract.receipt import Verdict

BARS = Bars(face=True, second_face=0.4, identity=0.2, sharpness=0.3, skin_drift=20.0, retries=2)
FINE = Verdict(True, "ok", 1, 0.5, 0.5, 0.2, second_face=0.1, sharpness=0.5, skin_drift=3.0)
shares = st.floats(0, 1)
verdicts = st.builds(
    Verdict,
    accepted=st.just(True),
    reason=st.just("ok"),
    faces=st.integers(0, 3),
    identity=st.none() | st.floats(-1, 1),
    brightness=shares,
    contrast=shares,
    second_face=shares,
    sharpness=st.none() | shares,
    skin_drift=st.none() | st.floats(0, 200),
)


def test_a_picture_that_reaches_every_bar_is_accepted() -> None:
    assert judge(FINE, BARS) == FINE
    assert judge(replace(FINE, identity=0.2, sharpness=0.3, skin_drift=20.0, second_face=0.4), BARS).accepted


@pytest.mark.parametrize(
    ("change", "reason", "sentence"),
    [
        ({"faces": 0, "identity": None}, "no_face", "no face was found on it"),
        ({"second_face": 0.41}, "two_people", "a second face is 0.41 as wide as the first, 0.40 at most"),
        ({"identity": 0.19}, "wrong_person", "the likeness to the photo is 0.19, 0.20 needed"),
        ({"identity": float("nan")}, "wrong_person", "the likeness to the photo is unknown, 0.20 needed"),
        ({"sharpness": 0.29}, "blurred", "its sharpness is 0.29, 0.30 needed"),
        ({"skin_drift": 20.1}, "skin_drift", "the skin's colour is 20.10 away from the photo's, 20.00 at most"),
    ],
)
def test_a_picture_below_one_bar_is_rejected_for_it(change: dict[str, Any], reason: str, sentence: str) -> None:
    verdict = judge(replace(FINE, **change), BARS)
    assert (verdict.accepted, verdict.reason) == (False, reason)
    assert told(verdict, BARS) == sentence


def test_an_identity_bar_rejects_a_picture_without_a_face_also_where_no_face_is_asked_for() -> None:
    nobody = replace(FINE, faces=0, identity=None)
    assert judge(nobody, Bars(identity=0.2)).reason == "no_face"
    assert judge(nobody, Bars()).accepted


@given(verdicts)
def test_without_bars_nobody_is_rejected(verdict: Verdict) -> None:
    assert judge(verdict, Bars()).accepted


@given(verdicts)
def test_what_is_black_flat_or_broken_stays_rejected_whatever_the_bars(verdict: Verdict) -> None:
    black = replace(verdict, accepted=False, reason="black")
    assert judge(black, Bars()) == judge(black, BARS) == black


@given(verdicts)
def test_what_a_human_accepted_stays_accepted(verdict: Verdict) -> None:
    seen = replace(verdict, reason="wrong_person", accepted_by="lead-1")
    assert judge(seen, BARS) == seen


def test_a_number_that_was_not_measured_speaks_against_nobody() -> None:
    old = Verdict(True, "ok", 1, 0.5, 0.5, 0.2)
    assert judge(old, BARS).accepted


@given(verdicts, st.floats(-1, 1), st.floats(-1, 1))
def test_a_higher_bar_never_accepts_what_a_lower_one_rejected(verdict: Verdict, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if judge(verdict, Bars(identity=high)).accepted:
        assert judge(verdict, Bars(identity=low)).accepted


@pytest.mark.parametrize(
    "wrong",
    [{"identity": 1.1}, {"sharpness": -0.1}, {"skin_drift": float("nan")}, {"retries": -1}, {"retries": 99}],
)
def test_a_bar_that_can_not_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Bars(**wrong)


def test_bars_read_back_from_json_and_later_names_are_left_out() -> None:
    written = json.loads(json.dumps(BARS.to_json()))
    assert Bars.from_json({**written, "smile": 0.5}) == BARS
    assert Bars().to_json() == {}


def test_a_model_that_was_not_calibrated_has_no_bars_and_a_calibrated_one_its_own() -> None:
    assert of_model({}) == of_model({"gate": None}) == Bars()
    gate: dict[str, Any] = {"identity": 0.1, "sharpness": 0.3, "skin_drift": 18.0, "pictures": 96, "share": 0.02}
    assert of_model({"gate": gate}) == Calibration(**gate).bars()
    assert of_model({"gate": gate}) == Bars(True, 0.4, 0.1, 0.3, 18.0, 2)


@given(st.integers(0, 2**63 - 1), st.integers(1, 20))
def test_the_seed_of_a_second_chance_is_a_seed_and_depends_on_base_and_turn_alone(seed: int, turn: int) -> None:
    again = retry_seed(seed, turn)
    assert 0 <= again < 2**63
    assert again == retry_seed(seed, turn)
    assert len({seed, again, retry_seed(seed, turn + 1), retry_seed(seed ^ 1, turn)}) == 4


def test_the_seeds_of_second_chances_stay_what_they_are() -> None:
    # part of what a list means: the same list ends with the same pictures next year
    assert [retry_seed(7, turn) for turn in (1, 2)] == [4729262141136681382, 258676190188967202]
