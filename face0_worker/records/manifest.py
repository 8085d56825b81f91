"""A job's manifest: which picture each line of its list became, in shards, under one signed root."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from face0_worker.contract.job import canonical_json
from face0_worker.contract.receipt import STATEMENT_TYPE, ManifestEntry
from face0_worker.records.ledger import Ledger
from face0_worker.records.progress import job_items, job_status
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage, manifest_prefix

PREDICATE_TYPE = "https://face0.dev/manifest/v1"
SHARD_LINES = 10_000


def write_manifest(ledger: Ledger, storage: Storage, signer: Signer, job_id: str) -> str:
    """Write the shards (JSONL) and then the signed root of a job that has ended; return the root's key.

    The shards carry their hash in their names, so a manifest written again after a change never mixes with the
    one before, and the root, written last, names a whole one.
    """
    prefix = manifest_prefix(job_id)
    shards: list[dict[str, Any]] = []
    entries = _entries(ledger, job_id)
    while lines := [canonical_json(entry.to_json()) + b"\n" for entry in islice(entries, SHARD_LINES)]:
        data = b"".join(lines)
        digest = hashlib.sha256(data).hexdigest()
        name = f"{len(shards):06d}-{digest[:16]}.jsonl"
        storage.put(prefix + name, data)
        shards.append({"name": name, "digest": {"sha256": digest}})
    status = job_status(ledger, job_id)
    counts = {str(state): number for state, number in status.counts.items() if number}
    predicate = {"job_id": job_id, "catalogue": status.catalogue, "total": status.total, "counts": counts}
    statement = {"_type": STATEMENT_TYPE, "subject": shards, "predicateType": PREDICATE_TYPE, "predicate": predicate}
    storage.put(prefix + "root.json", signer.sign_statement(statement), if_absent=False)
    return prefix + "root.json"


def _entries(ledger: Ledger, job_id: str) -> Iterator[ManifestEntry]:
    for row in job_items(ledger, job_id):
        yield ManifestEntry(
            row.sku, row.variant, row.item_key, row.state, row.kept, row.picture_key, row.picture_sha256
        )
