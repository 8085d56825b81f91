"""Pictures with a known fault, made of good portraits, to count what the quality gate catches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from face0_worker.faces.embed import FoundFace

GOOD = "good"


@dataclass(frozen=True)
class Sitter:
    """A person in two pictures that were taken apart: `photo` is what the gate compares with, `picture` what it sees.

    `face` and `shown` are the faces found on them.
    """

    name: str
    photo: Image.Image
    picture: Image.Image
    face: FoundFace
    shown: FoundFace


@dataclass(frozen=True)
class Planted:
    """A picture of a kind, uint8 (h, w, 3), that is shown to the gate as one of `sitter`."""

    kind: str
    sitter: Sitter
    pixels: np.ndarray


# (who it should be, somebody else, where chance comes from) -> the picture
_Plant = Callable[[Sitter, Sitter, np.random.Generator], Image.Image]


def plant_all(sitters: Sequence[Sitter], seed: int = 0, each: int | None = None) -> Iterator[Planted]:
    """Yield pictures of each sitter: the good one first, then one of every kind, or of `each` kinds in turn.

    The same arguments give the same pictures.
    """
    names = list(KINDS)
    for number, sitter in enumerate(sitters):
        count = len(names) if each is None else each
        turn = [names[(number * count + k) % len(names)] for k in range(count)]
        rng = np.random.default_rng((seed, number))
        other = sitters[(number + 1 + int(rng.integers(len(sitters) - 1))) % len(sitters)]
        yield Planted(GOOD, sitter, np.asarray(sitter.picture))
        for kind in turn:
            yield Planted(kind, sitter, np.asarray(KINDS[kind](sitter, other, rng)))


def _wrong_person(sitter: Sitter, other: Sitter, rng: np.random.Generator) -> Image.Image:
    return other.picture


def _no_face(sitter: Sitter, other: Sitter, rng: np.random.Generator) -> Image.Image:
    """Return only the garment, or a head without a face."""
    picture = sitter.picture
    if rng.random() < 0.5:
        height = picture.height // 4
        return picture.crop((0, picture.height - height, picture.width, picture.height)).resize(picture.size)
    covered = picture.copy()
    left, top, right, bottom = sitter.shown.box
    edge = np.asarray(picture)[round(min(bottom, picture.height - 1)), round((left + right) / 2)]
    colour = (int(edge[0]), int(edge[1]), int(edge[2]))
    ImageDraw.Draw(covered).ellipse((left - 8, top - 12, right + 8, bottom + 8), fill=colour)
    return covered


def _blurred(sitter: Sitter, other: Sitter, rng: np.random.Generator) -> Image.Image:
    """Return it out of focus by 1/170 to 1/64 of its side: from just visible to unusable."""
    radius = sitter.picture.width * float(np.exp(rng.uniform(np.log(1 / 170), np.log(1 / 64))))
    return sitter.picture.filter(ImageFilter.GaussianBlur(radius))


def _moved(sitter: Sitter, other: Sitter, rng: np.random.Generator) -> Image.Image:
    """Return it moved along a line by 1/36 to 1/12 of its side while the shutter was open."""
    length = sitter.picture.width * float(rng.uniform(1 / 36, 1 / 12))
    angle, steps = float(rng.uniform(0, np.pi)), 16
    pixels = np.zeros((sitter.picture.height, sitter.picture.width, 3))
    for step in np.linspace(-0.5, 0.5, steps):
        across, down = step * length * np.cos(angle), step * length * np.sin(angle)
        moved = sitter.picture.transform(
            sitter.picture.size, Image.Transform.AFFINE, (1, 0, across, 0, 1, down), Image.Resampling.BILINEAR
        )
        pixels += np.asarray(moved, np.float64) / steps
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _black(sitter: Sitter, other: Sitter, rng: np.random.Generator) -> Image.Image:
    faint = np.asarray(sitter.picture, np.float64) * rng.uniform(0, 0.02) + rng.uniform(0, 2, (1, 1, 3))
    return Image.fromarray(np.rint(faint).astype(np.uint8))


def _two_people(sitter: Sitter, other: Sitter, rng: np.random.Generator) -> Image.Image:
    """Return both side by side, or the other one at half the size beside the person."""
    width, height = sitter.picture.size
    both = sitter.picture.copy()
    if rng.random() < 0.5:
        half = (width // 4, 0, width // 4 + width // 2, height)
        both.paste(sitter.picture.crop(half), (0, 0))
        both.paste(other.picture.resize((width, height)).crop(half), (width // 2, 0))
        return both
    small = other.picture.resize((width // 2, height // 2))
    inner = small.crop((width // 8, 0, width // 8 + width // 4, height // 2))
    both.paste(inner, (width - width // 4, height // 2))
    return both


def _skin_tone(sitter: Sitter, other: Sitter, rng: np.random.Generator) -> Image.Image:
    """Return the face with twice its light, or with two fifths of it."""
    pixels = np.asarray(sitter.picture, np.float64) / 255
    factor = 2.0 if rng.random() < 0.5 else 0.4
    changed = np.clip(pixels**2.2 * factor, 0, 1) ** (1 / 2.2)
    mask = Image.new("L", sitter.picture.size)
    left, top, right, bottom = sitter.shown.box
    ImageDraw.Draw(mask).ellipse((left, top, right, bottom), fill=255)
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(4)), np.float64)[..., None] / 255
    return Image.fromarray(np.rint(255 * (soft * changed + (1 - soft) * pixels)).astype(np.uint8))


KINDS: Mapping[str, _Plant] = {
    "wrong_person": _wrong_person,
    "no_face": _no_face,
    "blurred": _blurred,
    "moved": _moved,
    "black": _black,
    "two_people": _two_people,
    "skin_tone": _skin_tone,
}
