"""Submit: consent before the face, the face before the job, and nothing half done."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from skimage import data as sample_photos

from face0_worker.contract.consent import Purpose
from face0_worker.contract.errors import BadInput, ConsentRefused, FaceRefused, ModelMissing
from face0_worker.contract.job import RenderItem
from face0_worker.records import audit, offers
from face0_worker.records.progress import job_items, job_status, list_jobs
from face0_worker.records.storage import face_key
from face0_worker.records.tables import audit_outbox
from face0_worker.records.vault import unseal_face
from producer.demo import PERSON
from producer.services import Services
from producer.submit import submit
from tests.integration.producer.plain_worker import MODEL, grant, render_everything

pytestmark = pytest.mark.services

ITEMS = tuple(RenderItem(sku=f"A{n}", prompt="赤いセーター", seed=n, width=64, height=64, steps=4) for n in range(3))


def stored(services: Services) -> list[str]:
    return sorted(services.storage.list())


def trap(tmp_path: Path) -> Path:
    """A photo that can't be opened without the test noticing: reading a pipe without a writer blocks for ever."""
    path = tmp_path / "photo.jpg"
    os.mkfifo(path)
    return path


def test_a_photo_and_a_list_become_a_job_with_the_face_encrypted(services: Services) -> None:
    result = submit(services, face=PERSON, items=ITEMS, consent_id=grant(services.ledger))
    assert (result.created, result.items, result.kept, result.model) == (True, 3, 0, "plain")
    assert [row.sku for row in job_items(services.ledger, result.job_id)] == ["A0", "A1", "A2"]
    assert job_status(services.ledger, result.job_id).model_digest == MODEL
    (key,) = stored(services)
    blob = services.storage.get(key)
    assert PERSON.read_bytes()[:64] not in blob
    photo, embedding = unseal_face(services.vault, "c1", blob)
    assert photo == PERSON.read_bytes()
    assert key == face_key("c1", Path(key).stem)
    assert embedding.shape == (services.pack.dimension,)


def test_a_real_photo_is_taken(services: Services, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "astronaut.jpg"
    Image.fromarray(sample_photos.astronaut()).save(path)
    assert submit(services, face=path, items=ITEMS, consent_id=grant(services.ledger)).items == 3


@pytest.mark.parametrize(
    ("consent_id", "days", "purpose", "code"),
    [
        ("nobody", 1, Purpose.CATALOGUE, "unknown"),
        ("c1", -1, Purpose.CATALOGUE, "expired"),
        ("c1", 1, Purpose.AD, "wrong_purpose"),
    ],
)
def test_without_consent_the_photo_is_not_even_opened(
    services: Services, tmp_path: Path, consent_id: str, days: float, purpose: Purpose, code: str
) -> None:
    grant(services.ledger, "c1", days=days, purpose=purpose)
    with pytest.raises(ConsentRefused) as raised:
        submit(services, face=trap(tmp_path), items=ITEMS, consent_id=consent_id)
    assert raised.value.code == code
    assert raised.value.exit_code == 3
    assert stored(services) == []
    assert list_jobs(services.ledger) == []


def test_a_refusal_is_noted_for_the_audit(services: Services) -> None:
    with pytest.raises(ConsentRefused):
        submit(services, face=PERSON, items=ITEMS, consent_id="nobody")
    with services.ledger.transaction() as connection:
        kinds = [row.kind for row in connection.execute(audit_outbox.select())]
    assert kinds == ["consent.refused"]
    assert audit.chain(services.ledger) == 1


def test_a_photo_without_a_face_leaves_nothing_behind(services: Services, tmp_path: Path) -> None:
    grant(services.ledger)
    for photo in (b"not a picture", sample_coins()):
        with pytest.raises(FaceRefused):
            submit(services, face=photo, items=ITEMS, consent_id="c1")
    with pytest.raises(BadInput, match="the photo can't be read"):
        submit(services, face=tmp_path / "absent.jpg", items=ITEMS, consent_id="c1")
    assert stored(services) == []
    assert list_jobs(services.ledger) == []


def sample_coins() -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(sample_photos.coins()).convert("RGB").save(out, "PNG")
    return out.getvalue()


def test_equal_items_are_refused_by_sku_before_anything_is_stored(services: Services) -> None:
    twice = (*ITEMS, replace(ITEMS[0], sku="B9"))
    with pytest.raises(BadInput, match="SKU B9 asks for the same picture as SKU A0"):
        submit(services, face=PERSON, items=twice, consent_id=grant(services.ledger))
    assert stored(services) == []


def test_a_repeated_idempotency_key_is_the_same_job(services: Services) -> None:
    grant(services.ledger)
    first = submit(services, face=PERSON, items=ITEMS, consent_id="c1", idempotency_key="night-1")
    second = submit(services, face=PERSON, items=ITEMS, consent_id="c1", idempotency_key="night-1")
    assert (first.created, second.created) == (True, False)
    assert first.job_id == second.job_id
    with pytest.raises(BadInput, match="idempotency key"):
        submit(services, face=PERSON, items=ITEMS[:2], consent_id="c1", idempotency_key="night-1")


def test_what_was_rendered_before_is_kept(services: Services) -> None:
    grant(services.ledger)
    submit(services, face=PERSON, items=ITEMS, consent_id="c1")
    assert render_everything(services) == 3
    more = (*ITEMS, replace(ITEMS[0], seed=99))
    assert submit(services, face=PERSON, items=more, consent_id="c1", dry_run=True).kept == 3
    assert submit(services, face=PERSON, items=more, consent_id="c1").kept == 3
    assert render_everything(services) == 1


def test_a_dry_run_checks_everything_and_writes_nothing(services: Services) -> None:
    grant(services.ledger)
    result = submit(services, face=PERSON, items=ITEMS, consent_id="c1", dry_run=True)
    assert (result.job_id, result.items, result.kept) == ("", 3, 0)
    assert stored(services) == []
    assert list_jobs(services.ledger) == []
    with pytest.raises(FaceRefused):
        submit(services, face=b"not a picture", items=ITEMS, consent_id="c1", dry_run=True)


def test_a_model_for_another_face_pack_is_refused(services: Services) -> None:
    grant(services.ledger)
    offers.offer_model(services.ledger, "w2", "f" * 64, "other", {"embedder_digest": "e" * 64})
    with pytest.raises(ModelMissing, match="another face pack"):
        submit(services, face=PERSON, items=ITEMS, consent_id="c1", model="other")
    with pytest.raises(ModelMissing, match="has ever offered model unheard-of"):
        submit(services, face=PERSON, items=ITEMS, consent_id="c1", model="unheard-of")
