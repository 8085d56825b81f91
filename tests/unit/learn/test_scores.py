"""What is counted: ranks, areas, intervals, and what a picture without a face is worth."""

from __future__ import annotations

import numpy as np
import pytest

from face0_worker.learn.scores import (
    NO_FACE,
    Trials,
    area_under_curve,
    likeness,
    measured_mean,
    measured_verification,
    pixel_spread,
    rank_one,
    spread,
    trials,
    verification,
)


def test_the_area_is_the_share_of_pairs_in_the_right_order_and_a_tie_counts_half() -> None:
    rng = np.random.default_rng(0)
    same, different = rng.integers(3, 12, 40) / 10, rng.integers(0, 9, 70) / 10
    pairs = [(s > d) + 0.5 * (s == d) for s in same for d in different]
    assert area_under_curve(same, different) == pytest.approx(np.mean(pairs))


def test_somebody_who_is_drawn_twice_counts_twice() -> None:
    rng = np.random.default_rng(3)
    tried = [Trials(rng.standard_normal(3), rng.standard_normal((3, 4))) for _ in range(3)]
    drawn = verification(tried)(np.array([2.0, 0.0, 1.0]))
    assert drawn == pytest.approx(verification([tried[0], tried[0], tried[2]])(np.ones(3)))
    assert drawn != pytest.approx(verification(tried)(np.ones(3)))


def test_the_nearest_photo_must_be_the_persons_own_and_a_tie_is_a_miss() -> None:
    tried = Trials(np.array([0.9, 0.3, 0.5]), np.array([[0.1, 0.2], [0.4, 0.2], [0.5, 0.1]]))
    assert rank_one(tried) == pytest.approx(1 / 3)


def test_people_are_compared_with_their_own_photo_and_with_everyone_elses() -> None:
    gallery = np.eye(3)
    tried = trials(np.array([[0.8, 0.6, 0.0]]), np.array([True]), gallery, place=1)
    assert tried.own.tolist() == [0.6]
    assert tried.others.tolist() == [[0.8, 0.0]]


def test_a_picture_without_a_face_is_a_miss_everywhere_and_never_looks_unlike_a_stranger() -> None:
    seen = trials(np.eye(3)[[0, 0]], np.array([True, False]), np.eye(3), place=0)
    assert rank_one(seen) == 0.5
    assert likeness(seen) == 0.5
    # one pair of four is won by the face, none by the empty picture
    assert verification([seen])(np.ones(1)) == pytest.approx(0.5)
    nothing = trials(np.eye(3)[[0]], np.array([False]), np.eye(3), place=0)
    assert rank_one(nothing) == 0.0
    assert nothing.own.tolist() == [NO_FACE]


def test_guessing_gets_an_area_of_one_half() -> None:
    rng = np.random.default_rng(1)
    tried = [Trials(rng.standard_normal(8), rng.standard_normal((8, 9))) for _ in range(50)]
    row = measured_verification("auc", tried)
    assert row.low < 0.5 < row.high
    assert row.value == pytest.approx(0.5, abs=0.05)


def test_the_interval_is_over_people_and_not_over_their_pictures() -> None:
    # each person's pictures agree with each other: many pictures do not make it surer
    few = measured_mean("x", [0.0, 1.0] * 10)
    assert few.n == 20
    assert few.value == 0.5
    assert few.high - few.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(20), rel=0.2)
    assert measured_mean("x", [0.7] * 20).low == pytest.approx(0.7)


def test_the_same_numbers_give_the_same_interval() -> None:
    values = list(np.random.default_rng(2).random(12))
    assert measured_mean("x", values) == measured_mean("x", values)


def test_nobody_is_not_a_number() -> None:
    row = measured_mean("x", [])
    assert row.n == 0
    assert np.isnan(row.value)


def test_diversity_is_the_mean_distance_of_two_pictures() -> None:
    assert spread(np.eye(3)) == pytest.approx(1.0)
    assert spread(np.eye(3)[[0, 0]]) == pytest.approx(0.0)
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert pixel_spread(np.stack([black, white])) == pytest.approx(1.0)
    assert pixel_spread(np.stack([black, black, white])) == pytest.approx(2 / 3)
