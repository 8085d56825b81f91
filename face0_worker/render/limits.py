"""How much of a batch the device takes at once, learned from the batches that did not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from face0_worker.contract.guidance import coefficients
from face0_worker.contract.job import Guidance

Size = tuple[int, int]
GROW_AFTER = 50


def rows_of(guidance: Guidance) -> int:
    """Return the most rows that an item with this guidance takes in one call of the denoiser."""
    inside, outside = (coefficients(guidance, part) for part in (guidance.start, guidance.stop))
    return max(sum(value != 0 for value in branch) for branch in (inside, outside))


class BatchLimits:
    """The largest number of denoiser rows that is tried, per size (width, height) of the pictures in px.

    A size has no limit until a batch of it did not fit. Other programs come and go on a device: after GROW_AFTER
    batches that were cut at the limit and fitted, twice as much is tried once; what does not fit is halved again,
    so a vain try costs one batch in fifty. `on_learned(width, height, rows)` is told each new limit once.
    """

    def __init__(self) -> None:
        self.on_learned: Callable[[int, int, int], None] = lambda width, height, rows: None
        self._most: dict[Size, int] = {}
        self._fitted: dict[Size, int] = {}
        self._told: set[tuple[Size, int]] = set()

    def most(self, size: Size) -> int | None:
        """Return the limit in rows; None where nothing has failed yet."""
        return self._most.get(size)

    def first(self, size: Size, rows: Sequence[int]) -> int:
        """Return how many of the waiting items, which take `rows` each, go next: at least one."""
        most = self._most.get(size)
        if most is None:
            return len(rows)
        count, taken = 1, rows[0]
        while count < len(rows) and taken + rows[count] <= most:
            taken += rows[count]
            count += 1
        return count

    def did_not_fit(self, size: Size, half: int) -> None:
        """Remember that from now on no more than `half` rows, the larger half of what failed, go at once."""
        self._most[size] = min(half, self._most.get(size, half))
        self._fitted[size] = 0
        if (size, self._most[size]) not in self._told:
            self._told.add((size, self._most[size]))
            self.on_learned(*size, self._most[size])

    def fitted(self, size: Size) -> None:
        """Note a batch that was cut at the limit and went well."""
        self._fitted[size] = self._fitted.get(size, 0) + 1
        if self._fitted[size] >= GROW_AFTER:
            self._fitted[size] = 0
            self._most[size] *= 2
