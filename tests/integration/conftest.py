"""What the tests of the worker share."""

from __future__ import annotations

from pathlib import Path

import pytest

from face0_worker.office import Office
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import open_storage
from face0_worker.records.vault import Vault
from tests.integration.desk import Desk


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    storage = open_storage(str(tmp_path / "storage"))
    office = Office(
        ledger=ledger,
        storage=storage,
        vault=Vault.create(tmp_path / "vault"),
        signer=Signer.create(tmp_path / "keys"),
        worker_id="w1",
        lease_s=60,
    )
    return Desk(ledger, office, storage)
