"""Measure a worker's pace: which batch is best for a size on this device, and what a picture then costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from face0_worker.contract.errors import BadInput, OutOfMemory
from face0_worker.contract.guidance import evaluations
from face0_worker.contract.job import RenderItem
from face0_worker.contract.pace import Pace

# a larger batch has to be worth it: urgent work waits for the batch before it to end
WORTH = 0.03
# steps of the short and of the long measurement; their difference is the denoiser's share
SHORT, LONG = 1, 5

Paint = Callable[[Sequence[RenderItem]], object]
"""Renders items on the device and returns when they are done. Raises: OutOfMemory."""
Clock = Callable[[], float]


@dataclass(frozen=True)
class Trial:
    """One batch size, measured: seconds a picture, once and for each evaluation of the denoiser."""

    batch: int
    fixed_s: float
    row_s: float

    def seconds(self, rows: int) -> float:
        """Return how long a picture of so many evaluations takes."""
        return self.fixed_s + self.row_s * rows


def calibrate(
    paint: Paint, example: RenderItem, *, most: int, rounds: int, say: Callable[[str], None], clock: Clock | None = None
) -> Pace:
    """Return the pace for items like `example`: of the batches 1, 2, 4 ... `most` the smallest within 3% of the best.

    Each batch is rendered once to warm up, then `rounds` times with few and with more steps in turn; medians count.
    Larger batches are left alone once one does not fit into memory, or two in a row are no better.
    Raises: BadInput: not even one picture fits into the device's memory. What else the renderer raises.
    """
    trials: list[Trial] = []
    rows, worse, batch = evaluations(example.guidance, example.steps), 0, 1
    while batch <= most and worse < 2:
        try:
            trial = _try(paint, example, batch, rounds, clock or time.perf_counter)
        except OutOfMemory:
            say(f"{example.width}x{example.height}: a batch of {batch} does not fit into the device's memory")
            break
        fastest = min((one.seconds(rows) for one in trials), default=float("inf"))
        worse = 0 if trial.seconds(rows) < fastest * (1 - WORTH) else worse + 1
        trials.append(trial)
        say(f"{example.width}x{example.height}, batch {batch}: {1 / trial.seconds(rows):.3g} pictures/s")
        batch *= 2
    if not trials:
        raise BadInput(f"not one picture of {example.width}x{example.height} px fits into the device's memory")
    best = choose(trials, rows)
    return Pace(example.width, example.height, best.batch, round(best.fixed_s, 6), round(best.row_s, 6))


def choose(trials: Sequence[Trial], rows: int) -> Trial:
    """Return the trial with the smallest batch that is within 3% of the fastest. Pure."""
    fastest = min(trial.seconds(rows) for trial in trials)
    return min((trial for trial in trials if trial.seconds(rows) * (1 - WORTH) <= fastest), key=lambda one: one.batch)


def _try(paint: Paint, example: RenderItem, batch: int, rounds: int, clock: Clock) -> Trial:
    short, long = (
        [replace(example, sku=f"pace-{number}", seed=number, steps=steps) for number in range(batch)]
        for steps in (SHORT, LONG)
    )
    paint(long)
    spent: dict[int, list[float]] = {SHORT: [], LONG: []}
    for _ in range(rounds):
        for items in (short, long):
            begun = clock()
            paint(items)
            spent[items[0].steps].append(clock() - begun)
    few, more = (statistics.median(spent[steps]) / batch for steps in (SHORT, LONG))
    few_rows, more_rows = (evaluations(example.guidance, steps) for steps in (SHORT, LONG))
    # on a busy machine the short run may seem the longer one; a step never costs less than nothing
    row_s = max((more - few) / (more_rows - few_rows), 0.0)
    return Trial(batch, max(few - few_rows * row_s, 0.0), row_s)
