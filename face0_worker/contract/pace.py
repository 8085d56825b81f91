"""How fast a worker makes pictures, measured on it once: what batches are cut by and times are told from. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from face0_worker.contract.guidance import evaluations
from face0_worker.contract.job import RenderItem

Size = tuple[int, int]
# pictures in a batch where nothing was measured
USUAL_BATCH = 8


@dataclass(frozen=True)
class Pace:
    """One size (px) on one worker: its best batch, and what a picture costs in it, in seconds.

    A picture takes `fixed_s` once (text, decoding, the quality gate) and `row_s` for each evaluation of the denoiser.
    """

    width: int
    height: int
    batch: int
    fixed_s: float
    row_s: float

    def seconds(self, item: RenderItem) -> float:
        """Return how long the item takes in a full batch."""
        return self.fixed_s + self.row_s * evaluations(item.guidance, item.steps)

    def to_json(self) -> dict[str, Any]:
        """Return the pace as plain JSON values."""
        return asdict(self)


def read_paces(facts: Mapping[str, Any]) -> tuple[Pace, ...]:
    """Return the paces in a worker's facts; what an older or newer program said otherwise counts as not measured."""
    found = []
    told = facts.get("paces")
    for one in told if isinstance(told, list | tuple) else ():
        try:
            pace = Pace(**{field.name: one[field.name] for field in fields(Pace)})
        except (KeyError, TypeError):
            continue
        found.append(pace)
    return tuple(found)


def best_batches(workers: Iterable[Sequence[Pace]]) -> dict[Size, int]:
    """Return the best batch of each size. Any worker may get a batch: the smallest of those that measured counts."""
    best: dict[Size, int] = {}
    for pace in (pace for paces in workers for pace in paces):
        size = (pace.width, pace.height)
        best[size] = min(pace.batch, best.get(size, pace.batch))
    return best


@dataclass(frozen=True)
class Estimate:
    """What items take: how many, in how many batches, and seconds of one worker; None: a size was not measured."""

    pictures: int
    batches: int
    worker_s: float | None


def estimate(items: Iterable[RenderItem], workers: Sequence[Sequence[Pace]], usual: int = USUAL_BATCH) -> Estimate:
    """Return what the items take, read once, by what each of the workers has measured.

    Batches are cut as `best_batches` says, and to `usual` for other sizes; a picture takes the mean of the workers.
    """
    best = best_batches(workers)
    crew = [{(pace.width, pace.height): pace for pace in paces} for paces in workers]
    shapes: Counter[tuple[Size, tuple[int, str, str]]] = Counter()
    total, known = 0.0, bool(crew)
    for item in items:
        size = (item.width, item.height)
        shapes[size, (item.steps, item.sampler, item.precision)] += 1
        known = known and all(size in paces for paces in crew)
        if known:
            total += sum(paces[size].seconds(item) for paces in crew) / len(crew)
    batches = sum(-(-count // best.get(size, usual)) for (size, _), count in shapes.items())
    return Estimate(shapes.total(), batches, total if known else None)
