"""Which photos are taken, and what is said of those that are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from face0_worker.contract.errors import FaceRefused
from face0_worker.faces.embed import Embedder
from tests.unit.faces.test_lite_pack import SIX


def _bytes(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


def test_a_photo_of_one_person_gives_her_face(embedder: Embedder, astronaut: Image.Image) -> None:
    face = embedder.embed_photo(_bytes(astronaut))
    assert face.embedding.shape == (128,)
    assert 80 < face.width < 160


def test_the_same_person_in_another_format_and_size_is_the_same(embedder: Embedder, astronaut: Image.Image) -> None:
    one = embedder.embed_photo(_bytes(astronaut))
    other = embedder.embed_photo(_bytes(astronaut.resize((300, 300)), "PNG"))
    assert embedder.similarity(one.embedding, other.embedding) > 0.8


def test_a_photo_turned_by_exif_is_turned_back(embedder: Embedder, astronaut: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: show it turned by 90 degrees clockwise
    turned = _bytes(astronaut.transpose(Image.Transpose.ROTATE_90), exif=exif)
    upright = embedder.embed_photo(_bytes(astronaut))
    assert embedder.similarity(upright.embedding, embedder.embed_photo(turned).embedding) > 0.8


def test_no_face_is_refused(embedder: Embedder) -> None:
    with pytest.raises(FaceRefused, match="no face"):
        embedder.embed_photo(_bytes(Image.fromarray(data.coffee())))


def test_several_faces_are_refused_with_their_number(embedder: Embedder) -> None:
    with pytest.raises(FaceRefused, match="6 faces"):
        embedder.embed_photo(SIX.read_bytes())


def test_a_small_face_is_refused_with_its_width(embedder: Embedder, astronaut: Image.Image) -> None:
    small = Image.new("RGB", (400, 400), "grey")
    small.paste(astronaut.crop((150, 0, 310, 230)).resize((40, 58), Image.Resampling.LANCZOS), (180, 170))
    with pytest.raises(FaceRefused, match=r"face is \d+ px wide, 32 needed"):
        embedder.embed_photo(_bytes(small, "PNG"))


@pytest.mark.parametrize("photo", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_what_is_no_picture_is_refused(embedder: Embedder, photo: bytes) -> None:
    with pytest.raises(FaceRefused, match="can't be read"):
        embedder.embed_photo(photo)


def test_a_truncated_photo_is_refused(embedder: Embedder, astronaut: Image.Image) -> None:
    with pytest.raises(FaceRefused, match="can't be read"):
        embedder.embed_photo(_bytes(astronaut)[:4000])


def test_normalised_embeddings_have_the_mappers_scale(embedder: Embedder) -> None:
    rng = np.random.default_rng(0)
    normal = embedder.normalise(rng.standard_normal(128).astype(np.float32))
    assert np.linalg.norm(normal) == pytest.approx(np.sqrt(128), rel=1e-5)
