"""What is behind somebody: a studio wall in one colour, or a season or a city out of focus."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from face0_worker.learn.people.colours import COLOURS, encoded, linear, shade

Rgb = tuple[int, int, int]


def backdrop(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a picture (size, size, 3) of linear light for a colour or scene by its name."""
    if name in COLOURS:
        return _wall(shade(name, rng), size, rng)
    # out of focus, so a quarter of the pixels says as much
    small = np.clip(_SCENES[name](size // 4 if name != "winter" else size // 2, rng), 0, 1)
    large = Image.fromarray((encoded(small) * 255 + 0.5).astype(np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return np.asarray(linear(np.asarray(large) / 255), np.float32)


def _wall(colour: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size
    cx, cy, fall = rng.uniform(0.25, 0.75), rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.5)
    glow = 1.08 - fall * ((x - cx) ** 2 + (y - cy) ** 2)
    return np.asarray(glow[..., None] * colour, np.float32)


def _gradient(size: int, stops: list[tuple[float, Rgb]]) -> np.ndarray:
    at, colours = [stop for stop, _ in stops], np.array([rgb for _, rgb in stops]) / 255
    y = np.linspace(0, 1, size)
    column = np.stack([np.interp(y, at, colours[:, k]) for k in range(3)], 1)
    return np.repeat(column[:, None], size, axis=1)


def _bokeh(
    picture: np.ndarray,
    rng: np.random.Generator,
    colours: list[Rgb],
    count: int,
    radius: tuple[float, float],
    band: tuple[float, float],
    strength: tuple[float, float] = (0.25, 0.8),
) -> np.ndarray:
    """Blend soft discs of light over an sRGB picture (s, s, 3); radius and band (top, bottom) as parts of the size."""
    size = len(picture)
    y, x = np.mgrid[0:size, 0:size] / size
    for _ in range(count):
        cx, cy, r = rng.uniform(-0.05, 1.05), rng.uniform(*band), rng.uniform(*radius)
        colour = np.array(colours[rng.integers(len(colours))]) / 255 * rng.uniform(0.85, 1.1)
        distance = np.hypot(x - cx, y - cy) / r
        cover = rng.uniform(*strength) / (1 + np.exp(np.minimum((distance - 1) * 14, 30)))
        picture = picture * (1 - cover[..., None]) + np.clip(colour, 0, 1) * cover[..., None]
    return picture


def _soft(picture: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(linear(np.asarray(image) / 255), np.float32)


def _spring(size: int, rng: np.random.Generator) -> np.ndarray:
    picture = _gradient(size, [(0, (190, 215, 240)), (0.55, (200, 222, 205)), (1, (130, 178, 100))])
    picture = _bokeh(picture, rng, [(150, 195, 110), (120, 170, 90)], 26, (0.04, 0.12), (0.2, 1.0))
    picture = _bokeh(
        picture, rng, [(250, 195, 215), (245, 170, 200), (255, 225, 235)], 60, (0.03, 0.09), (-0.05, 0.75), (0.4, 0.9)
    )
    return _soft(picture, size * 0.012)


def _summer(size: int, rng: np.random.Generator) -> np.ndarray:
    horizon, shore = rng.uniform(0.42, 0.55), rng.uniform(0.66, 0.8)
    picture = _gradient(
        size,
        [
            (0, (70, 140, 225)),
            (horizon - 0.01, (175, 215, 245)),
            (horizon, (25, 110, 170)),
            (shore, (60, 175, 195)),
            (shore + 0.04, (240, 240, 230)),
            (shore + 0.07, (232, 208, 160)),
            (1, (220, 190, 140)),
        ],
    )
    picture = _bokeh(picture, rng, [(255, 255, 255)], 7, (0.06, 0.16), (0.0, 0.3), (0.3, 0.6))
    return _soft(picture, size * 0.014)


def _autumn(size: int, rng: np.random.Generator) -> np.ndarray:
    picture = _gradient(size, [(0, (200, 170, 110)), (0.6, (150, 95, 40)), (1, (95, 60, 30))])
    picture = _bokeh(picture, rng, [(90, 60, 35), (120, 70, 30)], 18, (0.04, 0.12), (0, 1))
    picture = _bokeh(
        picture,
        rng,
        [(225, 120, 20), (210, 70, 20), (240, 175, 40), (180, 50, 25)],
        85,
        (0.025, 0.09),
        (-0.05, 1.0),
        (0.4, 0.9),
    )
    return _soft(picture, size * 0.011)


def _winter(size: int, rng: np.random.Generator) -> np.ndarray:
    picture = _gradient(
        size, [(0, (165, 185, 210)), (0.55, (205, 218, 232)), (0.62, (232, 238, 246)), (1, (246, 249, 253))]
    )
    picture = _bokeh(picture, rng, [(95, 115, 120), (70, 92, 98)], 14, (0.03, 0.10), (0.3, 0.6), (0.4, 0.8))
    picture = np.clip(_soft(picture, size * 0.016), 0, 1)
    flakes = _bokeh(encoded(picture), rng, [(255, 255, 255)], 60, (0.006, 0.018), (0, 1), (0.6, 0.95))
    return np.asarray(linear(np.clip(flakes, 0, 1)), np.float32)


def _city(size: int, rng: np.random.Generator) -> np.ndarray:
    picture = _gradient(size, [(0, (20, 24, 48)), (0.6, (36, 34, 60)), (1, (26, 24, 36))])
    for _ in range(7):
        left, wide, top = rng.uniform(-0.1, 1), rng.uniform(0.1, 0.25), rng.uniform(0.1, 0.6)
        a, b = int(max(0, left) * size), int(min(1, left + wide) * size)
        picture[int(top * size) :, a:b] = np.array([30, 32, 50]) / 255 * rng.uniform(0.5, 1.3)
    picture = _bokeh(
        picture,
        rng,
        [(255, 200, 110), (255, 170, 80), (120, 180, 255), (255, 90, 90), (255, 240, 200)],
        46,
        (0.015, 0.055),
        (0.1, 1.0),
        (0.4, 0.95),
    )
    return _soft(picture, size * 0.006)


_SCENES = {"spring": _spring, "summer": _summer, "autumn": _autumn, "winter": _winter, "city": _city}
