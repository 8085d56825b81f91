"""What is counted in an evaluation, and how sure it is. Pure: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BOOTSTRAPS = 1000
# below every cosine: what a picture without a face is worth when it is compared
NO_FACE = -2.0


@dataclass(frozen=True)
class Measured:
    """A value with its 95% interval over people; `n` counts the people."""

    name: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Trials:
    """What the pictures of one person scored against a gallery in which this person stands once.

    `own` (k,): the cosine of each picture to the person's own photo; `others` (k, m): to the photos of the m others.
    Both are NO_FACE in the row of a picture in which no face was found.
    """

    own: np.ndarray
    others: np.ndarray


def trials(vectors: np.ndarray, found: np.ndarray, gallery: np.ndarray, place: int) -> Trials:
    """Compare the pictures of one person, unit vectors (k, d), with a gallery's photos (m + 1, d); `place` is theirs.

    `found` (k,) bool says in which pictures there is a face.
    """
    cosines = vectors @ gallery.T
    cosines[~found] = NO_FACE
    return Trials(cosines[:, place], np.delete(cosines, place, axis=1))


def rank_one(tried: Trials) -> float:
    """Return the share of pictures whose nearest photo is the person's own; a tie or no face is a miss."""
    best = tried.others.max(axis=1, initial=NO_FACE)
    return float(np.mean((tried.own > best) & (tried.own > NO_FACE)))


def likeness(tried: Trials) -> float:
    """Return the mean cosine to the person's own photo; no face counts as 0."""
    return float(np.mean(np.where(tried.own > NO_FACE, tried.own, 0.0)))


def area_under_curve(same: np.ndarray, different: np.ndarray) -> float:
    """Return the chance that a same pair scores above a different one, ties counting half (Mann and Whitney).

    Not a number where one side is empty.
    """
    return _area(*_ranked(same, different), np.ones(len(same)), np.ones(len(different)))


def _ranked(same: np.ndarray, different: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each value among all of both sides; equal values share one."""
    ranks = np.unique(np.concatenate([same, different]), return_inverse=True)[1]
    return ranks[: len(same)], ranks[len(same) :]


def _area(same: np.ndarray, different: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
    """Return the area for ranks (n,) and (m,) whose pairs count `own` (n,) and `other` (m,) times."""
    most = 1 + max(same.max(initial=0), different.max(initial=0))
    ours, theirs = np.bincount(same, own, most), np.bincount(different, other, most)
    whole = ours.sum() * theirs.sum()
    return float((ours * (np.cumsum(theirs) - theirs / 2)).sum() / whole) if whole > 0 else float("nan")


def verification(tried: Sequence[Trials]) -> Callable[[np.ndarray], float]:
    """Return the area under the curve over all pairs of all people, as a function of how often each counts (people,).

    A picture without a face loses its same pair to every different one, and makes no different pairs: an empty
    picture must not look unlike strangers.
    """
    different = [one.others[one.own > NO_FACE].ravel() for one in tried]
    ranks = _ranked(np.concatenate([one.own for one in tried]), np.concatenate(different))
    pictures, pairs = [len(one.own) for one in tried], [len(one) for one in different]
    return lambda counts: _area(*ranks, np.repeat(counts, pictures), np.repeat(counts, pairs))


def measured_mean(name: str, values: Sequence[float], *, seed: int = 0) -> Measured:
    """Return the mean of one value per person, with its interval over people."""
    every = np.asarray(values, np.float64)
    return _measured(name, len(every), lambda counts: float(counts @ every / counts.sum()), seed)


def measured_verification(name: str, tried: Sequence[Trials], *, seed: int = 0) -> Measured:
    """Return `verification` with its interval over people."""
    return _measured(name, len(tried), verification(tried) if tried else lambda counts: float("nan"), seed)


def _measured(name: str, people: int, value: Callable[[np.ndarray], float], seed: int) -> Measured:
    """The percentile bootstrap (Efron 1979): people drawn again, since one person's pictures are not independent."""
    if not people:
        return Measured(name, float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    drawn = [
        value(np.bincount(rng.integers(people, size=people), minlength=people).astype(float)) for _ in range(BOOTSTRAPS)
    ]
    known = [one for one in drawn if not np.isnan(one)] or [float("nan")]
    low, high = np.percentile(known, [2.5, 97.5])
    return Measured(name, value(np.ones(people)), float(low), float(high), people)


def spread(vectors: np.ndarray) -> float:
    """Return the mean cosine distance (0 to 2) between two of the unit vectors (k, d); 0 for fewer than two."""
    if len(vectors) < 2:
        return 0.0
    return float(np.mean(1 - (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]))


def pixel_spread(crops: np.ndarray) -> float:
    """Return the mean root-mean-square difference in [0, 1] between two of the uint8 crops (k, h, w, 3)."""
    flat = crops.reshape(len(crops), -1).astype(np.float64) / 255
    pairs = [(i, j) for i in range(len(flat)) for j in range(i)]
    return float(np.mean([np.sqrt(np.mean((flat[i] - flat[j]) ** 2)) for i, j in pairs])) if pairs else 0.0
