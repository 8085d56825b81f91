"""The colour of a face, how far two lie apart, and how the photo's is told beside it."""

from __future__ import annotations

import numpy as np
import pytest

from face0_worker.faces.sealed import MARK, read_header, skin_of
from face0_worker.faces.skin import drift, skin_colour, to_lab
from producer.sources import Source

LANDMARKS = np.array([[40.0, 40.0], [80.0, 40.0], [60.0, 60.0], [45.0, 80.0], [75.0, 80.0]])


@pytest.mark.parametrize(
    ("srgb", "lab"),
    [((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((255, 0, 0), (53.24, 80.09, 67.2))],
)
def test_lab_agrees_with_published_values(srgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    # Lindbloom, http://www.brucelindbloom.com, sRGB D65
    assert to_lab(np.array([srgb], np.uint8))[0] == pytest.approx(lab, abs=0.05)


def test_the_colour_is_that_between_eyes_and_mouth_whatever_is_around() -> None:
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[45:78, 40:80] = (200, 150, 130)
    pixels[55, 58:62] = (0, 255, 0)  # a few pixels of something else
    found = skin_colour(pixels, LANDMARKS)
    assert found == pytest.approx(to_lab(np.array([[200, 150, 130]], np.uint8))[0])


def test_a_face_outside_the_picture_has_no_colour() -> None:
    assert skin_colour(np.zeros((20, 20, 3), np.uint8), LANDMARKS) is None


def test_the_drift_is_a_distance_and_nothing_where_one_is_not_known() -> None:
    assert drift((60.0, 10.0, 10.0), (63.0, 14.0, 10.0)) == 5.0
    assert drift(None, (1.0, 1.0, 1.0)) is None
    assert drift((1.0, 1.0, 1.0), None) is None


def test_the_colour_of_a_photo_is_sealed_beside_it_and_read_by_a_worker() -> None:
    source = Source(((b"photo", 1.0),), skin=(60.5, 10.25, 12.0))
    assert skin_of(source.to_bytes()) == (60.5, 10.25, 12.0)
    assert Source.from_bytes(source.to_bytes()) == source


@pytest.mark.parametrize("told", [b"{}\nphoto", b'{"skin":[1]}\n', b"{", b"[]\n"])
def test_a_photo_of_which_nothing_or_nonsense_is_told_has_no_colour(told: bytes) -> None:
    assert skin_of(MARK + told) is None
    assert skin_of(b"photo") is None


def test_damaged_words_beside_a_photo_are_said() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        read_header(MARK + b"{")
