"""From rendered to exact pixels: the very size, the same scale both ways, and the face always in the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from skimage import data

from face0_worker.contract.errors import BadInput, Face0Error, ItemFailed
from face0_worker.contract.job import RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import load_pack
from face0_worker.render.batch import Rendered
from face0_worker.render.framing import Box, face_box, frame, frame_all

SIZES = [(1080, 1080), (1080, 1350), (1080, 1920), (1200, 628), (1920, 1080), (728, 90), (90, 400), (17, 16)]
RENDERED = [(256, 256), (192, 352), (352, 192), (1000, 64)]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.open(load_pack(None))


def checked(width: int, height: int) -> np.ndarray:
    """Return a picture of which every part is unlike every other: a slope each in red and green."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([across, down, np.full_like(across, 128)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("fit", ["crop", "pad", "pad #0000ff"])
@pytest.mark.parametrize("rendered", RENDERED)
@pytest.mark.parametrize("size", SIZES)
def test_the_size_is_exact(rendered: tuple[int, int], size: tuple[int, int], fit: str) -> None:
    for face in (None, (0.4 * rendered[0], 0.2 * rendered[1], 0.6 * rendered[0], 0.5 * rendered[1])):
        made = frame(checked(*rendered), size, fit, face)
        assert made.shape == (size[1], size[0], 3)
        assert made.dtype == np.uint8


def circle(width: int, height: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = (across - centre[0]) ** 2 + (down - centre[1]) ** 2 < radius**2
    return np.repeat(np.where(inside, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("fit", ["crop", "pad #000000"])
@pytest.mark.parametrize("size", SIZES[:5])
@pytest.mark.parametrize("rendered", [(256, 256), (224, 288), (352, 192)])
def test_a_circle_stays_a_circle_and_a_face_stays_whole(
    rendered: tuple[int, int], size: tuple[int, int], fit: str
) -> None:
    width, height = rendered
    for centre in ((0.5 * width, 0.35 * height), (0.25 * width, 0.7 * height), (0.85 * width, 0.2 * height)):
        radius = 0.14 * min(rendered)
        face: Box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
        made = frame(circle(width, height, centre, radius), size, fit, face)[:, :, 0] > 127
        rows, columns = np.flatnonzero(made.any(axis=1)), np.flatnonzero(made.any(axis=0))
        wide, high = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert wide == pytest.approx(high, rel=0.03)
        assert made.sum() == pytest.approx(np.pi * wide * high / 4, rel=0.03)


def test_a_crop_takes_as_much_as_there_is() -> None:
    made = frame(checked(256, 256), (512, 256), "crop", None)
    assert made[:, 0, 0].max() <= 2  # from the left edge
    assert made[:, -1, 0].min() >= 253  # to the right one
    assert np.ptp(made[:, 0, 1].astype(int)) == pytest.approx(127, abs=3)  # half of the height


def test_a_face_larger_than_the_crop_is_not_cut_but_gets_bars() -> None:
    pixels = circle(256, 256, (128, 128), 100)
    made = frame(pixels, (1000, 100), "crop", (28, 28, 228, 228))[:, :, 0] > 127
    assert made.any(axis=1).all()  # from the top to the bottom
    assert np.ptp(np.flatnonzero(made.any(axis=0))) == pytest.approx(100, abs=3)


@pytest.mark.parametrize(("fit", "colour"), [("pad #12ab9F", (0x12, 0xAB, 0x9F)), ("pad", (200, 30, 40))])
def test_bars_have_the_colour_that_was_named_or_the_one_of_the_edge(fit: str, colour: tuple[int, int, int]) -> None:
    pixels = np.full((100, 100, 3), (200, 30, 40), np.uint8)
    pixels[30:70, 30:70] = 0
    for size in ((300, 100), (100, 300)):
        made = frame(pixels, size, fit, None)
        assert tuple(made[0, 0]) == tuple(made[-1, -1]) == colour
        assert tuple(made[size[1] // 2, size[0] // 2]) == (0, 0, 0)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [*SIZES[:5], (728, 90)])
def test_the_detector_finds_the_face_of_a_real_photo_in_every_output(
    embedder: Embedder, size: tuple[int, int], fit: str
) -> None:
    # a face far from the middle, where a plain crop would cut it
    photo = Image.fromarray(data.astronaut()).crop((100, 0, 512, 412))
    landmarks = embedder.landmarks(photo)
    assert landmarks is not None
    made = frame(np.asarray(photo), size, fit, face_box(landmarks))
    face = max(embedder.find(Image.fromarray(made), thorough=True), key=lambda one: one.score)
    left, top, right, bottom = face.box
    assert left >= -1
    assert top >= -1
    assert right <= size[0] + 1
    assert bottom <= size[1] + 1
    (before,) = embedder.find(photo)
    assert embedder.similarity(face.embedding, before.embedding) > 0.5 or min(size) < 100


VERDICT = Verdict(True, "ok", 1, 0.5, 0.5, 0.1)
ITEM = RenderItem("A1", "red", output_width=40, output_height=20, fit="crop")


def test_only_pictures_with_an_output_size_are_looked_at() -> None:
    plain = Rendered(checked(64, 64), VERDICT, None)
    failed = Rendered(None, None, ItemFailed("no"))

    def never(_: Image.Image) -> np.ndarray | None:
        raise AssertionError

    assert frame_all([plain, failed], [replace(ITEM, output_width=0), ITEM], never) == [plain, failed]
    (made,) = frame_all([plain], [ITEM], lambda _: None)
    assert made.pixels is not None
    assert made.pixels.shape == (20, 40, 3)
    assert made.verdict == VERDICT


def test_a_picture_whose_face_can_not_be_looked_for_ends_with_its_own_error() -> None:
    def breaks(_: Image.Image) -> np.ndarray | None:
        raise BadInput("one sentence")

    broken, made = frame_all(
        [Rendered(checked(64, 64), VERDICT, None)] * 2, [ITEM, replace(ITEM, output_width=0)], breaks
    )
    assert isinstance(broken.error, Face0Error)
    assert broken.pixels is None
    assert made.pixels is not None
