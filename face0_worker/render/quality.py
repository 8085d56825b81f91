"""The quality gate: what is measured on a picture, and the rule that accepts or rejects it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from face0_worker.contract.receipt import Verdict

# of the range [0, 1]; far below any portrait, so that only pictures with nothing on them are rejected
BLACK_BRIGHTNESS, BLACK_CONTRAST = 0.02, 0.03
FLAT_CONTRAST = 0.01


class Found(Protocol):
    """A face in a picture, with its raw embedding float32 (d,)."""

    @property
    def embedding(self) -> np.ndarray: ...


class FaceFinder(Protocol):
    """What the gate needs of `faces.embed.Embedder`."""

    def find(self, image: Image.Image) -> Sequence[Found]:
        """Return every face, largest first."""

    def normalise(self, embedding: np.ndarray) -> np.ndarray:
        """Return the embedding (d,) with its mean removed, as conditions are."""


def judge(pixels: np.ndarray, faces: int, identity: float | None) -> Verdict:
    """Return the verdict on one picture. Pure and total.

    `pixels` is (h, w, 3), uint8 in [0, 255] or floats in [0, 1]; `faces` counts the faces found and `identity`
    is the cosine to the person's face. Black, flat and not-a-number pictures are rejected; the rest is only
    recorded.
    """
    unit = pixels.astype(np.float64) / (255.0 if pixels.dtype == np.uint8 else 1.0)
    if not np.isfinite(unit).all():
        return Verdict(False, "not_a_number", faces, identity, 0.0, 0.0)
    brightness, contrast = float(unit.mean()), float(unit.std())
    reason = "ok"
    if brightness < BLACK_BRIGHTNESS and contrast < BLACK_CONTRAST:
        reason = "black"
    elif contrast < FLAT_CONTRAST:
        reason = "flat"
    return Verdict(reason == "ok", reason, faces, identity, brightness, contrast)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the cosine in [-1, 1] of two embeddings (d,) whose mean is removed already; 0 for a zero vector."""
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other)) / length if length > 0 else 0.0


def gate(finder: FaceFinder) -> Callable[[np.ndarray, np.ndarray | None], Verdict]:
    """Return the gate that `render_batch` takes, measuring with `finder`.

    The gate's arguments: pixels uint8 (h, w, 3), and the normalised embedding (d,) the picture was made with,
    or None. Of several faces the most similar one counts.
    """

    def measured(pixels: np.ndarray, embedding: np.ndarray | None) -> Verdict:
        plain = judge(pixels, 0, None)
        if not plain.accepted:
            return plain
        faces = finder.find(Image.fromarray(pixels))
        if embedding is None or not faces:
            return judge(pixels, len(faces), None)
        likeness = max(cosine(finder.normalise(face.embedding), embedding) for face in faces)
        return judge(pixels, len(faces), likeness)

    return measured
