"""How long a training may take, and how many steps fit into that time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

MEASURED_STEPS = 40
SPARE = 0.96  # of the time that is left: checkpoints and samples take some


@dataclass
class Pace:
    """The clock of one sitting: `minutes` from its making; `first` is the first step that counts as warmed up."""

    minutes: float
    first: int
    clock: Callable[[], float] = monotonic
    _start: float = field(init=False)
    _mark: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._start = self.clock()

    def spent_s(self) -> float:
        """Seconds since this sitting began."""
        return self.clock() - self._start

    def over(self) -> bool:
        """Tell whether the time is up."""
        return self.spent_s() >= 60 * self.minutes

    def plan(self, step: int) -> int | None:
        """Return how many steps fill the time allowed, once enough have been measured; None before that.

        Call it once after each step that has really ended, with the number of steps done in all.
        """
        if step == self.first:
            self._mark = self.clock()
        if step < self.first + MEASURED_STEPS or self._mark is None:
            return None
        each_s = (self.clock() - self._mark) / (step - self.first)
        left_s = max(0.0, 60 * self.minutes - self.spent_s())
        return step + int(SPARE * left_s / max(each_s, 1e-6))
