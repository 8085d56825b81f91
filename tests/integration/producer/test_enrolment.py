"""Enrolment: the first face is the person, one of two at the same moment, and its numbers lie nowhere in the clear."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data as sample_photos
from sqlalchemy import text

from face0_worker.contract.errors import ConsentRefused, FaceHeld, Refused
from face0_worker.records import consents
from face0_worker.records import enrolment as records
from face0_worker.settings import Settings
from producer import sources
from producer.consent import enrolment
from producer.consent.enrolment import FIRST, SAME, Face
from producer.demo import PERSON
from producer.services import Services
from producer.sources import Source, photo_files
from producer.withdraw import withdraw
from tests.integration.producer.plain_worker import grant

pytestmark = pytest.mark.services


def somebody_else() -> Source:
    out = io.BytesIO()
    Image.fromarray(sample_photos.astronaut()).save(out, "PNG")
    return Source(((out.getvalue(), 1.0),))


def test_of_two_people_enrolled_at_the_same_moment_one_is_the_person_and_the_other_is_held(
    services: Services, settings: Settings
) -> None:
    grant(services.ledger)
    faces = [enrolment.look(services, source) for source in (photo_files([PERSON]), somebody_else())]
    together = threading.Barrier(2, timeout=120)
    real = enrolment.compare

    def compare(services: Services, consent_id: str, face: Face) -> Any:
        match = real(services, consent_id, face)
        if match.kind == FIRST:
            together.wait()  # both have seen that nobody is enrolled
        return match

    def bring(face: Face) -> str:
        with Services(settings) as own:
            where = enrolment.seal(own, "c1", face)
            try:
                return enrolment.admit(own, "c1", face, where, by="").kind
            except FaceHeld as held:
                return held.code

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(enrolment, "compare", compare)
        ended = sorted(pool.map(bring, faces))
    assert ended == ["face_other", FIRST]
    assert len(records.enrolled(services.ledger, "c1")) == 1
    record = consents.get(services.ledger, "c1")
    assert record is not None
    assert len(record.terms.faces) == 1


def test_the_embedding_is_in_no_table_and_in_no_object_in_the_clear(services: Services) -> None:
    grant(services.ledger)
    face = enrolment.look(services, photo_files([PERSON]))
    enrolment.enrol_photo(services, "c1", face, by="staff-1")
    numbers = np.ascontiguousarray(face.embedding, "<f4").tobytes()
    with services.ledger.transaction() as connection:
        tables = connection.execute(text("SELECT relname FROM pg_stat_user_tables")).scalars().all()
        rows = [row for t in tables for row in connection.execute(text(f"SELECT t::text FROM {t} t")).scalars()]
    assert not any(numbers[:16].hex() in row for row in rows)
    assert not any(numbers[:16] in services.storage.get(key) for key in services.storage.list())
    (one,) = records.enrolled(services.ledger, "c1")
    record = consents.get(services.ledger, "c1")
    assert record is not None
    assert record.terms.faces == (one.keyed_digest,)
    assert one.keyed_digest != one.digest
    # whoever has the ledger can't tell whether a face that he has is this one: the key is sealed
    key = services.vault.unseal("c1", one.sealed_key, about="digest key")
    assert enrolment.keyed_digest(key, face.embedding) == one.keyed_digest
    services.vault.destroy("c1")
    with pytest.raises(Refused):
        services.vault.unseal("c1", one.sealed_key, about="digest key")


def test_a_face_of_another_pack_is_compared_by_its_photo(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    grant(services.ledger)
    face = enrolment.look(services, photo_files([PERSON]))
    enrolment.enrol_photo(services, "c1", face, by="")
    with services.ledger.transaction() as connection:
        connection.execute(text("UPDATE enrolments SET embedder_digest = 'old'"))
    opened: list[Source] = []
    real = sources.embed_photos

    def embed_photos(services: Services, source: Source) -> list[np.ndarray]:
        opened.append(source)
        return real(services, source)

    other = enrolment.look(services, somebody_else())
    monkeypatch.setattr(enrolment, "embed_photos", embed_photos)
    with pytest.raises(FaceHeld):
        enrolment.refuse_other(services, "c1", other)
    assert opened == [face.source]  # embedded anew by the pack of today
    assert enrolment.compare(services, "c1", face).kind == SAME


def test_nothing_is_enrolled_under_a_revoked_consent(services: Services) -> None:
    grant(services.ledger)
    face = enrolment.look(services, photo_files([PERSON]))
    where = enrolment.seal(services, "c1", face)
    consents.revoke(services.ledger, "c1")
    with pytest.raises(ConsentRefused, match="was revoked"):
        enrolment.admit(services, "c1", face, where, by="")
    withdraw(services, "c1")
    assert list(services.storage.list("faces/")) == []


def test_a_held_photo_waits_for_a_human_however_alike_it_looks_by_now(services: Services) -> None:
    grant(services.ledger)
    face, other = (enrolment.look(services, source) for source in (photo_files([PERSON]), somebody_else()))
    enrolment.enrol_photo(services, "c1", face, by="")
    with pytest.raises(FaceHeld):
        enrolment.enrol_photo(services, "c1", other, by="")
    (held,) = records.list_held(services.ledger)
    with services.ledger.transaction() as connection:  # as if another photo of theirs had been accepted
        connection.execute(text("UPDATE enrolments SET digest = :theirs"), {"theirs": other.digest})
    for bring in (enrolment.seal, enrolment.refuse_other):
        with pytest.raises(FaceHeld) as refused:
            bring(services, "c1", other)
        assert refused.value.held_id == held.id
    enrolment.reject(services, held.id)
    services.storage.put(held.face_key, b"left by somebody who was killed")
    enrolment.reject(services, held.id)
    assert not services.storage.exists(held.face_key)


def test_an_accepted_photo_is_of_the_pack_that_has_embedded_it(services: Services) -> None:
    grant(services.ledger)
    face, other = (enrolment.look(services, source) for source in (photo_files([PERSON]), somebody_else()))
    enrolment.enrol_photo(services, "c1", face, by="")
    with pytest.raises(FaceHeld):
        enrolment.enrol_photo(services, "c1", other, by="")
    with services.ledger.transaction() as connection:
        connection.execute(text("UPDATE held_faces SET embedder_digest = 'old'"))
    (held,) = records.list_held(services.ledger)
    enrolment.accept(services, held.id, by="")
    packs = {one.digest: one.embedder_digest for one in records.enrolled(services.ledger, "c1")}
    assert packs == {face.digest: services.pack.digest, other.digest: "old"}


@pytest.mark.parametrize("ended", ["revoked", "expired"])
def test_nothing_is_held_or_enrolled_after_the_consents_end(services: Services, ended: str) -> None:
    grant(services.ledger)
    face, other = (enrolment.look(services, source) for source in (photo_files([PERSON]), somebody_else()))
    enrolment.enrol_photo(services, "c1", face, by="")
    where = enrolment.seal(services, "c1", other)
    if ended == "revoked":
        consents.revoke(services.ledger, "c1")
    else:
        with services.ledger.transaction() as connection:
            connection.execute(text("UPDATE consents SET valid_until = clock_timestamp()"))
    with pytest.raises(ConsentRefused, match=ended):
        records.hold(services.ledger, "c1", other.digest, where, services.pack.digest, 0.9, 0.5)
    one = records.Enrolled(other.digest, where, services.pack.digest, "k" * 64, b"sealed")
    with pytest.raises(ConsentRefused, match=ended):
        records.enrol(services.ledger, "c1", one, first=False)
    assert records.list_held(services.ledger) == []


def test_the_same_photo_enrolled_twice_at_once_is_enrolled_once(services: Services) -> None:
    grant(services.ledger)
    face = enrolment.look(services, photo_files([PERSON]))
    enrolment.enrol_photo(services, "c1", face, by="")
    (one,) = records.enrolled(services.ledger, "c1")
    with pytest.raises(records.AlreadyEnrolled):
        records.enrol(services.ledger, "c1", one, first=False)
