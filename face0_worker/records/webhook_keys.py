"""The key that seals the secrets of webhooks, so that a stolen ledger signs nothing."""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from face0_worker.contract.errors import BadInput, StorageDown
from face0_worker.records.vault import write_secret

_KEY_FILE, _NONCE = "webhooks.key", 12


class Keys:
    """Seals secrets with the key `webhooks.key` of the keys folder (AES-256-GCM, random 96-bit nonces)."""

    def __init__(self, key: bytes) -> None:
        self._key = AESGCM(key)

    @classmethod
    def open(cls, folder: Path, *, create: bool = False) -> Keys:
        """Read `webhooks.key`; `create` makes it. Raises: BadInput: there is none, or it is damaged. StorageDown."""
        path = folder / _KEY_FILE
        try:
            if create:
                write_secret(path, AESGCM.generate_key(256))
            key = path.read_bytes()
        except FileNotFoundError as error:
            raise BadInput(f"there is no key {path}; copy it from the machine where the webhook was added") from error
        except OSError as error:
            raise StorageDown(f"the key {path} can't be read or written: {error.strerror}") from error
        if len(key) != 32:
            raise BadInput(f"key {path} is damaged; restore it from your backup")
        return cls(key)

    def seal(self, webhook_id: str, secret: bytes) -> bytes:
        """Return a secret that only this key opens, and only for this webhook."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._key.encrypt(nonce, secret, webhook_id.encode())

    def unseal(self, webhook_id: str, sealed: bytes) -> bytes:
        """Return the secret. Raises: BadInput: it was sealed with another key, or changed."""
        try:
            return self._key.decrypt(sealed[:_NONCE], sealed[_NONCE:], webhook_id.encode())
        except InvalidTag as error:
            raise BadInput(
                f"the secret of webhook {webhook_id} does not open with this machine's {_KEY_FILE}; "
                "copy the key from the machine where it was added, or add it again"
            ) from error
