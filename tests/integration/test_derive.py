"""Pictures in another form: committed like any other, under the consent's lock, once, and by whoever holds the task."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select, update

from face0_worker import derive
from face0_worker.contract.derivation import FileFormat, Form, derivation_key
from face0_worker.contract.errors import BadInput, ItemFailed, StorageDown
from face0_worker.contract.job import RENDERER_VERSION
from face0_worker.contract.receipt import DIGITAL_SOURCE_TYPE, Receipt
from face0_worker.derive import Deriver, encode
from face0_worker.records import audit, commits, consents, derivations
from face0_worker.records.commits import find_commit
from face0_worker.records.derivations import TRIES
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer, mark_picture, read_reference, verify_receipt
from face0_worker.records.storage import Storage, open_storage, picture_key
from face0_worker.records.tables import audit_events
from face0_worker.records.tables import commits as commits_table
from face0_worker.records.tables import consents as consents_table
from face0_worker.records.tables import derivations as derivations_table
from tests import ledgers

pytestmark = pytest.mark.services

FORM = Form(FileFormat.JPEG, quality=80)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "storage"))


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.create(tmp_path / "keys")


@pytest.fixture
def deriver(ledger: Ledger, storage: Storage, signer: Signer) -> Deriver:
    return Deriver(ledger, storage, signer)


@pytest.fixture
def wanted(ledger: Ledger, storage: Storage, signer: Signer) -> str:
    """The key of a picture in another form that has been asked for; its parent is committed under consent c1."""
    ledgers.give_consent(ledger, "c1")
    claim = ledgers.claim_items(ledger, ledgers.some_items(1))
    (item,) = claim.items
    data = mark_picture(_pixels(), reference=item.item_key)
    sha256 = hashlib.sha256(data).hexdigest()
    key = picture_key("c1", item.item_key, sha256)
    named = (item.item_key, key, sha256, "c1", item.consent_epoch, item.purpose, item.job_id)
    digests = (item.subject.model_digest, item.subject.embedder_digest)
    receipt = Receipt(*named, *digests, item.spec.seed, 96, 64, ledgers.GOOD, RENDERER_VERSION)
    storage.put(key, data)
    signed = signer.sign(receipt)
    commits.commit(ledger, claim.attempt_id, claim.token, item, key, sha256, signed, ledgers.GOOD)
    return asked(ledger, item.job_id, item.item_key, sha256)


def asked(ledger: Ledger, job_id: str, item_key: str, sha256: str) -> str:
    whose = {"job_id": job_id, "consent_id": "c1", "purpose": "catalogue"}
    return derivations.request(ledger, **whose, parents={item_key: sha256}, form=FORM)[item_key]


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)


def state(ledger: Ledger) -> tuple[str, str]:
    with ledger.transaction() as connection:
        row = connection.execute(select(derivations_table.c.state, derivations_table.c.error)).one()
    return row.state, row.error


def due_now(ledger: Ledger) -> None:
    with ledger.transaction() as connection:
        connection.execute(update(derivations_table).values(due_at=func.now()))


def before_it_is_stored(storage: Storage, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Let something happen, once, when the picture has been made and signed for, and not stored yet."""
    left, put = [do], storage.put

    def putting(key: str, data: bytes, *, if_absent: bool = True) -> bool:
        if left:
            left.pop()()
        return put(key, data, if_absent=if_absent)

    monkeypatch.setattr(storage, "put", putting)


def test_it_is_committed_signed_and_audited_and_names_its_parent(
    ledger: Ledger, storage: Storage, signer: Signer, deriver: Deriver, wanted: str
) -> None:
    assert (deriver.round(), deriver.round()) == (1, 0)
    made = find_commit(ledger, item_key=wanted)
    assert made is not None
    receipt = verify_receipt(made.receipt, signer.public_key)
    parent = find_commit(ledger, item_key=receipt.parent_item_key)
    assert parent is not None
    assert derivation_key(parent.picture_sha256, FORM) == wanted
    assert (receipt.parent_sha256, receipt.form) == (parent.picture_sha256, "jpeg, quality 80")
    assert (receipt.seed, receipt.verdict, receipt.width) == (0, ledgers.GOOD, 96)
    data = storage.get(made.picture_key)
    assert hashlib.sha256(data).hexdigest() == made.picture_sha256
    assert made.picture_key == f"pictures/c1/{wanted}/{made.picture_sha256}.jpg"
    assert read_reference(data) == wanted
    assert DIGITAL_SOURCE_TYPE.encode() in data
    audit.chain(ledger)
    audit.verify(ledger)
    with ledger.transaction() as connection:
        kinds = connection.execute(select(audit_events.c.kind)).scalars().all()
        rows = connection.execute(select(func.count()).select_from(commits_table)).scalar_one()
    assert kinds.count("picture.committed") == rows == 2


def test_a_consent_that_is_revoked_meanwhile_gets_no_commit_and_nothing_stays(
    ledger: Ledger, storage: Storage, deriver: Deriver, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_it_is_stored(storage, monkeypatch, lambda: consents.revoke(ledger, "c1"))
    deriver.round()
    assert find_commit(ledger, item_key=wanted) is None
    assert [key for key in storage.list("pictures/c1/") if key.endswith(".jpg")] == []
    assert state(ledger)[0] == "failed"
    due_now(ledger)
    assert deriver.round() == 0


def test_a_consent_that_changed_meanwhile_is_named_in_its_new_epoch(
    ledger: Ledger,
    storage: Storage,
    signer: Signer,
    deriver: Deriver,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def change() -> None:
        with ledger.transaction() as connection:
            connection.execute(update(consents_table).values(epoch=consents_table.c.epoch + 1))

    before_it_is_stored(storage, monkeypatch, change)
    deriver.round()
    assert find_commit(ledger, item_key=wanted) is None
    deriver.round()
    made = find_commit(ledger, item_key=wanted)
    assert made is not None
    assert (made.consent_epoch, verify_receipt(made.receipt, signer.public_key).committed_under_epoch) == (2, 2)


def test_a_worker_that_lost_its_turn_commits_nothing(
    ledger: Ledger, storage: Storage, signer: Signer, deriver: Deriver, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtake() -> None:
        due_now(ledger)
        Deriver(ledger, storage, signer).round()

    before_it_is_stored(storage, monkeypatch, overtake)
    deriver.round()
    made = find_commit(ledger, item_key=wanted)
    assert made is not None
    assert [key for key in storage.list("pictures/c1/") if key.endswith(".jpg")] == [made.picture_key]


def test_a_worker_whose_task_another_has_taken_commits_nothing_even_if_it_is_first(
    ledger: Ledger, storage: Storage, deriver: Deriver, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_over() -> None:
        due_now(ledger)
        assert derivations.claim(ledger, 60.0) is not None

    before_it_is_stored(storage, monkeypatch, take_over)
    deriver.round()
    assert find_commit(ledger, item_key=wanted) is None
    assert [key for key in storage.list("pictures/c1/") if key.endswith(".jpg")] == []
    assert state(ledger)[0] == "waiting"


def test_what_a_worker_left_that_died_before_its_commit_is_swept(
    ledger: Ledger, storage: Storage, deriver: Deriver, wanted: str
) -> None:
    assert derivations.claim(ledger, 0.0) is not None  # and then it dies
    orphan = picture_key("c1", wanted, "0" * 64, "jpg")
    storage.put(orphan, b"half of the work")
    deriver.round()
    made = find_commit(ledger, item_key=wanted)
    assert made is not None
    assert [key for key in storage.list("pictures/c1/") if wanted in key] == [made.picture_key]


def test_a_picture_that_ends_every_worker_is_given_up(ledger: Ledger, deriver: Deriver, wanted: str) -> None:
    for _ in range(TRIES):
        due_now(ledger)
        assert derivations.claim(ledger, 60.0) is not None
    due_now(ledger)
    assert deriver.round() == 0
    assert state(ledger) == ("failed", f"tried {TRIES} times without a result")


def test_an_outage_of_the_store_costs_no_try(
    ledger: Ledger, storage: Storage, deriver: Deriver, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(key: str) -> bytes:
        raise StorageDown("away")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "get", away)
        for _ in range(TRIES + 1):
            due_now(ledger)
            with pytest.raises(StorageDown):
                deriver.round()
    due_now(ledger)
    deriver.round()
    assert state(ledger) == ("done", "")


def test_a_damaged_parent_is_told_and_nothing_is_made_of_it(
    ledger: Ledger, storage: Storage, deriver: Deriver, wanted: str
) -> None:
    (key,) = storage.list("pictures/c1/")
    storage.put(key, b"other bytes", if_absent=False)
    deriver.round()
    assert state(ledger) == ("failed", "its stored bytes are not those that were committed")


@pytest.mark.parametrize("file_format", [FileFormat.JPEG, FileFormat.WEBP])
def test_a_limit_on_bytes_takes_the_highest_quality_that_fits(file_format: FileFormat) -> None:
    out = io.BytesIO()
    Image.effect_mandelbrot((256, 256), (-2, -1.5, 1, 1.5), 100).convert("RGB").save(out, "PNG")
    free = encode(out.getvalue(), Form(file_format, quality=95), reference="k")
    limit = len(free.data) * 2 // 3
    bound = encode(out.getvalue(), Form(file_format, quality=95, max_bytes=limit), reference="k")
    assert len(bound.data) <= limit
    quality = int(bound.said.rpartition(" ")[2])
    assert 30 <= quality < 95
    assert len(encode(out.getvalue(), Form(file_format, quality=quality + 1), reference="k").data) > limit
    with pytest.raises(ItemFailed, match="ask for a smaller size"):
        encode(mark_picture(_pixels(), reference="k"), Form(file_format, max_bytes=1024), reference="k")


def test_a_size_is_fitted_in_and_never_enlarged() -> None:
    picture = mark_picture(_pixels(), reference="k")
    for asked_for, size in {(48, 0): (48, 32), (0, 16): (24, 16), (48, 16): (24, 16), (4000, 0): (96, 64)}.items():
        made = encode(picture, Form(FileFormat.PNG, width=asked_for[0], height=asked_for[1]), reference="k")
        assert (made.width, made.height) == Image.open(io.BytesIO(made.data)).size == size


@pytest.mark.parametrize(
    "form", [{"quality": 101}, {"quality": 80}, {"max_bytes": 5}, {"width": 9000}, {"height": -1}, {"quality": -1}]
)
def test_a_form_that_can_not_be_meant_names_the_option(form: dict[str, int]) -> None:
    with pytest.raises(BadInput, match=f"--{next(iter(form)).replace('_', '-')}"):
        Form.from_json({"format": "png", **form})  # a png has no quality


def test_a_form_is_part_of_the_key_and_is_read_back_exactly() -> None:
    forms = [Form(), FORM, Form(FileFormat.WEBP, 80), Form(FileFormat.JPEG, 81), Form(width=5), Form(height=5)]
    assert len({derivation_key("0" * 64, form) for form in forms}) == len(forms)
    assert [Form.from_json(form.to_json()) for form in forms] == forms


def test_what_is_revoked_while_it_is_encoded_is_never_stored(
    ledger: Ledger, storage: Storage, deriver: Deriver, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, stored = derive.encode, list[object]()

    def revoked_meanwhile(*given: Any, **named: Any) -> derive.Encoded:
        consents.revoke(ledger, "c1")
        return encode(*given, **named)

    monkeypatch.setattr(derive, "encode", revoked_meanwhile)
    monkeypatch.setattr(storage, "put", stored.append)
    assert deriver.round() == 1
    assert (stored, state(ledger)[0]) == ([], "failed")
