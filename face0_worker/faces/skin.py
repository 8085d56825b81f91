"""The colour of a face, as a number to compare: a picture of somebody in another skin tone is no picture of them."""

from __future__ import annotations

import numpy as np

# CIELAB: lightness, green to red, blue to yellow
Lab = tuple[float, float, float]

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65


def skin_colour(pixels: np.ndarray, landmarks: np.ndarray) -> Lab | None:
    """Return the median colour between eyes and mouth, where there is neither hair nor garment. None: no such place.

    `pixels` is sRGB uint8 (h, w, 3); `landmarks` (5, 2) in pixels: eyes, nose, corners of the mouth.
    """
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    half = 0.5 * abs(landmarks[1, 0] - landmarks[0, 0])
    top, bottom = eyes[1] + 0.3 * (mouth[1] - eyes[1]), eyes[1] + 0.8 * (mouth[1] - eyes[1])
    middle = 0.5 * (eyes[0] + mouth[0])
    rows = slice(max(0, round(float(top))), max(0, round(float(bottom))))
    columns = slice(max(0, round(float(middle - half))), max(0, round(float(middle + half))))
    patch = pixels[rows, columns]
    if not patch.size:
        return None
    light, red, yellow = np.median(to_lab(patch.reshape(-1, 3)), axis=0)
    return float(light), float(red), float(yellow)


def to_lab(srgb: np.ndarray) -> np.ndarray:
    """Return sRGB uint8 (n, 3) in CIELAB (n, 3) (IEC 61966-2-1, CIE 15)."""
    unit = srgb / 255.0
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    relative = linear @ _TO_XYZ.T / _WHITE
    bent = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    x, y, z = bent.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def drift(one: Lab | None, other: Lab | None) -> float | None:
    """Return how far two colours lie from one another (CIE76); None where one is not known."""
    return None if one is None or other is None else float(np.linalg.norm(np.subtract(one, other)))
