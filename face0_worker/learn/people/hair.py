"""Hair that grows: strands start on the scalp, follow a comb, gravity and curl, and stay outside the head and body.

Coordinates here are the head's own: units of 10 cm, the point between the eyes at the origin, x to the person's left,
y up, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

POINTS = 14  # along each strand


@dataclass(frozen=True)
class Style:
    """How hair is worn. Lengths in units of 10 cm.

    `length` at the crown and `sides` at the sides; `lift` how far it stands off at the root, in [0, 1]; `comb` the
    direction that it is combed in (x away from the parting, y, z); `gravity`; `curl` radius and `turns` of its curl a
    unit; `parting` where it parts, in units from the middle (None: no parting); `fringe` the share of strands that fall
    over the forehead; `tie` where it is tied together, or None; `tail` the length behind that; `count` strands; `wild`
    disorder in [0, 1].
    """

    length: float
    sides: float
    lift: float
    comb: tuple[float, float, float]
    gravity: float
    curl: float = 0.0
    turns: float = 0.0
    parting: float | None = None
    fringe: float = 0.0
    tie: tuple[float, float, float] | None = None
    tail: float = 0.0
    count: int = 5200
    wild: float = 0.15


STYLES = {
    "buzz cut": Style(0.09, 0.06, 0.8, (0, 0.2, 0.3), 0.0, count=5200, wild=0.3),
    "short": Style(0.40, 0.15, 0.45, (0.15, 0.25, 0.75), 0.3, count=5600, wild=0.3),
    "side part": Style(0.85, 0.20, 0.25, (1.0, 0.1, 0.35), 0.6, parting=0.35, count=5600, wild=0.10),
    "curly": Style(1.25, 1.20, 0.45, (0.6, 0.2, -0.4), 1.3, curl=0.085, turns=2.6, count=4200, wild=0.35),
    "afro": Style(0.62, 0.55, 1.0, (0, 0, 0), 0.0, curl=0.06, turns=7.0, count=5600, wild=0.4),
    "bob": Style(1.75, 1.35, 0.16, (0.6, 0.0, 0.05), 2.2, parting=0.25, count=5200, wild=0.07),
    "long": Style(3.3, 2.9, 0.14, (0.6, 0.0, 0.0), 2.6, parting=0.0, count=5200, wild=0.08),
    "ponytail": Style(1.5, 1.3, 0.1, (0, 0, 0), 0.0, tie=(0.0, 0.55, -1.75), tail=1.7, count=5200, wild=0.06),
    "bun": Style(1.5, 1.3, 0.1, (0, 0, 0), 0.0, tie=(0.0, 1.05, -1.45), tail=0.5, count=5200, wild=0.06),
}

# how low the hair begins, over the angle around the head from the front (degrees, height above the eyes)
HAIRLINE = (
    (0, 0.80),
    (30, 0.80),
    (52, 0.68),
    (66, 0.38),
    (78, 0.02),
    (86, 0.14),
    (104, 0.18),
    (118, -0.25),
    (150, -0.62),
    (180, -0.70),
)


@dataclass(frozen=True)
class HeadForm:
    """What hair must stay outside of: the radius of the head by direction, and the height of the shoulders.

    `radius` (64, 128): by polar angle from the top and azimuth, around `centre` (3,); `shoulders` (64, 64): height over
    x, z in [-3, 3].
    """

    centre: np.ndarray
    radius: np.ndarray
    shoulders: np.ndarray


CENTRE = (0.0, 0.28, -0.75)  # of the head, from which its radius is measured


def measure_centre() -> np.ndarray:
    """Return the middle of the head (3,)."""
    return np.array(CENTRE)


def measure_head(points: np.ndarray, ears: np.ndarray) -> HeadForm:
    """Return the form of a head from its skin (n, 3) and where its ears are (n,), which hair may cover."""
    centre = measure_centre()
    away = points - centre
    length = np.linalg.norm(away, axis=1)
    head = (points[:, 1] > -1.0) & (ears < 0.3) & (length < 2.2)
    polar = np.arccos(np.clip(away[:, 1] / length, -1, 1))
    azimuth = np.arctan2(away[:, 0], away[:, 2]) % (2 * np.pi)
    radius = np.zeros((64, 128), np.float32)
    rows, columns = (polar / np.pi * 64).astype(int).clip(0, 63), (azimuth / (2 * np.pi) * 128).astype(int) % 128
    np.maximum.at(radius, (rows[head], columns[head]), length[head].astype(np.float32))
    for _ in range(40):  # directions that no point fell into take their neighbours' mean
        empty = radius == 0
        if not empty.any():
            break
        around = np.stack(
            [
                np.roll(radius, 1, 1),
                np.roll(radius, -1, 1),
                np.vstack([radius[1:], radius[-1:]]),
                np.vstack([radius[:1], radius[:-1]]),
            ]
        )
        there = (around > 0).sum(axis=0)
        radius = np.where(empty & (there > 0), around.sum(axis=0) / np.maximum(there, 1), radius)
    shoulders = np.full((64, 64), -99.0, np.float32)
    low = points[:, 1] < -1.05
    ix, iz = (
        ((points[low, 0] + 3) / 6 * 64).astype(int).clip(0, 63),
        ((points[low, 2] + 3) / 6 * 64).astype(int).clip(0, 63),
    )
    np.maximum.at(shoulders, (ix, iz), points[low, 1].astype(np.float32))
    for _ in range(2):
        around = np.stack(
            [
                shoulders,
                np.roll(shoulders, 1, 0),
                np.roll(shoulders, -1, 0),
                np.roll(shoulders, 1, 1),
                np.roll(shoulders, -1, 1),
            ]
        )
        shoulders = around.max(axis=0)
    return HeadForm(centre, radius.astype(np.float32), shoulders)


def scalp(points: np.ndarray, ears: np.ndarray, recede: float) -> np.ndarray:
    """Return how far inside the hair each point is (n,), in units; negative outside. `recede` lifts the front line."""
    angle = np.degrees(np.abs(np.arctan2(points[:, 0], points[:, 2] + 0.75)))
    angles, heights = np.array(HAIRLINE, float).T
    lift = recede * np.exp(-(((angle - 45) / 22) ** 2)) + 0.4 * recede * (angle < 90)
    inside = points[:, 1] - (np.interp(angle, angles, heights) + lift)
    return np.where(ears > 0.25, -1.0, inside)


def grow(
    style: Style, head: HeadForm, roots: np.ndarray, normals: np.ndarray, seed: int, on_face: bool = False
) -> np.ndarray:
    """Return strands (s, POINTS, 3) from roots (s, 3) with unit normals (s, 3); `on_face`: a beard or brows."""
    rng = np.random.default_rng(seed)
    count = len(roots)
    side = np.clip((0.35 - roots[:, 1]) / 0.6, 0, 1)
    lengths = (style.length * (1 - side) + style.sides * side) * rng.uniform(0.86, 1.06, count)
    clump = rng.normal(size=(60, 3))  # strands near each other share most of their disorder
    nearest = ((roots[:, None] * 1.7 - roots[rng.integers(count, size=60)][None] * 1.7) ** 2).sum(axis=2).argmin(axis=1)
    disorder = 0.75 * clump[nearest] + 0.5 * rng.normal(size=(count, 3))
    comb = np.zeros((count, 3))
    parting = style.parting
    away = np.sign(roots[:, 0] - (parting or 0.0)) if parting is not None else np.sign(roots[:, 0])
    comb[:, 0] = style.comb[0] * away
    comb[:, 1], comb[:, 2] = style.comb[1], style.comb[2]
    falls = (rng.random(count) < style.fringe) & (roots[:, 2] > -0.35) & (roots[:, 1] > 0.6)
    comb[falls] = [0.0, -0.2, 1.3]
    lengths[falls] = rng.uniform(0.75, 0.95, falls.sum())
    phases = rng.uniform(0, 2 * np.pi, count)
    if style.tie is not None:
        return _tied(style, head, roots, disorder, rng)
    strands: np.ndarray = _integrate(
        roots.astype(np.float32),
        normals.astype(np.float32),
        lengths.astype(np.float32),
        comb.astype(np.float32),
        (style.wild * disorder).astype(np.float32),
        phases.astype(np.float32),
        style.lift,
        style.gravity,
        style.curl,
        style.turns,
        falls,
        on_face,
        head.centre.astype(np.float32),
        head.radius,
        head.shoulders,
    )
    return strands


def _tied(
    style: Style, head: HeadForm, roots: np.ndarray, disorder: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Pull strands over the head to where they are tied, and let the rest hang from there."""
    assert style.tie is not None
    tie = np.array(style.tie)
    count = len(roots)
    strands = np.empty((count, POINTS, 3))
    over = 8
    for k in range(over):
        f = k / (over - 1)
        strands[:, k] = roots * (1 - f) + (tie + 0.05 * disorder) * f
    inner = strands[:, 1:over].reshape(-1, 3)
    strands[:, 1:over] = _outside(inner, head, 0.06 + 0.03 * np.abs(disorder[:, :1]).repeat(over - 1, 0)).reshape(
        count, over - 1, 3
    )
    if style.tail < 1:  # a bun: the ends wind around in a ball
        u = rng.normal(size=(count, 3))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        v = np.cross(u, rng.normal(size=(count, 3)))
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        ball = tie + np.array([0, 0.05, -0.18])
        for k in range(over, POINTS):
            angle = 2.2 * (k - over) / (POINTS - over)
            strands[:, k] = ball + style.tail * 0.75 * (np.cos(angle) * u + np.sin(angle) * v)
        return strands.astype(np.float32)
    out = np.array([0.0, -0.15, -0.5])
    swing = disorder * 0.10
    at = strands[:, over - 1].copy()
    direction = out + swing
    for k in range(over, POINTS):
        direction = direction + np.array([0, -0.33, 0.06])
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        at = at + direction * style.tail / (POINTS - over) + 0.02 * disorder
        strands[:, k] = at
    return strands.astype(np.float32)


def _outside(points: np.ndarray, head: HeadForm, by: np.ndarray) -> np.ndarray:
    """Move points (n, 3) that are inside the head to `by` (n, 1) outside it."""
    away = points - head.centre
    length = np.linalg.norm(away, axis=1) + 1e-9
    rows = (np.arccos(np.clip(away[:, 1] / length, -1, 1)) / np.pi * 64).astype(int).clip(0, 63)
    columns = ((np.arctan2(away[:, 0], away[:, 2]) % (2 * np.pi)) / (2 * np.pi) * 128).astype(int) % 128
    least = head.radius[rows, columns] + by[:, 0]
    return np.where((length < least)[:, None], head.centre + away / length[:, None] * least[:, None], points)


@numba.njit(cache=True, fastmath=True)
def _integrate(
    roots: np.ndarray,
    normals: np.ndarray,
    lengths: np.ndarray,
    comb: np.ndarray,
    disorder: np.ndarray,
    phases: np.ndarray,
    lift: float,
    gravity: float,
    curl: float,
    turns: float,
    falls: np.ndarray,
    on_face: bool,
    centre: np.ndarray,
    radius: np.ndarray,
    shoulders: np.ndarray,
) -> np.ndarray:
    count, points = roots.shape[0], 14
    strands = np.empty((count, points, 3), np.float32)
    d, p, q = np.empty(3), np.empty(3), np.empty(3)
    for s in range(count):
        step = lengths[s] / (points - 1)
        for k in range(3):
            tangent = comb[s, k] + disorder[s, k]
            d[k] = lift * normals[s, k] + (1 - lift) * tangent + 0.35 * disorder[s, k]
            p[k] = roots[s, k]
            strands[s, 0, k] = p[k]
        for i in range(1, points):
            d[1] -= gravity * 3.2 / (points - 1)
            fade = max(0.0, 1.0 - i / 5.0)
            for k in range(3):
                d[k] += 0.12 * fade * comb[s, k] + 0.05 * disorder[s, k]
            size = math.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2) + 1e-9
            for k in range(3):
                d[k] /= size
                p[k] += d[k] * step
            # not over the face, unless it is a fringe
            if not on_face and not falls[s] and p[1] < 0.6 and p[2] > -0.16:
                p[2] -= 0.6 * (p[2] + 0.16)
            # outside the head
            ax, ay, az = p[0] - centre[0], p[1] - centre[1], p[2] - centre[2]
            far = math.sqrt(ax * ax + ay * ay + az * az) + 1e-9
            if far < 2.3 and not on_face:
                row = min(63, int(math.acos(max(-1.0, min(1.0, ay / far))) / math.pi * 64))
                column = int((math.atan2(ax, az) % (2 * math.pi)) / (2 * math.pi) * 128) % 128
                least = radius[row, column] + 0.035 + 0.05 * min(1.0, i * step)
                if far < least and p[1] > -1.1:
                    p[0], p[1], p[2] = (
                        centre[0] + ax / far * least,
                        centre[1] + ay / far * least,
                        centre[2] + az / far * least,
                    )
                    # slide along the head instead of pushing into it
                    inward = d[0] * ax / far + d[1] * ay / far + d[2] * az / far
                    if inward < 0:
                        d[0], d[1], d[2] = d[0] - inward * ax / far, d[1] - inward * ay / far, d[2] - inward * az / far
            # outside the neck and on the shoulders
            if p[1] < -0.9 and not on_face:
                nx, nz = p[0], p[2] + 0.85
                away = math.sqrt(nx * nx + nz * nz) + 1e-9
                if away < 0.78:
                    p[0], p[2] = nx / away * 0.78, nz / away * 0.78 - 0.85
                ix, iz = int((p[0] + 3) / 6 * 64), int((p[2] + 3) / 6 * 64)
                if 0 <= ix < 64 and 0 <= iz < 64:
                    top = shoulders[ix, iz] + 0.10
                    if p[1] < top and top - p[1] < 0.8:
                        p[2] += 0.09 if p[2] > -0.8 else -0.09
            for k in range(3):
                q[k] = p[k]
            if curl > 0:
                turn = phases[s] + turns * 2 * math.pi * i * step
                ramp = curl * min(1.0, i / 4.0)
                q[0] += ramp * math.cos(turn)
                q[1] += 0.7 * ramp * math.sin(turn)
                q[2] += ramp * math.sin(turn + 0.8)
            for k in range(3):
                strands[s, i, k] = q[k]
    return strands
