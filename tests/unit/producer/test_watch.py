"""Following a job: how fast it gets on and when it will end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from face0_worker.contract.job import ItemState, Priority
from face0_worker.records.progress import JobStatus
from producer.forecast import Forecast, duration, price
from producer.watch import Pulse


def job(done: int, total: int = 100, **fields: Any) -> JobStatus:
    counts = dict.fromkeys(ItemState, 0) | {ItemState.DONE: done, ItemState.WAITING: total - done}
    told: dict[str, Any] = {
        "id": "job-1",
        "state": "active",
        "counts": counts,
        "kept": 0,
        "total": total,
        "priority": Priority.NORMAL,
        "purpose": "catalogue",
        "consent_id": "c",
        "model_digest": "d",
        "model_name": "m",
        "model_live": True,
        "catalogue": "",
        "submitter": "",
        "created_at": datetime.now(UTC),
        "finished_at": None,
        "manifest_key": None,
    }
    return JobStatus(**{**told, **fields})


def seen(*moments: tuple[int, float]) -> Pulse:
    pulse = Pulse()
    for count, at_s in moments:
        pulse.saw(count, at_s)
    return pulse


def test_rate_and_time_left_are_told_from_what_was_seen() -> None:
    pulse = seen((20, 0.0), (28, 8.0), (28, 12.0), (36, 20.0))
    # the 20 that had ended before are nobody's rate
    assert pulse.rate() == pytest.approx(0.8)
    assert pulse.said(job(36)) == "48 a minute, about 80 s left"


def test_pictures_of_one_batch_that_end_together_are_no_rate_of_their_own() -> None:
    pulse = seen((0, 0.0), (3, 10.0), (7, 10.2), (8, 10.3))
    assert pulse.rate() == pytest.approx(8 / 10.3)


def test_a_rate_of_long_ago_is_forgotten() -> None:
    pulse = seen(
        *((number, 10.0 * number) for number in range(30)), *((30 + number, 300.0 + number) for number in range(300))
    )
    assert pulse.rate() == pytest.approx(1.0, rel=0.05)


def test_nothing_is_told_before_anything_ended_nor_when_nothing_moves() -> None:
    assert seen((0, 0.0)).said(job(0)) == ""
    assert seen((0, 0.0), (4, 0.3)).said(job(4)) == "", "a moment is no time to judge by"
    pulse = seen((0, 0.0), (8, 4.0))
    assert pulse.said(job(8)) != ""
    assert pulse.said(job(8, state="paused")) == pulse.said(job(8, model_live=False)) == ""
    assert pulse.said(job(100)) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (600, "10 min"), (5340, "89 min"), (12000, "3 h 20 min"), (7200, "2 h")],
)
def test_a_time_is_told_as_coarse_as_it_is_known(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_price_is_told_where_one_is_set() -> None:
    assert price("2.50 EUR", 720) == "0.50 EUR"
    assert price("300\u5186", 36) == "3.00 \u5186"
    assert price("0.20 EUR", 2.4) == "0.00013 EUR"
    assert price("", 720) == ""


@pytest.mark.parametrize(
    ("forecast", "says"),
    [
        (Forecast(9, 2, 1, 80.0, "0.01 EUR"), "2 batches, about 80 s on 1 worker, 0.01 EUR"),
        (Forecast(9, 1, 3, 80.0, ""), "1 batch, about 80 s on 3 workers"),
        (Forecast(9, 2, 1, None, ""), "bench --calibrate"),
        (Forecast(9, 2, 0, None, ""), "no worker offers"),
        (Forecast(0, 0, 1, 0.0, ""), "nothing to render"),
    ],
)
def test_a_forecast_says_what_is_known_and_how_to_learn_the_rest(forecast: Forecast, says: str) -> None:
    assert says in forecast.sentence()
