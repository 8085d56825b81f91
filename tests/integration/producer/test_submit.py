"""Submit: consent before the face, the face before the job, and nothing half done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import redis
from skimage import data as sample_photos
from sqlalchemy import update

from face0_worker.contract.consent import Purpose
from face0_worker.contract.errors import BadInput, ConsentRefused, FaceRefused, ModelMissing
from face0_worker.contract.job import RenderItem
from face0_worker.queue.app import make_app, queue_length, queue_name, sender
from face0_worker.queue.dispatch import dispatch
from face0_worker.records import audit, offers
from face0_worker.records.jobs import cancel_job
from face0_worker.records.progress import job_items, job_status, list_jobs
from face0_worker.records.storage import face_key
from face0_worker.records.tables import attempts, audit_outbox
from face0_worker.records.vault import unseal_face
from face0_worker.settings import Settings
from producer.catalogue import read_items
from producer.demo import PERSON
from producer.services import Services
from producer.sources import Source
from producer.submit import submit
from tests.integration.producer.plain_worker import MODEL, grant, offer, render_everything
from tests.peaks import cost_of_face0, write_list

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
    assert Source.from_bytes(photo).photos == ((PERSON.read_bytes(), 1.0),)
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


@pytest.mark.parametrize(
    "line", ["B1,,7", "B1,red,x", "B1,re\u202ed,7", ",red,7", "SKU-0000000,red,7\nＳＫＵ-0000000,blue,7", 'B1,"red,7']
)
def test_one_wrong_line_at_the_end_of_a_long_list_leaves_nothing_behind(
    services: Services, tmp_path: Path, line: str
) -> None:
    path = write_list(tmp_path / "list.csv", 3000)
    path.write_text(f"{path.read_text()}{line}\n")
    keys_before = sorted(services.settings.home_dir.rglob("*"))
    with pytest.raises(BadInput, match="othing was enqueued"):
        submit(services, face=trap(tmp_path), items=read_items(path), consent_id=grant(services.ledger))
    assert stored(services) == []
    assert sorted(services.settings.home_dir.rglob("*")) == keys_before
    assert list_jobs(services.ledger) == []


@dataclass
class ChangingList:
    """A list that a shop's export writes anew between the first reading and the second."""

    path: Path
    readings: int = 0

    def __post_init__(self) -> None:
        self.items = read_items(self.path)

    def __iter__(self) -> Iterator[RenderItem]:
        self.readings += 1
        if self.readings == 2:
            write_list(self.path, 50, first=3)
        return iter(self.items)


def test_a_list_that_changes_while_it_is_submitted_is_not_enqueued(services: Services, tmp_path: Path) -> None:
    changing = ChangingList(write_list(tmp_path / "list.csv", 50))
    with pytest.raises(BadInput, match=r"list\.csv was changed while it was being read; nothing was enqueued"):
        submit(services, face=PERSON, items=changing, consent_id=grant(services.ledger))
    assert changing.readings == 2
    assert list_jobs(services.ledger) == []


def test_items_that_can_be_read_only_once_are_taken_too(services: Services) -> None:
    result = submit(services, face=PERSON, items=iter(ITEMS), consent_id=grant(services.ledger))
    assert (result.created, result.items) == (True, 3)


@pytest.mark.slow
def test_a_long_list_takes_no_more_memory_than_a_short_one(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    grant(services.ledger)
    # one thread and one arena: the peak of the face's network then differs by some 12 MiB from run to run
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    environment |= {"FACE0_HOME": str(settings.home), "FACE0_LEDGER_URL": settings.ledger_url}
    peaks = []
    for count in (5_000, 120_000):
        path = write_list(tmp_path / "list.csv", count)
        # what writing them takes is in test_jobs.py
        words = ("submit", "--face", PERSON, "--skus", path, "--consent", "c1", "--json", "--dry-run")
        cost = cost_of_face0(words, environment)
        assert cost.code == 0, cost.said
        assert json.loads(cost.said)["items"] == count
        peaks.append(cost.peak_mib)
    # 115,000 more items, held, were measured as 500 bytes each: 57 MiB
    assert peaks[1] - peaks[0] < 32, peaks


def test_the_broker_holds_a_window_of_messages_however_long_the_list(services: Services, broker_url: str) -> None:
    client = redis.Redis.from_url(broker_url.replace("redis+socket://", "unix://"))
    app = make_app(broker_url)
    name = queue_name(MODEL)
    sizes = []
    for count in (100, 3_000):
        consent_id = grant(services.ledger, f"c{count}")
        items = (replace(ITEMS[0], sku=f"A{n}", seed=n) for n in range(count))
        job_id = submit(services, face=PERSON, items=items, consent_id=consent_id).job_id
        for _ in range(10):
            offer(services)
            # sent again at once, so that whatever could pile up does
            dispatch(
                services.ledger,
                sender(app),
                batch_size=8,
                window=2,
                queue_length=queue_length(app),
                resend_after_s=0.0,
            )
        assert client.llen(name) == 2
        sizes.append(client.memory_usage(name) or 0)
        cancel_job(services.ledger, job_id)
        with services.ledger.transaction() as connection:
            connection.execute(update(attempts).values(state="lost"))
        client.delete(name)
    assert sizes[1] <= sizes[0] + 512
    assert sizes[1] < 8192


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
