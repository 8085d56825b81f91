"""Rendered pictures by their jobs' bars: accepted, or rejected and made again with the next seed. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from face0_worker.contract.bars import judge, retry_seed
from face0_worker.contract.errors import Face0Error, ItemFailed
from face0_worker.contract.receipt import Verdict
from face0_worker.faces.skin import Lab, drift
from face0_worker.records.attempts import ClaimedItem

_NOBODY = -2.0  # below every cosine


class Outcome(Protocol):
    """What the renderer says of one item: uint8 pixels (h, w, 3) with a verdict, or an error.

    `skin`: the colour of the person's face on it, None where nobody measured it.
    """

    @property
    def pixels(self) -> np.ndarray | None: ...
    @property
    def verdict(self) -> Verdict | None: ...
    @property
    def error(self) -> Face0Error | None: ...
    @property
    def skin(self) -> Lab | None: ...


@dataclass(frozen=True)
class Judged:
    """One item's picture by its job's bars, or the error that it ended with. The item has the picture's own seed."""

    item: ClaimedItem
    pixels: np.ndarray | None = None
    verdict: Verdict | None = None
    error: Face0Error | None = None

    @property
    def rejected(self) -> bool:
        """Whether there is a picture and the gate does not accept it."""
        return self.verdict is not None and not self.verdict.accepted


def judged(item: ClaimedItem, outcome: Outcome, skin: Lab | None, tries: int) -> Judged:
    """Return an outcome by the bars of the item's job. `skin`: the photo's; `tries`: pictures made for it so far."""
    if outcome.error is not None:
        return Judged(item, error=outcome.error)
    if outcome.pixels is None or outcome.verdict is None:
        return Judged(item, error=ItemFailed("the renderer gave no picture"))
    measured = replace(outcome.verdict, skin_drift=drift(skin, outcome.skin), tries=tries)
    return Judged(item, outcome.pixels, judge(measured, item.bars))


def better(earlier: Judged | None, later: Judged) -> Judged:
    """Return which of two tries of an item counts: an accepted picture, else the one most like the person.

    An error takes no picture away that is there already. The number of tries is the later one's.
    """
    if earlier is None or earlier.verdict is None:
        return later
    if later.verdict is None:
        return earlier
    if _worth(earlier.verdict) > _worth(later.verdict):
        return replace(earlier, verdict=replace(earlier.verdict, tries=later.verdict.tries))
    return later


def _worth(verdict: Verdict) -> tuple[bool, float]:
    return verdict.accepted, _NOBODY if verdict.identity is None else verdict.identity


def next_try(item: ClaimedItem, turn: int) -> ClaimedItem:
    """Return the item as it is made for the `turn`-th time again (from 1): with a seed that only its own seed decides.

    So the same item ends with the same picture whoever renders it, and its key stays that of its own seed.
    """
    return replace(item, spec=item.spec.with_seed(retry_seed(item.spec.seed, turn)))
