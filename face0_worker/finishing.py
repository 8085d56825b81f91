"""Bring to the store what the ledger has and the store has not: receipts of committed pictures, manifests of jobs that
have ended. An errand: a store that does not answer keeps no batch waiting and hides no hung child."""

from __future__ import annotations

import logging

from face0_worker.contract.errors import ServiceDown
from face0_worker.records import commits, jobs
from face0_worker.records.ledger import Ledger
from face0_worker.records.manifest import write_manifest
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import Storage
from face0_worker.records.sweep import sweep_job
from face0_worker.telemetry import Event, log


class Finisher:
    """Finishes what ended, from the ledger alone: safe to be cut off at any moment, and by several at once."""

    def __init__(self, ledger: Ledger, storage: Storage, signer: Signer) -> None:
        self._ledger, self._storage, self._signer = ledger, storage, signer

    def round(self) -> int:
        """Store the receipts and manifests that are due; return how many.

        A job whose manifest can't be written is named in the log and keeps no other from being finished.
        Raises: LedgerDown, StorageDown. Whatever else a manifest met, after the others were written.
        """
        return self._publish() + self._finish()

    def _publish(self) -> int:
        pending = commits.pending_receipts(self._ledger)
        for item_key, receipt_key, receipt in pending:
            # the ledger has the bytes that were signed: whatever else stands under the key is replaced
            self._storage.put(receipt_key, receipt, if_absent=False)
            commits.mark_published(self._ledger, item_key)
        return len(pending)

    def _finish(self) -> int:
        done, failed = 0, []
        for job_id, reopened in jobs.finish_jobs(self._ledger).items():
            try:
                swept = sweep_job(self._ledger, self._storage, job_id)
                key = write_manifest(self._ledger, self._storage, self._signer, job_id)
            except ServiceDown:
                raise
            except Exception as error:  # noqa: BLE001 - one job's fault is not the next one's
                log(Event.MANIFEST_FAILED, level=logging.ERROR, job=job_id, error=type(error).__name__)
                failed.append(error)
                continue
            log(Event.MANIFEST_WRITTEN, job=job_id, swept=swept)
            done += jobs.mark_finished(self._ledger, job_id, key, reopened)
        if failed:
            raise failed[0]
        return done
