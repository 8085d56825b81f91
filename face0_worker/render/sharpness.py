"""How sharp a picture is, as one number that does not depend on its size or contrast."""

from __future__ import annotations

import numpy as np
from PIL import Image

# a face is looked at in at most so many pixels: what is lost below that nobody would miss
FACE_PX = 112
_LENGTH = 9


def sharpness(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> float:
    """Return in [0, 1] how much of the detail a blur takes away: much from a sharp picture, little from a blurred one.

    Crete et al. 2007, "The blur effect": the picture's differences between neighbours against those after a blur, in
    the direction that is worse off, so that motion counts. `box` (left, top, right, bottom): only this part, a face.
    """
    part = image.convert("L")
    if box is not None:
        left, top, right, bottom = (round(value) for value in box)
        left, top = max(0, left), max(0, top)
        part = part.crop((left, top, max(left + 1, min(part.width, right)), max(top + 1, min(part.height, bottom))))
    part.thumbnail((FACE_PX, FACE_PX), Image.Resampling.BOX)
    pixels = np.asarray(part, np.float64)
    return min(_kept(pixels), _kept(pixels.T))


def _kept(pixels: np.ndarray) -> float:
    """Return the share of the differences along the first axis that a blur along it takes away."""
    if pixels.shape[0] <= _LENGTH:
        return 0.0
    sums = np.cumsum(np.pad(pixels, ((_LENGTH // 2 + 1, _LENGTH // 2), (0, 0)), mode="edge"), axis=0)
    blurred = (sums[_LENGTH:] - sums[:-_LENGTH]) / _LENGTH
    own, less = np.abs(np.diff(pixels, axis=0)), np.abs(np.diff(blurred, axis=0))
    whole = float(own.sum())
    return float(np.maximum(0.0, own - less).sum()) / whole if whole > 0 else 0.0
