"""An outage that is met a thousand times is told in few lines."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from face0_worker.contract.errors import BrokerDown, LedgerDown, StorageDown
from face0_worker.outages import ECHO_S, Outages
from face0_worker.telemetry import configure

Told = Callable[[], list[dict[str, Any]]]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told() -> Told:
    """What has been logged so far."""
    stream = io.StringIO()
    configure(stream=stream, json=True)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_half_a_minute_of_failed_calls_is_one_line_and_its_end_another(
    told: Told,
) -> None:
    clock = Clock()
    outages = Outages(clock)
    error = LedgerDown("the ledger at X does not answer")
    for _ in range(3000):
        outages.saw(error)
        clock.now += 0.01
    outages.answered([error])
    down, back = told()
    assert (down["event"], down["service"], down["level"]) == ("service.down", "ledger", "warning")
    assert down["reason"] == "the ledger at X does not answer"
    assert (back["event"], back["service"], back["seconds"]) == ("service.back", "ledger", 30.0)


def test_a_long_outage_is_remembered_ever_more_rarely(told: Told) -> None:
    clock = Clock()
    outages = Outages(clock)
    for _ in range(3600):
        outages.saw(StorageDown("away"))
        clock.now += 1.0
    reminders = [line["seconds"] for line in told() if line["event"] == "service.still_down"]
    assert reminders == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0]


def test_services_are_told_apart_and_what_was_not_away_is_not_back(told: Told) -> None:
    outages = Outages(Clock())
    broker, ledger = BrokerDown("b"), LedgerDown("l")
    outages.looked([broker, ledger])
    outages.looked([broker])
    outages.looked([broker])
    outages.looked([])
    outages.answered([ledger])
    assert [(line["event"], line["service"]) for line in told()] == [
        ("service.down", "broker"),
        ("service.down", "ledger"),
        ("service.back", "ledger"),
        ("service.back", "broker"),
    ]


def test_what_began_before_a_service_was_back_is_no_new_outage_and_a_new_one_is_told(told: Told) -> None:
    clock = Clock()
    outages = Outages(clock)
    error = LedgerDown("away")
    outages.saw(error)
    outages.answered([error])
    clock.now += ECHO_S - 0.1
    outages.saw(error)
    outages.answered([error])
    assert [line["event"] for line in told()] == ["service.down", "service.back"]
    outages.saw(error)
    clock.now += 0.2
    outages.saw(error)
    clock.now += 7.0
    outages.answered([error])
    *_, down, back = told()
    assert (down["event"], back["event"], back["seconds"]) == ("service.down", "service.back", 7.0)
