"""Sharpness: a blur lowers it whatever the size and contrast, in any direction."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from face0_worker.render.sharpness import FACE_PX, sharpness
from producer.demo import PERSON


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return Image.open(PERSON).convert("RGB")


def test_a_blurred_picture_is_less_sharp_the_more_it_is_blurred(portrait: Image.Image) -> None:
    face = portrait.resize((256, 256))
    measured = [sharpness(face.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 2, 4, 8)]
    assert measured == sorted(measured, reverse=True)
    assert measured[0] > 1.3 * measured[1] > 1.5 * measured[2]


@pytest.mark.parametrize("side", [128, 256, 512, 1024])
def test_the_same_picture_is_as_sharp_at_any_size_and_the_same_blur_is_seen(portrait: Image.Image, side: int) -> None:
    whole = portrait.resize((1024, 1024), Image.Resampling.LANCZOS)
    made = whole.resize((side, side), Image.Resampling.BOX)
    reference = sharpness(whole)
    assert sharpness(made) == pytest.approx(reference, abs=0.08)
    assert sharpness(made.filter(ImageFilter.GaussianBlur(side / 64))) < reference - 0.15


def test_contrast_does_not_matter(portrait: Image.Image) -> None:
    pale = Image.fromarray((np.asarray(portrait) // 4 + 96).astype(np.uint8))
    assert sharpness(pale) == pytest.approx(sharpness(portrait), abs=0.06)


@pytest.mark.parametrize("across", [True, False])
def test_motion_in_one_direction_counts(portrait: Image.Image, across: bool) -> None:
    pixels = np.asarray(portrait.resize((FACE_PX, FACE_PX)), np.float64)
    moved = np.mean([np.roll(pixels, step, axis=1 if across else 0) for step in range(8)], axis=0)
    still = sharpness(Image.fromarray(pixels.astype(np.uint8)))
    assert sharpness(Image.fromarray(moved.astype(np.uint8))) < 0.6 * still


def test_only_the_box_counts(portrait: Image.Image) -> None:
    blurred = portrait.filter(ImageFilter.GaussianBlur(portrait.width / 40))
    middle = (portrait.width // 4, portrait.height // 4, 3 * portrait.width // 4, 3 * portrait.height // 4)
    blurred.paste(portrait.crop(middle), middle[:2])
    assert sharpness(blurred, middle) == sharpness(portrait, middle)


@pytest.mark.parametrize("box", [(-50.0, -50.0, 5.0, 5.0), (500.0, 500.0, 900.0, 900.0), (10.0, 10.0, 10.0, 10.0)])
def test_a_box_outside_or_without_size_is_simply_not_sharp(portrait: Image.Image, box: tuple[float, ...]) -> None:
    left, top, right, bottom = box
    assert sharpness(portrait.resize((64, 64)), (left, top, right, bottom)) == 0.0


def test_one_colour_is_not_sharp() -> None:
    assert sharpness(Image.new("RGB", (64, 64), (90, 90, 90))) == 0.0
