"""Marks, receipts and the verifier: it turns red when any byte changes, and believes no picture's own word."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from face0_worker.contract.consent import ConsentRecord, ConsentState, Decision, Purpose, Use, decide
from face0_worker.contract.errors import BadInput, ConsentRefused, VerificationFailed
from face0_worker.contract.job import canonical_json
from face0_worker.contract.receipt import DIGITAL_SOURCE_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, Receipt, Verdict
from face0_worker.records.provenance import (
    Signer,
    Verified,
    mark_picture,
    open_public_key,
    read_reference,
    verify_picture,
    verify_receipt,
)
from face0_worker.records.storage import receipt_key
from face0_worker.records.storage_local import LocalStorage

ITEM = "5a" * 32
KEY = Ed25519PrivateKey.from_private_bytes(b"1" * 32).public_key()
names = st.sampled_from(["payload", "payloadType", "signatures", "sig", "keyid"])
almost = st.recursive(
    st.none() | st.integers() | st.text(), lambda more: st.lists(more) | st.dictionaries(names, more), max_leaves=12
)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)


def picture_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(24, 16, 3), dtype=np.uint8)


def receipt_for(picture: bytes, item_key: str = ITEM) -> Receipt:
    sha256 = hashlib.sha256(picture).hexdigest()
    return Receipt(
        item_key=item_key,
        picture_key=f"pictures/c1/{item_key}/{sha256}.png",
        picture_sha256=sha256,
        consent_id="c1",
        committed_under_epoch=1,
        purpose="catalogue",
        job_id="j1",
        model_digest="m" * 64,
        embedder_digest="e" * 64,
        seed=7,
        width=16,
        height=24,
        verdict=Verdict(True, "", 1, 0.71, 0.4, 0.2),
        renderer_version="1",
    )


@dataclass(frozen=True)
class Row:
    """A commit as the ledger gives it."""

    item_key: str
    consent_id: str
    picture_sha256: str
    receipt: bytes
    purged: bool = False


class Shop:
    """One committed picture with everything the verifier asks for; tests break one thing at a time."""

    def __init__(self, folder: Path) -> None:
        self.signer = Signer.create(folder / "keys")
        self.public_key = self.signer.public_key
        self.storage = LocalStorage(folder / "storage")
        self.picture = mark_picture(picture_of(), reference=ITEM)
        self.rows: list[Row] = []
        self.consent = ConsentRecord(
            "c1", "s1", frozenset({Purpose.CATALOGUE}), NOW - timedelta(days=1), NOW + timedelta(days=1)
        )
        self.commit(receipt_for(self.picture))

    def commit(self, receipt: Receipt) -> None:
        envelope = self.signer.sign(receipt)
        self.rows = [Row(ITEM, "c1", hashlib.sha256(self.picture).hexdigest(), envelope)]
        self.storage.put(receipt_key("c1", ITEM), envelope, if_absent=False)

    def find_commit(self, *, item_key: str | None = None, picture_sha256: str | None = None) -> Row | None:
        found = (row for row in self.rows if item_key == row.item_key or picture_sha256 == row.picture_sha256)
        return next(found, None)

    def decide(self, consent_id: str, purpose: str) -> Decision:
        return decide(self.consent if consent_id == "c1" else None, Use(Purpose(purpose)), NOW)

    def verify(self, picture: bytes | None = None) -> Verified:
        return verify_picture(
            self.picture if picture is None else picture,
            find_commit=self.find_commit,
            consent_decision=self.decide,
            storage=self.storage,
            public_key=self.public_key,
        )


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


# marks


def test_a_marked_picture_keeps_every_pixel() -> None:
    marked = mark_picture(picture_of(), reference=ITEM)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(marked))), picture_of())


def test_other_tools_read_what_the_mark_says() -> None:
    image = Image.open(io.BytesIO(mark_picture(picture_of(), reference=ITEM)))
    assert isinstance(image.info["xmp"], bytes)  # Pillow found the packet where XMP says it must be
    packet = image.info["xmp"].decode()
    assert f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>" in packet
    assert "<xmp:CreatorTool>face0</xmp:CreatorTool>" in packet
    assert f"<dc:identifier>{ITEM}</dc:identifier>" in packet


def test_a_mark_says_four_things_and_nothing_of_the_person() -> None:
    image = Image.open(io.BytesIO(mark_picture(picture_of(), reference=ITEM)))
    said = {
        node.tag.split("}")[1]
        for node in ElementTree.fromstring(image.info["xmp"]).iter()
        if node.text and node.text.strip()
    }
    assert said == {"identifier", "CreatorTool", "InstanceID", "DigitalSourceType"}
    assert set(image.info) == {"xmp", "XML:com.adobe.xmp"}


def test_two_renders_of_one_item_never_share_an_object() -> None:
    assert mark_picture(picture_of(), reference=ITEM) != mark_picture(picture_of(), reference=ITEM)


def test_the_reference_comes_back_also_when_a_tool_wrote_it_as_an_attribute() -> None:
    marked = mark_picture(picture_of(), reference=ITEM)
    assert read_reference(marked) == ITEM
    element, attribute = f"<dc:identifier>{ITEM}</dc:identifier>".encode(), f' dc:identifier="{ITEM}">'.encode()
    assert read_reference(marked.replace(b'2008-02-29/">', b'2008-02-29/"' + attribute).replace(element, b"")) is None
    # the chunk's length has changed, so write it anew
    start = marked.index(b"iTXt") - 4
    length = int.from_bytes(marked[start : start + 4], "big")
    body = (
        marked[start + 8 : start + 8 + length]
        .replace(element, b"")
        .replace(b'2008-02-29/">', b'2008-02-29/"' + attribute)
    )
    chunk = len(body).to_bytes(4, "big") + b"iTXt" + body + b"\0\0\0\0"
    assert read_reference(marked[:start] + chunk + marked[start + 12 + length :]) == ITEM


@pytest.mark.parametrize("reference", ["", "a b", "<x/>", "../a", 'a"b', "a" * 200])
def test_a_reference_that_is_no_id_is_refused(reference: str) -> None:
    with pytest.raises(BadInput):
        mark_picture(picture_of(), reference=reference)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_pixels_of_another_form_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(BadInput, match=r"uint8 of shape \(h, w, 3\)"):
        mark_picture(pixels, reference=ITEM)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_at_all_have_a_reference_or_none(data: st.DataObject) -> None:
    marked = bytearray(mark_picture(picture_of(), reference=ITEM))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=20)):
        marked[at] = value
    cut = data.draw(st.integers(0, len(marked)))
    for broken in (bytes(marked), bytes(marked[:cut]), data.draw(st.binary(max_size=200))):
        found = read_reference(broken)
        assert found is None or len(found) <= 128


def test_an_entity_bomb_in_a_picture_is_not_opened() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x xmlns:dc="http://purl.org/dc/elements/1.1/">'
    body = b"XML:com.adobe.xmp\0\0\0\0\0" + bomb + b"<dc:identifier>&b;</dc:identifier></x>"
    chunk = len(body).to_bytes(4, "big") + b"iTXt" + body + b"\0\0\0\0"
    assert read_reference(b"\x89PNG\r\n\x1a\n" + chunk) is None
    plain = body.replace(bomb[: bomb.index(b"<x ")], b"").replace(b"&b;", b"abc")
    assert read_reference(b"\x89PNG\r\n\x1a\n" + len(plain).to_bytes(4, "big") + b"iTXt" + plain + b"\0\0\0\0") == "abc"


# receipts


def test_a_receipt_comes_back_as_it_was_signed(shop: Shop) -> None:
    receipt = receipt_for(shop.picture)
    assert verify_receipt(shop.signer.sign(receipt), shop.public_key) == receipt


def test_a_receipt_verifies_with_nothing_but_the_dsse_text_and_a_public_key(shop: Shop, tmp_path: Path) -> None:
    envelope = json.loads(shop.signer.sign(receipt_for(shop.picture)))
    payload, kind = base64.standard_b64decode(envelope["payload"]), envelope["payloadType"]
    pae = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(payload)).encode(), payload])
    key = load_pem_public_key((tmp_path / "keys" / "signing.pub").read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(base64.standard_b64decode(envelope["signatures"][0]["sig"]), pae)
    statement = json.loads(payload)
    assert kind == "application/vnd.in-toto+json"
    assert (statement["_type"], statement["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
    assert statement["subject"][0]["digest"] == {"sha256": hashlib.sha256(shop.picture).hexdigest()}


@many
@given(at=st.integers(0, 100_000), flip=st.integers(1, 255))
def test_any_changed_byte_of_a_receipt_turns_red(shop: Shop, at: int, flip: int) -> None:
    envelope = bytearray(shop.rows[0].receipt)
    envelope[at % len(envelope)] ^= flip
    with pytest.raises(VerificationFailed):
        verify_receipt(bytes(envelope), shop.public_key)


@pytest.mark.parametrize(
    "respell",
    [
        lambda text: text + b"\n",
        lambda text: b" " + text,
        lambda text: text.replace(b":", b": ", 1),
        lambda text: text.replace(b"{", b'{"a":1,', 1),
        lambda text: text.replace(b"payload", b"p\\u0061yload", 1),
        lambda text: text.replace(b"{", b'{"payload":"",', 1),
    ],
)
def test_another_spelling_of_the_same_receipt_turns_red(shop: Shop, respell: Callable[[bytes], bytes]) -> None:
    with pytest.raises(VerificationFailed, match="it was changed"):
        verify_receipt(respell(shop.rows[0].receipt), shop.public_key)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | almost.map(canonical_json))
def test_bytes_that_are_no_receipt_are_refused_and_not_a_crash(data: bytes) -> None:
    with pytest.raises(VerificationFailed):
        verify_receipt(data, KEY)


def test_a_receipt_of_another_key_turns_red(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="another key"):
        verify_receipt(shop.rows[0].receipt, Signer.create(tmp_path / "other").public_key)


def test_a_signed_statement_of_another_form_is_refused(shop: Shop) -> None:
    odd = {"_type": STATEMENT_TYPE, "subject": [], "predicateType": "other", "predicate": {}}
    with pytest.raises(VerificationFailed, match="this version"):
        verify_receipt(shop.signer.sign_statement(odd), shop.public_key)


# keys


def test_a_signer_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    made = Signer.create(tmp_path / "keys")
    assert (tmp_path / "keys" / "signing.pem").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (tmp_path / "keys" / "signing.pub").read_bytes()
    with pytest.raises(BadInput, match="never replaced"):
        Signer.create(tmp_path / "keys")
    assert Signer.open(tmp_path / "keys").public_key == made.public_key
    assert open_public_key(tmp_path / "keys" / "signing.pub") == made.public_key


def test_a_missing_or_damaged_key_is_bad_input_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="face0 init"):
        Signer.open(tmp_path)
    (tmp_path / "signing.pem").write_text("not a key")
    (tmp_path / "signing.pub").write_text("not a key")
    with pytest.raises(BadInput, match="can't be read"):
        Signer.open(tmp_path)
    with pytest.raises(BadInput, match="can't be read"):
        open_public_key(tmp_path / "signing.pub")


# the verifier


def test_an_untouched_picture_is_green(shop: Shop) -> None:
    verified = shop.verify()
    assert verified.sha256 == hashlib.sha256(shop.picture).hexdigest()
    assert verified.receipt == receipt_for(shop.picture)
    assert verified.consent.allowed


@many
@given(at=st.integers(0, 100_000), flip=st.integers(1, 255))
def test_any_changed_byte_of_a_picture_turns_red(shop: Shop, at: int, flip: int) -> None:
    picture = bytearray(shop.picture)
    picture[at % len(picture)] ^= flip
    with pytest.raises(VerificationFailed):
        shop.verify(bytes(picture))


@many
@given(at=st.integers(0, 100_000), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_stored_receipt_turns_red(shop: Shop, at: int, flip: int) -> None:
    envelope = bytearray(shop.rows[0].receipt)
    envelope[at % len(envelope)] ^= flip
    shop.storage.put(receipt_key("c1", ITEM), bytes(envelope), if_absent=False)
    with pytest.raises(VerificationFailed, match="not the one that was committed"):
        shop.verify()


def test_a_picture_changed_in_its_pixels_is_called_changed(shop: Shop) -> None:
    with pytest.raises(VerificationFailed, match="changed: the bytes are not those that were committed"):
        shop.verify(mark_picture(picture_of(1), reference=ITEM))


def test_a_strangers_picture_is_not_ours(shop: Shop) -> None:
    out = io.BytesIO()
    Image.fromarray(picture_of(), "RGB").save(out, "PNG")
    with pytest.raises(VerificationFailed, match="not ours"):
        shop.verify(out.getvalue())
    with pytest.raises(VerificationFailed, match="does not know"):
        shop.verify(mark_picture(picture_of(), reference="6b" * 32))
    with pytest.raises(VerificationFailed, match="not ours"):
        shop.verify(b"")


def test_a_missing_receipt_turns_red(shop: Shop) -> None:
    shop.storage.delete(receipt_key("c1", ITEM))
    with pytest.raises(VerificationFailed, match="missing"):
        shop.verify()


def test_a_ledger_and_storage_signed_by_somebody_else_turn_red(shop: Shop, tmp_path: Path) -> None:
    shop.signer = Signer.create(tmp_path / "forger")
    shop.commit(receipt_for(shop.picture))
    with pytest.raises(VerificationFailed, match="another key"):
        shop.verify()


@pytest.mark.parametrize("change", [{"picture_sha256": "0" * 64}, {"item_key": "6b" * 32}, {"consent_id": "c2"}])
def test_a_genuine_receipt_about_something_else_turns_red(shop: Shop, change: dict[str, str]) -> None:
    shop.commit(replace(receipt_for(shop.picture), **change))  # type: ignore[arg-type]
    with pytest.raises(VerificationFailed, match="about another"):
        shop.verify()


def test_a_revoked_or_expired_consent_turns_red(shop: Shop) -> None:
    for change, code in (
        ({"state": ConsentState.REVOKED}, "revoked"),
        ({"valid_until": NOW}, "expired"),
        ({"purposes": frozenset({Purpose.AD})}, "wrong_purpose"),
    ):
        granted = shop.consent
        shop.consent = replace(granted, **change)
        with pytest.raises(ConsentRefused) as refused:
            shop.verify()
        assert (refused.value.code, refused.value.exit_code) == (code, 3)
        shop.consent = granted


def test_a_purged_picture_turns_red_also_after_it_was_changed(shop: Shop) -> None:
    shop.rows = [replace(shop.rows[0], purged=True)]
    for copy in (shop.picture, mark_picture(picture_of(1), reference=ITEM)):
        with pytest.raises(ConsentRefused, match="delete this copy") as refused:
            shop.verify(copy)
        assert refused.value.code == "purged"
