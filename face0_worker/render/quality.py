"""The quality gate's measuring: what is on a picture. Which numbers are good enough is decided by `contract.bars`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from face0_worker.contract.receipt import Verdict
from face0_worker.faces.skin import Lab
from face0_worker.render.sharpness import sharpness

# of the range [0, 1]; far below any portrait, so that only pictures with nothing on them are rejected
BLACK_BRIGHTNESS, BLACK_CONTRAST = 0.02, 0.03
FLAT_CONTRAST = 0.01


class Found(Protocol):
    """A face in a picture, with its raw embedding float32 (d,), its box in pixels and its colour."""

    @property
    def embedding(self) -> np.ndarray: ...
    @property
    def box(self) -> tuple[float, float, float, float]: ...
    @property
    def skin(self) -> Lab | None: ...


@dataclass(frozen=True)
class Measured:
    """A verdict, and the colour of the person's face beside it, which no receipt may hold."""

    verdict: Verdict
    skin: Lab | None = None


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


def gate(finder: FaceFinder) -> Callable[[np.ndarray, np.ndarray | None], Measured]:
    """Return the gate that `render_batch` takes, measuring with `finder`.

    The gate's arguments: pixels uint8 (h, w, 3), and the normalised embedding (d,) the picture was made with,
    or None. Of several faces the most similar one is the person.
    """

    def measured(pixels: np.ndarray, embedding: np.ndarray | None) -> Measured:
        plain = judge(pixels, 0, None)
        if not plain.accepted:
            return Measured(plain)
        image = Image.fromarray(pixels)
        faces = finder.find(image)
        if not faces:
            return Measured(replace(plain, sharpness=sharpness(image)))
        likeness = [0.0 if embedding is None else cosine(finder.normalise(one.embedding), embedding) for one in faces]
        person = int(np.argmax(likeness))
        verdict = replace(
            plain,
            faces=len(faces),
            identity=None if embedding is None else likeness[person],
            second_face=second_face([one.box for one in faces]),
            sharpness=sharpness(image, faces[person].box),
        )
        return Measured(verdict, faces[person].skin)

    return measured


def second_face(boxes: Sequence[tuple[float, float, float, float]]) -> float:
    """Return the width of the second-widest box (left, top, right, bottom) relative to the widest; 0 for one."""
    widths = sorted((right - left for left, _, right, _ in boxes), reverse=True)
    return float(widths[1] / widths[0]) if len(widths) > 1 and widths[0] > 0 else 0.0
