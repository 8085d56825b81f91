"""Colours by name, in linear light, and the colour of light by its temperature."""

from __future__ import annotations

import numpy as np


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.asarray(np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4))


def encoded(light: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to sRGB."""
    return np.asarray(np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-8) ** (1 / 2.4) - 0.055))


_NAMED = {
    "black": (28, 28, 31),
    "white": (240, 240, 238),
    "grey": (128, 130, 133),
    "red": (190, 30, 38),
    "blue": (38, 76, 178),
    "green": (38, 128, 66),
    "yellow": (235, 197, 48),
    "pink": (238, 150, 180),
    "purple": (112, 56, 148),
    "orange": (232, 120, 32),
    "brown": (112, 70, 42),
}
COLOURS = {name: linear(np.array(rgb) / 255) for name, rgb in _NAMED.items()}


def shade(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return one of the shades (3,) that people call by this name."""
    spread = 0.10 if name in ("black", "white", "grey") else 0.16
    changed = COLOURS[name] * np.exp(rng.normal(0, spread) + rng.normal(0, spread / 3, 3))
    return np.asarray(np.clip(changed, 0.002, 0.95))


def white_of(kelvin: float) -> np.ndarray:
    """Return the colour (3,) of a light of this temperature against 5,500 K, its mean 1. A cubic fit is not needed."""
    warm = np.clip((5500 - kelvin) / 2500, -1, 1)
    rgb = np.array([1 + 0.22 * warm, 1.0, 1 - 0.36 * warm])
    return np.asarray(rgb / rgb.mean())
