"""Which photos are taken, and what is said of those that are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from skimage import data

from face0_worker.contract.errors import BadInput, FaceRefused
from face0_worker.faces.embed import Embedder, with_margins
from tests.pictures import encoded
from tests.unit.faces.test_lite_pack import SIX


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


def test_a_photo_of_one_person_gives_her_face(embedder: Embedder, astronaut: Image.Image) -> None:
    face = embedder.embed_photo(encoded(astronaut, "JPEG"))
    assert face.embedding.shape == (128,)
    assert 80 < face.width < 160


def test_the_same_person_in_another_format_and_size_is_the_same(embedder: Embedder, astronaut: Image.Image) -> None:
    one = embedder.embed_photo(encoded(astronaut, "JPEG"))
    other = embedder.embed_photo(encoded(astronaut.resize((300, 300)), "PNG"))
    assert embedder.similarity(one.embedding, other.embedding) > 0.8


def test_a_photo_turned_by_exif_is_turned_back(embedder: Embedder, astronaut: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: show it turned by 90 degrees clockwise
    turned = encoded(astronaut.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    upright = embedder.embed_photo(encoded(astronaut, "JPEG"))
    assert embedder.similarity(upright.embedding, embedder.embed_photo(turned).embedding) > 0.8


def test_no_face_is_refused(embedder: Embedder) -> None:
    with pytest.raises(FaceRefused, match="no face"):
        embedder.embed_photo(encoded(Image.fromarray(data.coffee()), "JPEG"))


def test_several_faces_are_refused_with_their_number(embedder: Embedder) -> None:
    with pytest.raises(FaceRefused, match="6 faces"):
        embedder.embed_photo(SIX.read_bytes())


def test_one_of_several_faces_can_be_meant_by_size_or_by_place(embedder: Embedder) -> None:
    photo = SIX.read_bytes()
    largest = embedder.embed_photo(photo, "largest")
    row = [embedder.embed_photo(photo, str(number)) for number in range(1, 7)]
    assert [face.box[0] for face in row] == sorted(face.box[0] for face in row)
    assert largest.width == max(face.width for face in row)
    assert len({face.box for face in row}) == 6
    with pytest.raises(FaceRefused, match="shows 6 faces; there is no face number 7"):
        embedder.embed_photo(photo, "7")
    for unknown in ("", "0", "-1", "left", "²"):
        with pytest.raises(BadInput, match="counted from the left"):
            embedder.embed_photo(photo, unknown)


@pytest.mark.parametrize("side", [112, 640, 1200])
@pytest.mark.parametrize("margin", [0.1, 0.0, -0.1])
def test_a_photo_that_shows_nothing_but_the_face_is_taken(
    embedder: Embedder, astronaut: Image.Image, side: int, margin: float
) -> None:
    (whole,) = embedder.find(astronaut)
    left, top, right, bottom = whole.box
    x, y = margin * (right - left), margin * (bottom - top)
    tight = astronaut.crop((round(left - x), round(top - y), round(right + x), round(bottom + y)))
    found = embedder.embed_photo(encoded(tight.resize((side, side * 5 // 4)), "PNG"))
    assert embedder.similarity(whole.embedding, found.embedding) > 0.7
    # in the picture's own pixels, the border taken off again
    assert 0.7 * side < found.width < 1.5 * side


def test_what_is_missed_at_640_is_looked_for_at_256_in_a_photo_and_not_in_a_rendered_picture(
    embedder: Embedder, astronaut: Image.Image
) -> None:
    class Blind:
        """The pack's detector, which sees nothing above 256 px."""

        def __init__(self) -> None:
            self.asked: list[int] = []

        def detect(self, picture: np.ndarray, input_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            self.asked.append(input_size[0])
            boxes, points = embedder._detector.detect(picture, input_size=input_size)
            return (boxes, points) if input_size[0] <= 256 else (boxes[:0], points[:0])

    blind = Embedder.__new__(Embedder)
    blind.pack, blind._recogniser, blind._detector = embedder.pack, embedder._recogniser, Blind()
    photo = astronaut.resize((1200, 1200))
    (found,) = blind.find(photo, thorough=True)
    assert blind._detector.asked == [640, 256]
    (wanted,) = embedder.find(photo)
    assert embedder.similarity(found.embedding, wanted.embedding) > 0.8
    assert blind.find(photo) == []
    assert blind._detector.asked == [640, 256, 640]
    assert blind.embed_photo(encoded(photo, "JPEG")).width == pytest.approx(wanted.width, rel=0.1)


def test_a_small_face_is_refused_with_its_width(embedder: Embedder, astronaut: Image.Image) -> None:
    small = Image.new("RGB", (400, 400), "grey")
    small.paste(astronaut.crop((150, 0, 310, 230)).resize((40, 58), Image.Resampling.LANCZOS), (180, 170))
    with pytest.raises(FaceRefused, match=r"face is \d+ px wide, 32 needed"):
        embedder.embed_photo(encoded(small, "PNG"))


def test_a_small_face_in_a_reduced_photo_is_told_in_the_photos_own_pixels(
    embedder: Embedder, astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    (face,) = embedder.find(astronaut)
    found = replace(face, box=(100.0, 100.0, 130.0, 140.0))  # our own detector sees none so small in so large a photo
    monkeypatch.setattr(Embedder, "find", lambda *_, **__: [found])
    with pytest.raises(FaceRefused, match="face is 60 px wide, 64 needed"):
        embedder.embed_photo(encoded(astronaut.resize((5000, 5000)), "JPEG"))


def test_a_refusal_has_a_code_for_machines(embedder: Embedder, astronaut: Image.Image) -> None:
    small = Image.new("RGB", (400, 400), "grey")
    small.paste(astronaut.crop((150, 0, 310, 230)).resize((40, 58), Image.Resampling.LANCZOS), (180, 170))
    refused = {
        "no_face": encoded(Image.fromarray(data.coffee()), "JPEG"),
        "several_faces": SIX.read_bytes(),
        "face_too_small": encoded(small, "PNG"),
        "not_a_picture": b"not a picture",
        "damaged": encoded(astronaut, "JPEG")[:4000],
    }
    for code, photo in refused.items():
        with pytest.raises(FaceRefused) as raised:
            embedder.embed_photo(photo)
        assert raised.value.code == code


def test_a_photo_of_48_megapixels_gives_the_same_person(embedder: Embedder, astronaut: Image.Image) -> None:
    one = embedder.embed_photo(encoded(astronaut, "JPEG"))
    large = embedder.embed_photo(encoded(astronaut.resize((7000, 7000)), "JPEG"))
    assert embedder.similarity(one.embedding, large.embedding) > 0.9


def test_normalised_embeddings_have_the_mappers_scale(embedder: Embedder) -> None:
    rng = np.random.default_rng(0)
    normal = embedder.normalise(rng.standard_normal(128).astype(np.float32))
    assert np.linalg.norm(normal) == pytest.approx(np.sqrt(128), rel=1e-5)


def test_the_papers_margins_are_cut_around_the_box_also_at_an_edge() -> None:
    rows, columns = np.mgrid[0:200, 0:300]
    pixels = np.stack([rows, columns % 256, columns // 256 * 0 + 7], axis=2).astype(np.uint8)
    cut = with_margins(pixels, np.array([100.0, 80.0, 150.0, 140.0, 0.9]), (70, 108))
    # 50 + 2 x 10 wide, 60 + 33 + 15 high: nothing is resized
    assert np.array_equal(cut, pixels[47:155, 90:160])
    corner = with_margins(pixels, np.array([0.0, 0.0, 50.0, 60.0]), (70, 108))
    assert np.array_equal(corner[33:, 10:], pixels[:75, :60])
    assert np.array_equal(corner[:33, 10:], np.repeat(pixels[:1, :60], 33, axis=0))


def test_a_pack_can_ask_for_the_papers_margins(embedder: Embedder, astronaut: Image.Image) -> None:
    class Seen:
        input_size = (160, 160)

        def get_feat(self, crop: np.ndarray) -> np.ndarray:
            self.crop = crop
            return np.ones((1, 128), np.float32)

    seen = Seen()
    by_margins = Embedder.__new__(Embedder)
    by_margins.pack = replace(embedder.pack, crop="paper")
    by_margins._detector, by_margins._recogniser = embedder._detector, seen
    (found,) = by_margins.find(astronaut)
    assert seen.crop.shape == (160, 160, 3)
    assert found.embedding.tolist() == [1.0] * 128
    # the crop holds the face: the detector finds it there as well
    assert len(embedder.find(Image.fromarray(np.ascontiguousarray(seen.crop[:, :, ::-1])))) == 1


def test_between_two_photos_no_thread_of_the_pack_spins_on_a_core_that_renders(embedder: Embedder) -> None:
    for model in embedder._detector, embedder._recogniser:
        entry = model.session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning")
        assert entry == "0"


def test_the_packs_mean_is_removed_before_faces_condition_or_are_compared(embedder: Embedder) -> None:
    mean, dimension = embedder.pack.mean, embedder.pack.dimension
    assert np.linalg.norm(mean) > 0.5, "this pack's embeddings do have one"
    one, other = np.eye(dimension, dtype=np.float32)[:2]
    np.testing.assert_allclose(embedder.normalise(mean + 3 * one), np.sqrt(dimension) * one, atol=1e-4)
    # at right angles, although their raw cosine is near one
    assert embedder.similarity(mean + 0.1 * one, mean + 0.1 * other) == pytest.approx(0, abs=1e-4)
