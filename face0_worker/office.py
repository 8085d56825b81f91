"""What a worker works with: where truth, objects and keys are, and what it signs with."""

from __future__ import annotations

from dataclasses import dataclass, field

from face0_worker.lease import Patience
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage
from face0_worker.records.vault import Vault


@dataclass(frozen=True)
class Office:
    """What a worker needs beside the renderer: where truth, objects, faces' keys and the signature are."""

    ledger: Ledger
    storage: Storage
    vault: Vault
    signer: Signer
    worker_id: str
    lease_s: float
    patience: Patience = field(default_factory=Patience)
