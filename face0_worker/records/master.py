"""The vault's master key, behind one small interface: a file, the environment, or what a key service could be."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from face0_worker.contract.errors import BadInput
from face0_worker.records.disk import sync, write_secret

KEY = 32  # bytes
NONCE = 12  # bytes


class MasterKey(Protocol):
    """Wraps data keys; what it wraps is bound to `binding` and opens for nothing else."""

    def wrap(self, key: bytes, binding: bytes) -> bytes:
        """Return the data key wrapped."""
        ...

    def unwrap(self, wrapped: bytes, binding: bytes) -> bytes:
        """Return the data key. Raises: InvalidTag: changed, or wrapped by another master key."""
        ...


class LocalMaster:
    """A master key in this process's memory, from the environment for instance."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def from_text(cls, text: str) -> LocalMaster:
        """Read 32 bytes in base64. Raises: BadInput: another form (the text itself is not repeated)."""
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY:
            raise BadInput("FACE0_VAULT_MASTER is 32 random bytes in base64; `openssl rand -base64 32` makes one")
        return cls(key)

    def wrap(self, key: bytes, binding: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, key, binding)

    def unwrap(self, wrapped: bytes, binding: bytes) -> bytes:
        try:
            return self._cipher.decrypt(wrapped[:NONCE], wrapped[NONCE:], binding)
        except ValueError as error:  # too short for a nonce
            raise InvalidTag from error


class FileMaster:
    """A master key in `master.key`, mode 0600. While it is being replaced, the new one is in `master.next`."""

    def __init__(self, folder: Path) -> None:
        """Read the key. Raises: BadInput: it is damaged or open to everybody. OSError."""
        self._folder = folder
        self._keys = self._read()

    @classmethod
    def create(cls, folder: Path) -> FileMaster:
        """Make a new key. Raises: BadInput: there is one already; only `rotate` replaces it. OSError."""
        if not write_secret(folder / "master.key", secrets.token_bytes(KEY)):
            raise BadInput(f"vault {folder} exists already; its master key is replaced by `face0 vault rotate` only")
        return cls(folder)

    def _read(self) -> list[LocalMaster]:
        """Return the keys in force, the one to wrap with first."""
        keys = []
        for path in (self._folder / "master.next", self._folder / "master.key"):
            if not path.is_file():
                continue
            if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
                raise BadInput(f"{path} is open to every user of this machine; close it with `chmod 600`")
            key = path.read_bytes()
            if len(key) != KEY:
                raise BadInput(f"{path} is damaged: a master key has {KEY} bytes; restore it from your backup")
            keys.append(LocalMaster(key))
        return keys

    def wrap(self, key: bytes, binding: bytes) -> bytes:
        self._keys = self._read()  # somebody may be replacing it
        return self._keys[0].wrap(key, binding)

    def unwrap(self, wrapped: bytes, binding: bytes) -> bytes:
        try:
            return self._try(wrapped, binding)
        except InvalidTag:
            self._keys = self._read()  # replaced since it was read
            return self._try(wrapped, binding)

    def _try(self, wrapped: bytes, binding: bytes) -> bytes:
        for key in self._keys:
            try:
                return key.unwrap(wrapped, binding)
            except InvalidTag:
                continue
        raise InvalidTag

    def begin_rotation(self) -> None:
        """Make the next key, unless a rotation that was killed has made it; new wraps use it from now on. OSError."""
        write_secret(self._folder / "master.next", secrets.token_bytes(KEY))

    def end_rotation(self) -> None:
        """Let the next key be the only one; call it when everything is wrapped anew. OSError."""
        os.replace(self._folder / "master.next", self._folder / "master.key")
        sync(self._folder)
