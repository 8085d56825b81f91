"""Face0's guidance: which branches an item needs at a step, and how their predictions combine. Pure.

Valevski, Wasserman, Matias and Leviathan 2023 (arXiv 2306.06638), for latents z, text d and face f:

    eps = w * e + (1 - w) * eps(z)
    e   = c * eps(z, d, f) + (1 - c) * [a * eps(z, f) + (1 - a) * eps(z, d)]

Multiplied out, every branch has one coefficient, and the coefficients of an item sum to one. Only branches
whose coefficient is not zero are evaluated, so c = 1 costs two evaluations a step, as plain classifier-free
guidance does, and items with different guidance share one batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.contract.guidance import coefficients
from face0_worker.contract.job import Guidance


class Branch(IntEnum):
    """What a prediction is conditioned on."""

    JOINT = 0  # eps(z, d, f): the prompt and the face
    FACE = 1  # eps(z, f): the empty prompt and the face
    TEXT = 2  # eps(z, d): the prompt and zero face tokens
    NONE = 3  # eps(z): the negative prompt (empty by default) and zero face tokens


@dataclass(frozen=True)
class Rows:
    """The rows of one evaluation of the denoiser; three tuples of equal length.

    Row r is item `items[r]` under `branches[r]` and counts `coefficients[r]`. An item has at most one row of
    each branch.
    """

    items: tuple[int, ...]
    branches: tuple[Branch, ...]
    coefficients: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.items)


def check_guidance(guidance: Guidance) -> None:
    """Raise BadInput unless all five numbers are finite and 0 <= start < stop <= 1; the message names which."""
    for name in ("w", "c", "a", "start", "stop"):
        if not math.isfinite(getattr(guidance, name)):
            raise BadInput(f"guidance {name} is {getattr(guidance, name)}; a finite number is needed")
    if not 0 <= guidance.start < guidance.stop <= 1:
        raise BadInput(f"guidance interval [{guidance.start}, {guidance.stop}) is not within [0, 1] or is empty")


def plan_rows(guidances: Sequence[Guidance], part: float) -> Rows:
    """Return the rows that the items need at `part` of the denoising: by item, then by branch."""
    chosen = [
        (item, branch, coefficient)
        for item, guidance in enumerate(guidances)
        for branch, coefficient in zip(Branch, coefficients(guidance, part), strict=True)
        if coefficient != 0
    ]
    return Rows(
        tuple(item for item, _, _ in chosen),
        tuple(branch for _, branch, _ in chosen),
        tuple(coefficient for _, _, coefficient in chosen),
    )


@dataclass(frozen=True)
class Placed:
    """Rows laid on a device, once for all steps that share them: all that a step needs is an index away.

    `items` (rows,) long: each row's item. Branch by branch, `sources[b]` (count,) long is the row that each item has
    in that branch, and `weights[b]` (count, 1, 1, 1) float32 what it counts there. An item without the branch has its
    own first row there, with weight 0: no item ever reads another's row.
    """

    items: Tensor
    sources: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]


def place_rows(rows: Rows, count: int, device: torch.device) -> Placed:
    """Return the rows of `count` items as tensors on the device; every item has a row."""
    row_of = {pair: row for row, pair in enumerate(zip(rows.items, rows.branches, strict=True))}
    first = {item: row for row, item in reversed(list(enumerate(rows.items)))}
    sources, weights = [], []
    for branch in sorted(set(rows.branches)):
        mine = [row_of.get((item, branch)) for item in range(count)]
        sources.append(torch.tensor([first[item] if row is None else row for item, row in enumerate(mine)]))
        weights.append(torch.tensor([0.0 if row is None else rows.coefficients[row] for row in mine]))
    return Placed(
        torch.tensor(rows.items).to(device),
        tuple(source.to(device) for source in sources),
        tuple(weight.reshape(-1, 1, 1, 1).to(device) for weight in weights),
    )


def combine(predictions: Tensor, placed: Placed) -> Tensor:
    """Return each item's guided prediction: the weighted sum of its own rows, in float32.

    Shapes: predictions (rows, c, h, w) -> (count, c, h, w). The sum runs branch by branch, so its order, and with it
    the rounding, does not depend on the neighbours; a NaN stays with its item.
    """
    parts = [
        predictions[source].float() * weight for source, weight in zip(placed.sources, placed.weights, strict=True)
    ]
    return functools.reduce(torch.add, parts)
