"""One data key per consent, wrapped by the vault's master key; destroying the data key is the erasure.

Everything is AES-256-GCM with random 96-bit nonces (NIST SP 800-38D). Data keys are never cached, so a key
destroyed by one process is gone for every other. The wrapped keys lie in a folder of their own: leave it out of
backups, or a restored backup brings erased people back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from face0_worker.contract.errors import BadInput, Refused, StorageDown, VerificationFailed
from face0_worker.records.disk import sync
from face0_worker.records.disk import write_secret as write_secret
from face0_worker.records.master import KEY, NONCE, FileMaster, LocalMaster, MasterKey
from face0_worker.records.storage import check_id

_MAGIC = b"F0V1"
_WRAPPED = NONCE + KEY + 16  # bytes: nonce, key, tag
_FACE_ONLY = b"face"  # in the stone of a key that was destroyed while the pictures may stay
_FACE = struct.Struct("<I")  # how many numbers the embedding has


class Vault:
    """Seals bytes under a consent's own key. Every method may raise StorageDown when the disk fails."""

    def __init__(self, folder: Path, master: MasterKey) -> None:
        self._wrapped = folder / "wrapped"
        self._master = master

    @classmethod
    def create(cls, folder: Path, master: str = "") -> Vault:
        """Make a vault. `master`: its key from the environment; "": a new one is made and lies in the folder.

        Raises: BadInput: there is one already; a master key is replaced by `rotate` only.
        """
        with _disk("the vault can't be made"):
            for made in (folder, folder / "wrapped"):
                made.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not master:
                FileMaster.create(folder)
        return cls.open(folder, master)

    @classmethod
    def open(cls, folder: Path, master: str = "") -> Vault:
        """Open a vault. Raises: BadInput: there is none, or its master key is damaged or open to everybody."""
        with _disk("the vault can't be opened"):
            if not cls.exists(folder, master):
                raise BadInput(f"{folder} is no vault; `face0 init` makes one")
            return cls(folder, LocalMaster.from_text(master) if master else FileMaster(folder))

    @staticmethod
    def exists(folder: Path, master: str = "") -> bool:
        """Say whether a vault was made there."""
        return (folder / "wrapped").is_dir() and bool(master or (folder / "master.key").is_file())

    def new_key(self, consent_id: str) -> None:
        """Make the consent's data key, unless it has one.

        Raises: Refused: the key was destroyed; a consent that was withdrawn never gets another.
        """
        path = self._path(consent_id)
        with _disk("a data key can't be written"):
            try:
                write_secret(path, self._master.wrap(secrets.token_bytes(KEY), _binding("wrap", consent_id)))
            except FileNotFoundError:
                self._refuse_destroyed(consent_id)  # whoever destroys it has taken the half-written key along
                raise
            try:
                # only now: asked before, the key could be destroyed in between and this one would survive
                self._refuse_destroyed(consent_id)
            except Refused:
                _unlink(path)
                raise

    def destroy(self, consent_id: str, *, everything: bool = True) -> None:
        """Destroy the consent's data key for good; what was sealed under it is noise. Repeating it is harmless.

        `everything`: as part of an erasure of all that there is of the person; else of the face alone.
        """
        path, stone = self._path(consent_id), self._stone(consent_id)
        with _disk("a data key can't be destroyed"):
            # the stone first: from here on nothing is sealed, opened or made for this consent
            if not write_secret(stone, b"" if everything else _FACE_ONLY) and everything and stone.stat().st_size:
                os.truncate(stone, 0)
                sync(stone)
            # with what a killed writer left half written
            for found in (path, *path.parent.glob(f"{path.name}.*")):
                # best effort on disks that keep old blocks; whoever finds one still needs the master key
                with contextlib.suppress(FileNotFoundError), found.open("r+b") as file:
                    file.write(secrets.token_bytes(_WRAPPED))
                    file.flush()
                    os.fsync(file.fileno())
                _unlink(found)

    def has_key(self, consent_id: str) -> bool:
        """Say whether a data key of the consent lies in the vault's folder, destroyed or not."""
        with _disk("the vault can't be read"):
            path = self._path(consent_id)
            return path.exists() or any(path.parent.glob(f"{path.name}.*"))

    def is_destroyed(self, consent_id: str) -> bool:
        """Say whether the consent's data key was destroyed."""
        with _disk("the vault can't be read"):
            return self._stone(consent_id).exists()

    def erased(self) -> set[str]:
        """Return the consents of which everything was to be erased: the vault's own tombstones."""
        with _disk("the vault can't be read"):
            return {path.stem for path in self._wrapped.glob("*.destroyed") if not path.stat().st_size}

    def rotate(self) -> int:
        """Replace the master key by a new one and wrap every data key anew; return how many. Other processes go on.

        Killed in the middle, it is finished by the next call. Raises: BadInput: the master key is not in a file.
        """
        if not isinstance(self._master, FileMaster):
            raise BadInput(
                "the master key comes from FACE0_VAULT_MASTER and is not kept here; only one in a file is rotated"
            )
        with _disk("the master key can't be replaced"):
            self._master.begin_rotation()
            # twice: a process that wrapped a new key with the old master had read it before the first round
            rewrapped = {path.stem for _ in range(2) for path in self._wrapped.glob("*.key") if self._rewrap(path)}
            self._master.end_rotation()
        return len(rewrapped)

    def _rewrap(self, path: Path) -> bool:
        consent_id, binding = path.stem, _binding("wrap", path.stem)
        try:
            fresh = self._master.wrap(self._data_key(consent_id), binding)
        except Refused:  # destroyed meanwhile
            return False
        staged = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            write_secret(staged, fresh)
            os.replace(staged, path)
            sync(path.parent)
        except FileNotFoundError:  # as in new_key
            if not self.is_destroyed(consent_id):
                raise
        if self.is_destroyed(consent_id):
            _unlink(path)
        return True

    def seal(self, consent_id: str, plain: bytes, *, about: str) -> bytes:
        """Return `plain` encrypted under the consent's key, bound to the consent and to what it is `about`.

        Raises: Refused: the consent has no key (any more). VerificationFailed: its wrapped key was changed.
        """
        nonce = secrets.token_bytes(NONCE)
        sealed = AESGCM(self._data_key(consent_id)).encrypt(nonce, plain, _binding("seal", consent_id, about))
        return _MAGIC + nonce + sealed

    def unseal(self, consent_id: str, blob: bytes, *, about: str) -> bytes:
        """Return what was sealed for this consent under the same `about`.

        Raises: Refused: the consent has no key (any more). VerificationFailed: changed, or sealed as something else.
        """
        key = AESGCM(self._data_key(consent_id))
        start = len(_MAGIC) + NONCE
        try:
            if not blob.startswith(_MAGIC) or len(blob) < start + 16:
                raise InvalidTag
            return key.decrypt(blob[len(_MAGIC) : start], blob[start:], _binding("seal", consent_id, about))
        except InvalidTag as error:
            raise VerificationFailed(
                f"sealed bytes of consent {consent_id} don't open: they were changed or belong to something else"
            ) from error

    def _data_key(self, consent_id: str) -> bytes:
        path = self._path(consent_id)
        with _disk("a data key can't be read"):
            self._refuse_destroyed(consent_id)
            try:
                wrapped = path.read_bytes()
            except FileNotFoundError as error:
                raise Refused(
                    f"consent {consent_id} has no data key in this vault: key destroyed or never made"
                ) from error
        try:
            return self._master.unwrap(wrapped, _binding("wrap", consent_id))
        except InvalidTag as error:
            raise VerificationFailed(
                f"the data key of consent {consent_id} doesn't open: changed, or wrapped by another master key"
            ) from error

    def _refuse_destroyed(self, consent_id: str) -> None:
        if self._stone(consent_id).exists():
            raise Refused(f"consent {consent_id}: key destroyed; nothing of this person can be read or made any more")

    def _path(self, consent_id: str) -> Path:
        return self._wrapped / f"{check_id(consent_id)}.key"

    def _stone(self, consent_id: str) -> Path:
        return self._wrapped / f"{check_id(consent_id)}.destroyed"


def face_digest(embedding: np.ndarray) -> str:
    """Return the sha256 hex over the embedding's little-endian float32 bytes: the name of a face in keys."""
    return hashlib.sha256(_numbers(embedding).tobytes()).hexdigest()


def seal_face(vault: Vault, consent_id: str, photo: bytes, embedding: np.ndarray) -> tuple[str, bytes]:
    """Return (face digest, sealed photo and embedding). `embedding`: float32 (d,).

    Raises: BadInput: the embedding is no finite vector. Refused, VerificationFailed: as Vault.seal.
    """
    numbers = _numbers(embedding)
    plain = _FACE.pack(numbers.size) + numbers.tobytes() + photo
    return face_digest(numbers), vault.seal(consent_id, plain, about="face")


def unseal_face(vault: Vault, consent_id: str, blob: bytes, *, digest: str | None = None) -> tuple[bytes, np.ndarray]:
    """Return (photo, embedding float32 (d,)) of a sealed face; with `digest`, only that very face.

    Raises: Refused: the key was destroyed. VerificationFailed: changed, or another face than `digest`.
    """
    plain = vault.unseal(consent_id, blob, about="face")
    start = _FACE.size + 4 * _FACE.unpack_from(plain)[0]
    embedding = np.frombuffer(plain[_FACE.size : start], dtype="<f4").astype(np.float32)
    if digest is not None and face_digest(embedding) != digest:
        raise VerificationFailed(f"the sealed face of consent {consent_id} is not the one that was asked for")
    return plain[start:], embedding


def _numbers(embedding: np.ndarray) -> np.ndarray:
    if embedding.ndim != 1 or embedding.size == 0 or not np.isfinite(embedding).all():
        raise BadInput("a face embedding is a vector of finite numbers; this one is not")
    return np.ascontiguousarray(embedding, dtype="<f4")


def _binding(*parts: str) -> bytes:
    """Return associated data that no other parts give: each part carries its length."""
    encoded = [part.encode() for part in ("face0", *parts)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def _disk(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageDown(f"{what}: {os.strerror(error.errno or 0)}; mend the vault's folder and try again") from error
