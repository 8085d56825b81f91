"""Whether two faces are of one person: a distance, and a bar that was measured for one face pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from face0_worker.contract.errors import BadInput

L2, COSINE = "l2", "cosine"
# of photos of different people this share may pass for one person when a bar is proposed
FALSE_MATCHES = 0.001


@dataclass(frozen=True)
class Bar:
    """Two faces are of one person when their distance is at most `most`.

    `measure`: L2 between raw embeddings, or COSINE: 1 - cos after the pack's mean is removed.
    """

    measure: str
    most: float

    def __post_init__(self) -> None:
        if self.measure not in (L2, COSINE) or not 0.0 < self.most < 1e3:
            raise BadInput(f'a bar is {{"measure": "{L2}" or "{COSINE}", "most": a number above 0}}')


def distance(measure: str, one: np.ndarray, other: np.ndarray, mean: np.ndarray) -> float:
    """Return the distance of two raw embeddings (d,) by a measure; `mean` (d,) is the pack's."""
    if measure == L2:
        return float(np.linalg.norm(one - other))
    a, b = one - mean, other - mean
    return 1.0 - float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12)


@dataclass(frozen=True)
class Proposal:
    """A bar for the people that were looked at, and what it does to them: shares of pairs, in [0, 1].

    `missed`: pairs of one person that are held for a human. `passed`: pairs of two people that are taken for one.
    """

    bar: Bar
    missed: float
    passed: float
    same_pairs: int
    other_pairs: int


def propose(people: Sequence[Sequence[np.ndarray]], measure: str, mean: np.ndarray) -> Proposal:
    """Return the bar that at most FALSE_MATCHES of all pairs of different people pass. `people`: faces of each, raw.

    Raises: BadInput: fewer than 50 people with two faces each say too little.
    """
    if sum(len(faces) > 1 for faces in people) < 50:
        raise BadInput("a bar needs at least 50 people with two photos each")
    flat = np.stack([face for faces in people for face in faces]).astype(np.float64)
    owner = np.repeat(np.arange(len(people)), [len(faces) for faces in people])
    first, second = np.triu_indices(len(flat), 1)
    apart = _pairwise(flat, measure, mean)[first, second]
    same = owner[first] == owner[second]
    others = np.sort(apart[~same])
    most = float(np.floor(others[int(FALSE_MATCHES * len(others))] * 100) / 100)
    return Proposal(
        Bar(measure, most),
        missed=float((apart[same] > most).mean()),
        passed=float((others <= most).mean()),
        same_pairs=int(same.sum()),
        other_pairs=len(others),
    )


def _pairwise(flat: np.ndarray, measure: str, mean: np.ndarray) -> np.ndarray:
    if measure == L2:
        squares = (flat**2).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0)))
    centred = flat - mean
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(1 - unit @ unit.T)
