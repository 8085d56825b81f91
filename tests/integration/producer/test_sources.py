"""Faces from several photos, from earlier submits and from nobody: what is stored, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sqlalchemy import select

from face0_worker.contract.errors import BadInput, ConsentRefused, FaceRefused, VerificationFailed
from face0_worker.contract.job import RenderItem
from face0_worker.faces.characters import Recipe
from face0_worker.records import consents
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import jobs
from face0_worker.records.vault import unseal_face
from producer.characters import new_character
from producer.demo import PERSON
from producer.services import Services
from producer.sources import Source, embed
from producer.submit import submit
from tests.integration.producer.plain_worker import grant, render_everything

pytestmark = pytest.mark.services
ITEMS = (RenderItem(sku="A", prompt="a portrait", width=64, height=64, steps=4, seed=1),)


@pytest.fixture(scope="module")
def photos() -> tuple[bytes, bytes]:
    """Two photos of the sample person: as it is, and darker."""
    with Image.open(PERSON) as opened:
        image = opened.convert("RGB")
    return jpeg(image), jpeg(ImageEnhance.Brightness(image).enhance(0.8))


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def face_of(ledger: Ledger, job_id: str) -> tuple[str, str]:
    with ledger.transaction() as connection:
        row = connection.execute(select(jobs.c.face_digest, jobs.c.face_key).where(jobs.c.id == job_id)).one()
    return row.face_digest, row.face_key


def test_a_character_is_rendered_without_a_photo_and_is_the_same_person_next_month(services: Services) -> None:
    recipe = Recipe(seed=7)
    first = new_character(services, recipe)
    again = new_character(services, recipe)
    assert (first.made, again.made) == (True, False)
    assert (first.id, first.face_digest) == (again.id, again.face_digest)
    one = submit(services, face=None, items=ITEMS, consent_id=first.id)
    render_everything(services)
    other = submit(services, face=None, items=ITEMS, consent_id=first.id)
    # the same person with the same prompt is the same picture
    assert (one.kept, other.kept) == (0, 1)
    digest, key = face_of(services.ledger, one.job_id)
    photo, embedding = unseal_face(services.vault, first.id, services.storage.get(key), digest=digest)
    assert Source.from_bytes(photo) == Source(recipe=recipe)
    normalised = services.embedder.normalise(embedding)
    assert np.linalg.norm(normalised) == pytest.approx(np.sqrt(128), rel=1e-3)


def test_nobody_s_consent_gives_no_right_to_a_photo(services: Services, photos: tuple[bytes, bytes]) -> None:
    made = new_character(services, Recipe(seed=7))
    with pytest.raises(BadInput, match="a character's"):
        submit(services, face=photos[0], items=ITEMS, consent_id=made.id)
    with pytest.raises(BadInput):
        submit(services, face=Source(recipe=Recipe(seed=8)), items=ITEMS, consent_id=made.id)
    grant(services.ledger, "c1")
    with pytest.raises(BadInput):
        submit(services, face=Source(recipe=Recipe(seed=7)), items=ITEMS, consent_id="c1")


def test_a_revoked_character_is_gone_as_anybody_is(services: Services) -> None:
    made = new_character(services, Recipe(seed=7))
    consents.revoke(services.ledger, made.id)
    with pytest.raises(ConsentRefused):
        submit(services, face=None, items=ITEMS, consent_id=made.id)


def test_without_a_photo_the_one_stored_last_is_used(services: Services, photos: tuple[bytes, bytes]) -> None:
    grant(services.ledger, "c1")
    with pytest.raises(BadInput, match="--face"):
        submit(services, face=None, items=ITEMS, consent_id="c1")
    submit(services, face=photos[0], items=ITEMS, consent_id="c1")
    second = submit(services, face=photos[1], items=ITEMS, consent_id="c1")
    third = submit(services, face=None, items=ITEMS, consent_id="c1")
    assert face_of(services.ledger, third.job_id) == face_of(services.ledger, second.job_id)


def test_several_photos_are_averaged_by_weight_and_all_kept(services: Services, photos: tuple[bytes, bytes]) -> None:
    normalise = services.embedder.normalise
    one, other = (normalise(embed(services, Source(((photo, 1.0),)))) for photo in photos)
    both = Source(((photos[0], 3.0), (photos[1], 1.0)))
    average = embed(services, both)
    assert np.allclose(average - services.pack.mean, (3 * one + other) / 4, atol=1e-5)
    assert Source.from_bytes(both.to_bytes()) == both
    assert Source(((photos[0], 2.0),)).to_bytes() == photos[0]


def test_the_face_that_was_meant_is_meant_again_without_the_photo(services: Services) -> None:
    from tests.unit.faces.test_lite_pack import SIX

    grant(services.ledger, "c1")
    with pytest.raises(FaceRefused, match="6 faces"):
        submit(services, face=SIX, items=ITEMS, consent_id="c1")
    third = Source(((SIX.read_bytes(), 1.0),), which="3")
    first = submit(services, face=third, items=ITEMS, consent_id="c1")
    again = submit(services, face=None, items=ITEMS, consent_id="c1")
    assert face_of(services.ledger, first.job_id) == face_of(services.ledger, again.job_id)


def test_photos_of_two_people_are_not_averaged(services: Services, photos: tuple[bytes, bytes]) -> None:
    from skimage import data

    stranger = jpeg(Image.fromarray(data.astronaut()).crop((120, 0, 340, 220)))
    with pytest.raises(FaceRefused, match="photos 1 and 3 seem to show different people") as refused:
        embed(services, Source(((photos[0], 1.0), (photos[1], 1.0), (stranger, 1.0))))
    assert refused.value.code == "different_people"
    with pytest.raises(FaceRefused, match="photo 2 of 2"):
        embed(services, Source(((photos[0], 1.0), (b"no picture", 1.0))))


@pytest.mark.parametrize("data", [b"face0-face/1\n", b"face0-face/1\n{}\n", b'face0-face/1\n{"photos":[[1]]}\n'])
def test_a_damaged_stored_face_is_one_sentence(data: bytes) -> None:
    with pytest.raises(VerificationFailed, match="submit with the photo again"):
        Source.from_bytes(data)


def test_a_photo_that_looks_like_a_stored_form_is_still_a_photo(photos: tuple[bytes, bytes]) -> None:
    trick = b'face0-face/1\n{"character":{"seed":7}}\n'
    assert Source.from_bytes(Source(((trick, 1.0),)).to_bytes()) == Source(((trick, 1.0),))


def test_the_number_of_photos_and_weights_is_checked(tmp_path: Path) -> None:
    from producer.sources import photo_files

    with pytest.raises(BadInput, match="one --weight for each --face"):
        photo_files([PERSON], [1.0, 2.0])
    with pytest.raises(BadInput, match="at most 20"):
        photo_files([PERSON] * 21)
    with pytest.raises(BadInput, match="above 0"):
        photo_files([PERSON], [0.0])
