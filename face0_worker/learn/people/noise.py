"""Smooth random fields: the same for a seed, anywhere in space."""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True)
def _lattice(i: int, j: int, k: int, seed: int) -> float:
    h = (i * 374761393 + j * 668265263 + k * 2147483647 + seed * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 32767.5 - 1.0


@numba.njit(cache=True)
def value_noise(points: np.ndarray, frequency: float, seed: int) -> np.ndarray:
    """Return smooth noise in [-1, 1] at points (n, 3), `frequency` bumps a unit."""
    out = np.empty(points.shape[0], np.float32)
    for n in range(points.shape[0]):
        x, y, z = points[n, 0] * frequency, points[n, 1] * frequency, points[n, 2] * frequency
        i, j, k = math.floor(x), math.floor(y), math.floor(z)
        u, v, w = x - i, y - j, z - k
        u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
        total = 0.0
        for a in range(2):
            for b in range(2):
                for c in range(2):
                    share = (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
                    total += share * _lattice(i + a, j + b, k + c, seed)
        out[n] = total
    return out
