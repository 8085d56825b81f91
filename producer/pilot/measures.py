"""What a pilot measures, with the uncertainty of a small sample, and the bars it is judged by. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from face0_worker.contract.errors import BadInput

_Z = 1.959964  # two-sided 95%
_DRAWS = 2000


class Judgement(StrEnum):
    """What a bar says of a measure. OPEN: the sample is too small to tell."""

    PASSED = "passed"
    FAILED = "failed"
    OPEN = "open"


@dataclass(frozen=True)
class Measure:
    """One number with its 95% interval over `n` samples; all three are None where nothing was measured."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Bar:
    """What a measure must reach: at least `limit`, or at most where `least` is false."""

    measure: str
    limit: float
    least: bool = True

    def judge(self, measure: Measure) -> Judgement:
        """Return passed or failed only where the whole interval lies on one side of the limit."""
        if measure.low is None or measure.high is None:
            return Judgement.OPEN
        low, high, limit = measure.low, measure.high, self.limit
        if not self.least:
            low, high, limit = -high, -low, -limit
        if low >= limit:
            return Judgement.PASSED
        return Judgement.FAILED if high < limit else Judgement.OPEN


# the measures that a bar may name: what is written to reports, and which way is good
AT_LEAST = ("acceptance", "first_try", "likeness", "product", "rank_1", "identity")
AT_MOST = ("seconds", "cost")
USUAL_BARS = {"acceptance": 0.9, "likeness": 0.8, "product": 0.9}


def read_bars(words: Sequence[str]) -> tuple[Bar, ...]:
    """Return the bars of words as in "acceptance=0.9", beside the usual ones, which they replace.

    Raises: BadInput: no such measure, or no number.
    """
    limits = dict(USUAL_BARS)
    for word in words:
        name, _, number = word.partition("=")
        name = name.strip().replace("-", "_")
        if name not in AT_LEAST + AT_MOST:
            raise BadInput(f"--bar {word}: there is no measure {name!r}; there are {', '.join(AT_LEAST + AT_MOST)}")
        try:
            limits[name] = float(number)
        except ValueError as error:
            raise BadInput(f"--bar {word}: expected a number, as in --bar {name}=0.9") from error
        if not math.isfinite(limits[name]):
            raise BadInput(f"--bar {word}: expected a finite number")
    return tuple(Bar(name, limit, name in AT_LEAST) for name, limit in limits.items())


def share(name: str, hits: int, n: int) -> Measure:
    """Return a share with Wilson's interval (Wilson 1927), which holds for few samples and shares near 0 and 1."""
    if not n:
        return Measure(name, None, None, None, 0)
    part = hits / n
    middle = (part + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    wide = _Z / (1 + _Z**2 / n) * math.sqrt(part * (1 - part) / n + _Z**2 / (4 * n**2))
    # at 0 and 1 the ends meet the share itself, but for rounding
    return Measure(name, part, max(min(middle - wide, part), 0.0), min(max(middle + wide, part), 1.0), n)


def mean_over_people(name: str, values: Mapping[str, Sequence[float]]) -> Measure:
    """Return the mean of all values; its interval is a bootstrap over people: pictures of one person are alike."""
    people = [np.asarray(numbers, float) for numbers in values.values() if len(numbers)]
    n = sum(len(numbers) for numbers in people)
    if not n:
        return Measure(name, None, None, None, 0)
    sums = np.array([[numbers.sum(), len(numbers)] for numbers in people])
    drawn = np.random.default_rng(0).integers(len(people), size=(_DRAWS, len(people)))
    totals = sums[drawn].sum(axis=1)
    low, high = np.percentile(totals[:, 0] / totals[:, 1], [2.5, 97.5])
    return Measure(name, float(sums[:, 0].sum() / n), float(low), float(high), n)


def exactly(name: str, value: float | None, n: int) -> Measure:
    """Return a number that was counted or timed once: its interval is itself."""
    return Measure(name, value, value, value, n)
