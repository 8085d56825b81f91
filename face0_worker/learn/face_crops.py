"""The inner face: aligned by five landmarks, with hair, ears and background left outside an ellipse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from face0_worker.faces.embed import Embedder
from face0_worker.learn.truth import Picture

SIDE = 64  # of a crop, in pixels
# Where the landmarks lie in a crop: insightface's template (112 px: eyes, nose, corners of the mouth), zoomed in
# until the brows touch the upper edge and the chin the lower one.
_TEMPLATE = (
    (np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]]) - (18, 34)) * SIDE / 76
).astype(np.float64)
_CENTRE, _RADII = (SIDE / 2, 0.52 * SIDE), (0.42 * SIDE, 0.48 * SIDE)
# the detector is as sure at this size, and three times as fast as at 256 px
_DETECT_SIDE = 128
OVERVIEW_SIDE = 96
_AT_ONCE = 500


def alignment(landmarks: np.ndarray) -> np.ndarray:
    """Return the similarity (2, 3) that maps crop pixels to picture pixels: least squares over the five landmarks.

    In complex numbers a similarity is z -> p z + q, so the fit is a line's. Shapes: landmarks (5, 2) in pixels.
    Reference: Umeyama 1991, without reflections.
    """
    source = _TEMPLATE[:, 0] + 1j * _TEMPLATE[:, 1]
    target = landmarks[:, 0].astype(np.float64) + 1j * landmarks[:, 1]
    flat = source - source.mean()
    p = np.vdot(flat, target - target.mean()) / np.vdot(flat, flat)
    q = target.mean() - p * source.mean()
    return np.array([[p.real, -p.imag, q.real], [p.imag, p.real, q.imag]])


def crop_face(image: Image.Image, landmarks: np.ndarray) -> np.ndarray:
    """Return the aligned inner face, uint8 (SIDE, SIDE, 3); the ellipse is not applied yet.

    Sampled twice as finely and averaged, so that a large face is not aliased.
    """
    matrix = alignment(landmarks)
    matrix[:, :2] /= 2
    fine = image.transform(
        (2 * SIDE, 2 * SIDE), Image.Transform.AFFINE, tuple(matrix.ravel()), Image.Resampling.BILINEAR
    )
    return np.asarray(fine.reduce(2), np.uint8)


def ellipse(device: torch.device | str = "cpu") -> Tensor:
    """Return the mask (1, 1, SIDE, SIDE): one over the inner face, zero outside, soft over two pixels."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    away = (((x - _CENTRE[0]) / _RADII[0]) ** 2 + ((y - _CENTRE[1]) / _RADII[1]) ** 2).sqrt()
    soft = ((1 - away) * min(_RADII) / 2 + 0.5).clamp(0, 1)
    return soft[None, None].to(device)


def overview(image: Image.Image) -> np.ndarray:
    """Return the whole picture small, uint8 (OVERVIEW_SIDE, OVERVIEW_SIDE, 3): what attributes are told from."""
    small = image.resize((OVERVIEW_SIDE, OVERVIEW_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(small, np.uint8)


def prepare(
    pictures: Sequence[Picture], embedder: Embedder, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the judges learn from: face crops, whether a face was found, and overviews.

    Shapes: uint8 (n, SIDE, SIDE, 3), bool (n,), uint8 (n, OVERVIEW_SIDE, OVERVIEW_SIDE, 3). A picture without a
    face has a crop of zeros. Raises: BadInput: a picture can't be read.
    """
    crops = np.zeros((len(pictures), SIDE, SIDE, 3), np.uint8)
    found = np.zeros(len(pictures), bool)
    overviews = np.zeros((len(pictures), OVERVIEW_SIDE, OVERVIEW_SIDE, 3), np.uint8)
    with ThreadPoolExecutor(2) as pool:  # decoding beside detecting
        for start in range(0, len(pictures), _AT_ONCE):
            for index, image in enumerate(pool.map(Picture.open, pictures[start : start + _AT_ONCE]), start):
                overviews[index] = overview(image)
                landmarks = quick_landmarks(image, embedder)
                if landmarks is not None:
                    crops[index], found[index] = crop_face(image, landmarks), True
            say(f"looked at {min(start + _AT_ONCE, len(pictures))} of {len(pictures)} pictures")
    return crops, found, overviews


def quick_landmarks(image: Image.Image, embedder: Embedder) -> np.ndarray | None:
    """Return the largest face's landmarks (5, 2) in the pixels of `image`, detected at 128 px; None for no face."""
    scale = max(1.0, max(image.size) / _DETECT_SIDE)
    small = image.resize((round(image.width / scale), round(image.height / scale)), Image.Resampling.LANCZOS)
    landmarks = embedder.landmarks(small)
    return None if landmarks is None else landmarks * scale
