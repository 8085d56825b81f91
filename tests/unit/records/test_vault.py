"""The vault: sealed bytes open only for their consent, only unchanged, and never again once the key is destroyed."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from face0_worker.contract.errors import BadInput, Face0Error, Refused, StorageDown, VerificationFailed
from face0_worker.records.vault import Vault, face_digest, seal_face, unseal_face

SECRET = b"the photo of a person"
keep_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault.create(tmp_path / "vault")
    made.new_key("c1")
    made.new_key("c2")
    return made


def test_what_was_sealed_opens_in_another_process_with_the_same_folder(vault: Vault, tmp_path: Path) -> None:
    blob = vault.seal("c1", SECRET, about="face")
    assert SECRET not in blob
    assert Vault.open(tmp_path / "vault").unseal("c1", blob, about="face") == SECRET


def test_sealing_twice_never_gives_the_same_bytes(vault: Vault) -> None:
    assert vault.seal("c1", SECRET, about="face") != vault.seal("c1", SECRET, about="face")


def test_sealed_bytes_open_only_for_their_consent_and_what_they_are_about(vault: Vault) -> None:
    blob = vault.seal("c1", SECRET, about="face")
    for consent_id, about in (("c2", "face"), ("c1", "Face"), ("c1", "")):
        with pytest.raises(VerificationFailed):
            vault.unseal(consent_id, blob, about=about)


def test_binding_holds_even_if_somebody_gives_two_consents_the_same_key(vault: Vault, tmp_path: Path) -> None:
    blob = vault.seal("c1", SECRET, about="face")
    wrapped = tmp_path / "vault" / "wrapped"
    (wrapped / "c2.key").write_bytes((wrapped / "c1.key").read_bytes())
    with pytest.raises(VerificationFailed, match="data key of consent c2"):
        vault.unseal("c2", blob, about="face")


@keep_fixtures
@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_any_changed_byte_is_noticed(vault: Vault, at: int, flip: int) -> None:
    blob = bytearray(vault.seal("c1", SECRET, about="face"))
    blob[at % len(blob)] ^= flip
    with pytest.raises(VerificationFailed):
        vault.unseal("c1", bytes(blob), about="face")


@keep_fixtures
@given(st.binary(max_size=60))
def test_bytes_that_were_never_sealed_are_refused_and_not_a_crash(vault: Vault, blob: bytes) -> None:
    with pytest.raises(VerificationFailed):
        vault.unseal("c1", blob, about="face")


@keep_fixtures
@given(at=st.integers(0, 59), flip=st.integers(1, 255))
def test_a_changed_wrapped_key_is_noticed(vault: Vault, tmp_path: Path, at: int, flip: int) -> None:
    path = tmp_path / "vault" / "wrapped" / "c1.key"
    good = path.read_bytes()
    path.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
    with pytest.raises(VerificationFailed, match="data key of consent c1"):
        vault.seal("c1", SECRET, about="face")
    path.write_bytes(good)


def test_a_wrapped_key_cut_short_is_noticed(vault: Vault, tmp_path: Path) -> None:
    for length in (0, 5, 12, 59):
        (tmp_path / "vault" / "wrapped" / "c1.key").write_bytes(b"\1" * length)
        with pytest.raises(VerificationFailed):
            vault.seal("c1", SECRET, about="face")


def test_another_master_key_opens_nothing(vault: Vault, tmp_path: Path) -> None:
    Vault.create(tmp_path / "other")
    os.replace(tmp_path / "other" / "master.key", tmp_path / "vault" / "master.key")
    with pytest.raises(VerificationFailed, match="another master key"):
        Vault.open(tmp_path / "vault").seal("c1", SECRET, about="face")


def test_after_the_key_is_destroyed_nothing_can_be_opened_sealed_or_keyed_again(vault: Vault, tmp_path: Path) -> None:
    blob = vault.seal("c1", SECRET, about="face")
    other = Vault.open(tmp_path / "vault")
    other.destroy("c1")
    uses: list[Callable[[], object]] = [
        lambda: vault.unseal("c1", blob, about="face"),
        lambda: vault.seal("c1", SECRET, about="face"),
        lambda: vault.new_key("c1"),
    ]
    for use in uses:
        with pytest.raises(Refused, match="key destroyed"):
            use()
    assert not (tmp_path / "vault" / "wrapped" / "c1.key").exists()
    vault.destroy("c1")
    assert vault.unseal("c2", vault.seal("c2", SECRET, about="face"), about="face") == SECRET


def test_a_wrapped_key_restored_from_a_backup_stays_dead(vault: Vault, tmp_path: Path) -> None:
    path = tmp_path / "vault" / "wrapped" / "c1.key"
    backup, blob = path.read_bytes(), vault.seal("c1", SECRET, about="face")
    vault.destroy("c1")
    path.write_bytes(backup)
    with pytest.raises(Refused, match="key destroyed"):
        vault.unseal("c1", blob, about="face")


def test_a_consent_without_a_key_is_refused(vault: Vault) -> None:
    with pytest.raises(Refused, match="no data key"):
        vault.seal("c3", SECRET, about="face")


def test_a_consent_that_has_a_key_keeps_it(vault: Vault) -> None:
    blob = vault.seal("c1", SECRET, about="face")
    vault.new_key("c1")
    assert vault.unseal("c1", blob, about="face") == SECRET


def test_a_key_made_while_it_is_destroyed_does_not_survive(tmp_path: Path) -> None:
    vault = Vault.create(tmp_path / "vault")
    start = threading.Barrier(2)

    def make(consent_id: str) -> None:
        start.wait()
        try:
            vault.new_key(consent_id)
        except Refused:
            return

    for number in range(20):
        consent_id = f"c{number}"
        maker = threading.Thread(target=make, args=(consent_id,))
        maker.start()
        start.wait()
        vault.destroy(consent_id)
        maker.join()
        assert sorted(path.name for path in (tmp_path / "vault" / "wrapped").glob(f"{consent_id}.*")) == [
            f"{consent_id}.destroyed"
        ]


def test_a_vault_is_made_once_and_closed_to_other_users(tmp_path: Path) -> None:
    Vault.create(tmp_path / "vault").new_key("c1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "vault").rglob("*")}
    assert modes == {"master.key": 0o600, "wrapped": 0o700, "c1.key": 0o600}
    master = (tmp_path / "vault" / "master.key").read_bytes()
    assert len(master) == 32
    with pytest.raises(BadInput, match="exists already"):
        Vault.create(tmp_path / "vault")
    assert (tmp_path / "vault" / "master.key").read_bytes() == master


def test_a_vault_that_is_missing_damaged_or_open_to_everybody_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="face0 init"):
        Vault.open(tmp_path / "vault")
    Vault.create(tmp_path / "vault")
    path = tmp_path / "vault" / "master.key"
    path.chmod(0o604)
    with pytest.raises(BadInput, match="chmod 600"):
        Vault.open(tmp_path / "vault")
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(BadInput, match="damaged"):
        Vault.open(tmp_path / "vault")


def test_a_disk_that_fails_is_storage_down_and_never_a_key_in_the_wrong_place(vault: Vault, tmp_path: Path) -> None:
    wrapped = tmp_path / "vault" / "wrapped"
    wrapped.rename(tmp_path / "vault" / "moved")
    wrapped.write_text("")
    uses: list[Callable[[], object]] = [lambda: vault.new_key("c4"), lambda: vault.destroy("c1")]
    for use in uses:
        with pytest.raises(StorageDown):
            use()
    with pytest.raises(Face0Error):
        vault.seal("c1", SECRET, about="face")


@pytest.mark.parametrize("consent_id", ["../c1", "", "a/b", "c1\n"])
def test_a_hostile_consent_id_reaches_no_file(vault: Vault, consent_id: str) -> None:
    with pytest.raises(BadInput):
        vault.new_key(consent_id)
    with pytest.raises(BadInput):
        vault.destroy(consent_id)


def test_a_face_comes_back_exactly_and_is_named_by_its_embedding(vault: Vault) -> None:
    embedding = np.random.default_rng(1).normal(size=128).astype(np.float32)
    digest, blob = seal_face(vault, "c1", SECRET, embedding)
    photo, back = unseal_face(vault, "c1", blob, digest=digest)
    assert photo == SECRET
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, embedding)
    assert digest == face_digest(embedding) == face_digest(embedding.astype(">f4"))
    assert embedding.tobytes() not in blob


def test_one_face_of_a_person_is_not_taken_for_another(vault: Vault) -> None:
    digest, _ = seal_face(vault, "c1", SECRET, np.ones(8, np.float32))
    _, other = seal_face(vault, "c1", SECRET, np.zeros(8, np.float32))
    with pytest.raises(VerificationFailed, match="not the one"):
        unseal_face(vault, "c1", other, digest=digest)


@pytest.mark.parametrize("embedding", [np.array([1, np.nan]), np.ones((2, 2)), np.array([])])
def test_an_embedding_that_is_no_finite_vector_is_refused(vault: Vault, embedding: np.ndarray) -> None:
    with pytest.raises(BadInput):
        seal_face(vault, "c1", SECRET, embedding)


def test_no_message_of_the_vault_carries_what_was_sealed(vault: Vault) -> None:
    blob = vault.seal("c1", SECRET, about="face")
    vault.destroy("c1")
    with pytest.raises(Refused) as refused:
        vault.unseal("c1", blob, about="face")
    assert "photo" not in str(refused.value)


def test_a_master_key_from_the_environment_is_on_no_disk(tmp_path: Path) -> None:
    secret = base64.b64encode(bytes(range(32))).decode()
    vault = Vault.create(tmp_path / "vault", secret)
    vault.new_key("c1")
    blob = vault.seal("c1", SECRET, about="face")
    assert not (tmp_path / "vault" / "master.key").exists()
    assert Vault.open(tmp_path / "vault", secret).unseal("c1", blob, about="face") == SECRET
    other = base64.b64encode(bytes(32)).decode()
    with pytest.raises(VerificationFailed, match="another master key"):
        Vault.open(tmp_path / "vault", other).unseal("c1", blob, about="face")
    with pytest.raises(BadInput, match="`face0 init` makes one"):
        Vault.open(tmp_path / "vault")
    with pytest.raises(BadInput, match="only one in a file"):
        vault.rotate()


@pytest.mark.parametrize("text", ["short", "!" * 44, base64.b64encode(bytes(31)).decode()])
def test_a_master_key_in_another_form_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match="32 random bytes in base64") as refused:
        Vault.create(tmp_path / "vault", text)
    assert text not in str(refused.value)


def test_a_rotated_master_key_opens_everything_and_the_old_one_nothing(vault: Vault, tmp_path: Path) -> None:
    folder = tmp_path / "vault"
    blob = vault.seal("c1", SECRET, about="face")
    running, old = Vault.open(folder), (folder / "master.key").read_bytes()
    before = {path.name: path.read_bytes() for path in (folder / "wrapped").iterdir()}
    vault.destroy("c2")
    assert vault.rotate() == 1
    for each in (vault, running, Vault.open(folder)):
        assert each.unseal("c1", blob, about="face") == SECRET
    running.new_key("c3")
    assert Vault.open(folder).unseal("c3", running.seal("c3", SECRET, about="x"), about="x") == SECRET
    assert (folder / "wrapped" / "c1.key").read_bytes() != before["c1.key"]
    (folder / "master.key").write_bytes(old)
    with pytest.raises(VerificationFailed, match="another master key"):
        Vault.open(folder).unseal("c1", blob, about="face")


def test_a_rotation_that_was_killed_opens_everything_and_is_finished_by_the_next(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "vault"
    blobs = {one: vault.seal(one, SECRET, about="face") for one in ("c1", "c2")}
    left = [1]
    replace = os.replace

    def die(*names: str) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        replace(*names)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            vault.rotate()
    for again in (False, True):
        opened = Vault.open(folder)
        for one, blob in blobs.items():
            assert opened.unseal(one, blob, about="face") == SECRET
        if not again:
            assert opened.rotate() == 2
    assert not (folder / "master.next").exists()
    assert [path.name for path in (folder / "wrapped").iterdir() if "key." in path.name]
    vault.destroy("c1")
    vault.destroy("c2")
    # a killed writer's half-written key goes with it
    assert {path.name for path in (folder / "wrapped").iterdir()} == {"c1.destroyed", "c2.destroyed"}


def test_a_key_of_the_face_alone_is_no_erasure_of_everything(vault: Vault) -> None:
    vault.destroy("c1", everything=False)
    assert (vault.is_destroyed("c1"), vault.erased(), vault.has_key("c1")) == (True, set(), False)
    vault.destroy("c1")
    vault.destroy("c1", everything=False)
    assert vault.erased() == {"c1"}
