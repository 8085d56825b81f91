"""What people wear, cut out of a layer around the body: where it ends, how it is coloured, how thick it is.

Positions are of the rest shape in the head's coordinates, so that a cut sits right on every body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from face0_worker.learn.people.body import Body
from face0_worker.learn.people.colours import shade
from face0_worker.learn.people.noise import value_noise
from face0_worker.learn.people.skin import REST_EYES

NECK_Z = -0.95


@dataclass(frozen=True)
class Layer:
    """One piece of cloth: points moved `thickness` (n,) along their normals, colour (n, 3), kept where `keep` >= 0."""

    thickness: np.ndarray
    colour: np.ndarray
    keep: np.ndarray


def layers(name: str, colour_name: str, body: Body, seed: int) -> list[Layer]:
    """Return a garment's layers, inner first, on the fine cloth of the body."""
    rng = np.random.default_rng(seed)
    rest = body.cloth.smooth @ (body.rest - REST_EYES)
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
    front = (1 + np.cos(np.arctan2(x, z - NECK_Z))) / 2  # 1 in front, 0 at the back
    colour = shade(colour_name, rng)
    knit = 0.06 if name in ("turtleneck", "v-neck sweater", "hoodie") else 0.025
    soft = rest.astype(np.float32)
    shoulder = np.hypot(rest[:, 0], z - NECK_Z) - 0.95  # no neckline reaches as far as this
    folds = value_noise(soft * np.array([1, 0.45, 1], np.float32), 3.0, seed % 9973)
    cloth = np.clip(colour * (1 + knit * value_noise(soft, 30.0, 7) + 0.05 * folds)[:, None], 0.002, 0.95)
    base = 0.06 + 0.015 * folds

    def rim(keep: np.ndarray, width: float = 0.09, dark: float = 0.82) -> np.ndarray:
        """A seam along the cut."""
        return np.asarray(np.where((keep < width)[:, None], cloth * dark, cloth))

    crew = np.maximum(-1.50 - 0.42 * front**2 - y, shoulder)
    if name == "t-shirt":
        return [Layer(base, rim(crew), crew)]
    if name == "turtleneck":
        collar = np.exp(-(((y + 1.42) / 0.13) ** 2))
        ribs = 1 + 0.10 * np.sin(np.arctan2(rest[:, 0], z - NECK_Z) * 60) * (y > -1.66)
        return [Layer(base + 0.07 * (y > -1.72) + 0.03 * collar, cloth * ribs[:, None], -1.24 - y)]
    if name == "v-neck sweater":
        v = np.where(z > NECK_Z, np.maximum(-1.46 - 1.15 * np.clip(1 - x / 0.62, 0, 1) - y, x - 0.62), crew)
        under = np.full_like(cloth, 0.72)
        return [Layer(0.6 * base, under, -1.44 - 0.30 * front**2 - y), Layer(base + 0.02, rim(v, 0.10, 0.72), v)]
    if name == "shirt":
        opening = np.where(z > NECK_Z, np.maximum(-1.40 - 0.55 * np.clip(1 - x / 0.26, 0, 1) - y, shoulder), -1.34 - y)
        stand = np.exp(-(((y + 1.50 + 0.10 * front) / 0.16) ** 2))
        placket = (x < 0.10) & (z > -0.5) & (y < -1.9)
        buttons = placket & (x < 0.035) & (np.abs(((y + 2.15) / 0.42 + 0.5) % 1 - 0.5) < 0.09)
        colours = np.where(placket[:, None], cloth * 0.90, cloth)
        colours = np.where(buttons[:, None], 0.75 - 0.6 * (colour.mean() > 0.4), colours)
        points = np.where((stand > 0.55)[:, None], colours * 1.08, colours)
        edge = np.where(((stand > 0.35) & (stand < 0.55))[:, None], cloth * 0.7, points)
        return [Layer(base + 0.16 * stand * (0.6 + 0.4 * front), edge, opening)]
    if name == "hoodie":
        hood = np.exp(-(((y + 1.58 + 0.16 * front) / 0.26) ** 2))
        cut = np.maximum(-1.30 - 0.38 * front**2 - y, shoulder)
        strings = (np.abs(x - 0.24) < 0.035) & (z > -0.5) & (y > -2.75) & (y < -1.75)
        colours = np.where(strings[:, None], 0.80 - 0.7 * (colour.mean() > 0.5), rim(cut, 0.07, 0.75))
        return [Layer(base + 0.02 + 0.30 * hood * (1 - 0.45 * front), colours, cut)]
    # a jacket over a white or black shirt
    inner = np.full_like(cloth, 0.75 if rng.random() < 0.75 else 0.03)
    deep = np.where(z > NECK_Z, np.maximum(-1.40 - 2.1 * np.clip(1 - x / 0.72, 0, 1) - y, x - 0.72), -1.38 - y)
    lapel = 1 / (1 + np.exp((deep - 0.6) * 25)) * (z > NECK_Z + 0.1) / (1 + np.exp(-(y + 2.9) * 12))
    colours = cloth * (1 - 0.14 * lapel - 1.6 * lapel * (1 - lapel))[:, None]
    return [Layer(0.7 * base, inner, -1.40 - 0.36 * front**2 - y), Layer(base + 0.05 + 0.05 * lapel, colours, deep)]
