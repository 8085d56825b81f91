"""The quality gate: what is rejected, what is only recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from face0_worker.faces.skin import Lab
from face0_worker.render.quality import cosine, gate, judge, second_face

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Face:
    """A found face."""

    embedding: np.ndarray
    box: tuple[float, float, float, float] = (4.0, 4.0, 24.0, 28.0)
    skin: Lab | None = None


@dataclass(frozen=True)
class Finder:
    """Finds the faces it was given, and removes a mean of one."""

    faces: tuple[Face, ...]

    def find(self, image: Image.Image) -> tuple[Face, ...]:
        """Return the given faces."""
        return self.faces

    def normalise(self, embedding: np.ndarray) -> np.ndarray:
        """Remove the mean."""
        return embedding - 1


def test_an_ordinary_picture_is_accepted_and_measured() -> None:
    verdict = judge(NOISE, 1, 0.7)
    assert (verdict.accepted, verdict.reason, verdict.faces, verdict.identity) == (True, "ok", 1, 0.7)
    assert verdict.brightness == pytest.approx(NOISE.mean() / 255)
    assert verdict.contrast == pytest.approx(NOISE.std() / 255)


@pytest.mark.parametrize(("value", "reason"), [(0, "black"), (3, "black"), (128, "flat"), (255, "flat")])
def test_a_picture_of_one_colour_is_rejected(value: int, reason: str) -> None:
    verdict = judge(np.full((32, 32, 3), value, np.uint8), 0, None)
    assert (verdict.accepted, verdict.reason) == (False, reason)


def test_a_nearly_black_picture_with_faint_noise_is_rejected() -> None:
    assert judge(NOISE // 64, 0, None).reason == "black"


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_one_value_that_is_not_a_number_rejects_the_picture(broken: float) -> None:
    pixels = NOISE.astype(np.float32) / 255
    assert judge(pixels, 0, None).accepted
    pixels[3, 4, 1] = broken
    assert judge(pixels, 0, None).reason == "not_a_number"


def test_missing_face_and_low_identity_are_only_recorded() -> None:
    assert judge(NOISE, 0, None).accepted
    assert judge(NOISE, 1, -0.9).accepted


def test_the_gate_measures_the_most_similar_face_after_removing_the_mean() -> None:
    wanted = np.array([1.0, 0.0], np.float32)
    finder = Finder((Face(np.array([1.0, 2.0])), Face(np.array([3.0, 1.0]), skin=(60.0, 1.0, 2.0))))
    measured = gate(finder)(NOISE, wanted)
    assert measured.verdict.faces == 2
    assert measured.verdict.identity == pytest.approx(1.0)
    assert measured.skin == (60.0, 1.0, 2.0)


def test_without_a_person_faces_are_counted_only() -> None:
    verdict = gate(Finder((Face(np.ones(2)),)))(NOISE, None).verdict
    assert (verdict.faces, verdict.identity) == (1, None)


def test_a_second_face_is_measured_by_its_width_relative_to_the_widest() -> None:
    assert second_face([(0, 0, 10, 9)]) == 0.0
    assert second_face([(0, 0, 10, 9), (50, 0, 70, 30), (0, 0, 4, 4)]) == 0.5
    small = Face(np.ones(2), box=(0.0, 0.0, 5.0, 5.0))
    assert gate(Finder((Face(np.ones(2)), small)))(NOISE, None).verdict.second_face == 0.25


def test_a_picture_without_a_face_still_has_a_sharpness() -> None:
    verdict = gate(Finder(()))(NOISE, np.ones(2)).verdict
    assert (verdict.faces, verdict.identity) == (0, None)
    assert verdict.sharpness is not None


def test_identity_of_a_zero_vector_is_zero() -> None:
    assert cosine(np.zeros(3), np.ones(3)) == 0.0
