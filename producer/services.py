"""What a command works with: ledger, storage, vault, keys and face pack of one installation, opened when first used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from face0_worker.contract.licence import Licence, require_licences
from face0_worker.embedded import ledger_url
from face0_worker.records import schema
from face0_worker.records.ledger import Ledger, open_ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage, open_storage
from face0_worker.records.vault import Vault
from face0_worker.settings import Settings

if TYPE_CHECKING:
    from face0_worker.faces.embed import Embedder
    from face0_worker.faces.packs import FacePack


def keys_folder(settings: Settings) -> Path:
    """Return where the signing key and its public half lie."""
    return settings.keys_dir


def vault_folder(settings: Settings) -> Path:
    """Return where the vault's keys lie."""
    return settings.vault_dir


class Services:
    """Opened parts of one installation. Use it in a `with`; each part is opened on first use and may raise then."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger. Raises: LedgerDown: it does not answer, or its schema is not one that this program works with."""
        ledger = open_ledger(ledger_url(self.settings))
        try:
            schema.check(ledger.engine)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @cached_property
    def storage(self) -> Storage:
        """The object store. Raises: StorageDown, BadInput."""
        return open_storage(self.settings.storage_url, self.settings.s3_options)

    @cached_property
    def vault(self) -> Vault:
        """The vault. Raises: BadInput: `face0 init` was not run."""
        return Vault.open(vault_folder(self.settings), self.settings.vault_secret)

    @cached_property
    def signer(self) -> Signer:
        """The installation's signing key. Raises: BadInput: `face0 init` was not run."""
        return Signer.open(keys_folder(self.settings))

    @cached_property
    def pack(self) -> FacePack:
        """The face pack. Raises: ModelMissing. Refused: the licence profile does not allow it; research warns."""
        from face0_worker.faces.packs import load_pack

        pack = load_pack(self.settings.pack)
        self.require_licences(pack.licences)
        return pack

    def require_licences(self, licences: Sequence[Licence]) -> None:
        """Say on stderr which licence forbids commercial use. Raises: Refused: the licence profile is commercial."""
        for sentence in require_licences(self.settings.licence_profile, licences):
            print(f"warning: {sentence}", file=sys.stderr)

    @cached_property
    def embedder(self) -> Embedder:
        """The loaded face pack. Raises: ModelMissing."""
        from face0_worker.faces.embed import Embedder

        return Embedder.open(self.pack)

    def __enter__(self) -> Services:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "ledger" in self.__dict__:
            self.ledger.close()
