"""Manifests: which picture each line of a list became, in shards of JSON lines, under one signed root."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from face0_worker.contract.errors import VerificationFailed
from face0_worker.contract.job import canonical_json
from face0_worker.contract.receipt import STATEMENT_TYPE, ManifestEntry
from face0_worker.records.ledger import Ledger
from face0_worker.records.progress import job_items, job_status
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage, StorageMissing, manifest_prefix

PREDICATE_TYPE = "https://face0.dev/manifest/v1"
SHARD_LINES = 10_000


def write_manifest(ledger: Ledger, storage: Storage, signer: Signer, job_id: str) -> str:
    """Write the shards (JSONL) and then the signed root of a job that has ended; return the root's key.

    The shards carry their hash in their names, so a manifest written again after a change never mixes with the
    one before, and the root, written last, names a whole one.
    """
    prefix = manifest_prefix(job_id)
    shards = write_shards(storage, prefix, (entry.to_json() for entry in _entries(ledger, job_id)))
    status = job_status(ledger, job_id)
    counts = {str(state): number for state, number in status.counts.items() if number}
    predicate = {"job_id": job_id, "catalogue": status.catalogue, "total": status.total, "counts": counts}
    statement = {"_type": STATEMENT_TYPE, "subject": shards, "predicateType": PREDICATE_TYPE, "predicate": predicate}
    storage.put(prefix + "root.json", signer.sign_statement(statement), if_absent=False)
    return prefix + "root.json"


def write_shards(storage: Storage, prefix: str, lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Write lines in shards of 10,000 under `prefix`; return the shards as the subjects of an in-toto statement."""
    shards: list[dict[str, Any]] = []
    all_lines = iter(lines)
    while some := [canonical_json(dict(line)) + b"\n" for line in islice(all_lines, SHARD_LINES)]:
        data = b"".join(some)
        digest = hashlib.sha256(data).hexdigest()
        name = f"{len(shards):06d}-{digest[:16]}.jsonl"
        # its name says what it holds: whatever else stands there was damaged
        storage.put(prefix + name, data, if_absent=False)
        shards.append({"name": name, "digest": {"sha256": digest}})
    return shards


def read_shards(storage: Storage, prefix: str, shards: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the lines of shards written by `write_shards`; one shard is in memory at a time.

    Raises: VerificationFailed: a shard is missing, or is not the one that the root names.
    """
    for shard in shards:
        try:
            data = storage.get(prefix + shard["name"])
        except StorageMissing as error:
            raise VerificationFailed(f"the manifest's part {prefix}{shard['name']} is missing from storage") from error
        if hashlib.sha256(data).hexdigest() != shard["digest"]["sha256"]:
            raise VerificationFailed(f"the manifest's part {prefix}{shard['name']} is not as it was signed")
        for line in data.splitlines():
            yield json.loads(line)


def _entries(ledger: Ledger, job_id: str) -> Iterator[ManifestEntry]:
    for row in job_items(ledger, job_id):
        yield ManifestEntry(
            row.sku, row.variant, row.item_key, row.state, row.kept, row.picture_key, row.picture_sha256
        )
