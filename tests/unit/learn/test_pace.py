"""How many steps fit: measured once, after the warm-up, by a clock that is given."""

from __future__ import annotations

from face0_worker.learn.pace import MEASURED_STEPS, SPARE, Pace


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_steps_are_planned_from_the_warm_ones_and_fill_the_time_that_is_left() -> None:
    clock = Clock()
    pace = Pace(minutes=10, first=20, clock=clock)
    clock.now = 75  # compiling took this
    assert pace.plan(20) is None
    clock.now += 2 * MEASURED_STEPS
    done = 20 + MEASURED_STEPS
    assert pace.plan(done) == done + int(SPARE * (600 - clock.now) / 2)


def test_nothing_is_planned_before_enough_steps_were_measured() -> None:
    clock = Clock()
    pace = Pace(minutes=10, first=20, clock=clock)
    assert [pace.plan(step) for step in range(20 + MEASURED_STEPS)] == [None] * (20 + MEASURED_STEPS)


def test_a_sitting_that_never_saw_its_first_warm_step_plans_nothing() -> None:
    assert Pace(minutes=10, first=20, clock=Clock()).plan(500) is None


def test_time_is_over_when_the_minutes_are() -> None:
    clock = Clock()
    clock.now = 1000
    pace = Pace(minutes=1, first=0, clock=clock)
    clock.now = 1059.9
    assert not pace.over()
    clock.now = 1060
    assert pace.over()
    assert pace.spent_s() == 60
