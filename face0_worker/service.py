"""`face0-worker run`: the embedded parts where no URL is set, the dispatcher, and the supervisor around the child."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from face0_worker import embedded
from face0_worker.accept import Acceptor
from face0_worker.contract.errors import LedgerDown, ServiceDown
from face0_worker.contract.pace import USUAL_BATCH
from face0_worker.derive import Deriver
from face0_worker.erasing import errands, make_eraser, replay_first, tell
from face0_worker.errands import Errand, running
from face0_worker.finishing import Finisher
from face0_worker.outages import Outages
from face0_worker.queue.app import check_broker, make_app, queue_length, sender
from face0_worker.queue.dispatch import dispatch, reconcile
from face0_worker.records import schema, webhooks
from face0_worker.records.ledger import Ledger, open_ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import open_storage
from face0_worker.records.storage_probe import probe
from face0_worker.records.vault import Vault
from face0_worker.settings import Settings, environment_with
from face0_worker.supervisor import Round, Supervisor, Watch
from face0_worker.telemetry import Event, configure, log
from face0_worker.webhooks import Courier

# a child is silent for as long as one denoising step takes; a step as long as this is a hang
HANG_LEASES = 2.0
# messages to receivers are kept for a month; to look once an hour for older ones is enough
SWEEP_PAUSE_S = 3600.0
# what libraries print past the log: nobody who runs a worker can act on it; who wants it sets it otherwise
QUIET = {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
# no library of the child may look for a model, a newer version or somebody to tell
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "ORT_TELEMETRY_DISABLED": "1",
}


def serve(settings: Settings) -> None:
    """Run until SIGTERM or Ctrl-C; a second one hands the running batch back at once.

    Raises: Face0Error: a part is missing or does not answer at the start; the model can't be loaded; or, while
    stopping, the ledger could not be told.
    """
    configure()
    # before anything is started: a home that was never prepared is said at once
    signer = Signer.open(settings.keys_dir)
    vault = Vault.open(settings.vault_dir, settings.vault_secret)
    with ExitStack() as stack:
        stack.enter_context(embedded.running(settings, left=partial(log, Event.EMBEDDED_LEFT)))
        ledger = open_ledger(embedded.ledger_url(settings))
        stack.callback(ledger.close)
        check_broker(embedded.redis_url(settings))
        prepare_schema(settings, ledger)
        _check_storage(settings)
        watch = Watch(
            run_dir=embedded.run_folder(settings.home_dir),
            environment={
                **QUIET,
                # compiled code outlives the worker
                "TORCHINDUCTOR_CACHE_DIR": str(settings.home_dir / "cache" / "inductor"),
                **environment_with(settings, os.environ),
                **OFFLINE,
            },
            crash_limit=settings.crash_limit,
            hang_s=settings.lease_s * HANG_LEASES,
            poll_s=settings.poll_s,
            grace_s=settings.grace_s,
        )
        storage = open_storage(settings.storage_url, settings.s3_options)
        eraser = replace(make_eraser(settings, ledger, storage, vault, signer), told=tell)
        replay_first(eraser)
        beside = [*_errands(settings, ledger, vault, signer), *errands(eraser, settings.retention_days)]
        stack.enter_context(running(beside))
        supervisor = Supervisor(ledger, watch, Dispatcher(settings, ledger).round, Outages())
        signal.signal(signal.SIGTERM, supervisor.stop)
        signal.signal(signal.SIGINT, supervisor.stop)
        log(Event.SUPERVISOR_STARTED, pid=os.getpid())
        supervisor.run()
        log(Event.SUPERVISOR_STOPPED, pid=os.getpid())


def prepare_schema(settings: Settings, ledger: Ledger) -> None:
    """Bring the home's own ledger up to date; one that others share is theirs to change (`face0 init`). LedgerDown."""
    if settings.ledger_url:
        schema.check(ledger.engine)
        return
    done = schema.upgrade(ledger.engine)
    if done.before != done.after:
        log(Event.LEDGER_UPGRADED, before=done.before, after=done.after)


def _errands(settings: Settings, ledger: Ledger, vault: Vault, signer: Signer) -> list[Errand]:
    """Return what is done beside the dispatcher: it may take seconds, and no batch waits for it."""
    courier = Courier(ledger, settings.keys_dir, settings.webhook_host_names)
    storage = open_storage(settings.storage_url, settings.s3_options)
    finisher = Finisher(ledger, storage, signer)
    deriver, acceptor = Deriver(ledger, storage, signer), Acceptor(ledger, storage, vault, signer)
    return [
        # as quick as the dispatcher: somebody may be waiting for a job's end
        Errand("finishing", finisher.round, pause_s=settings.poll_s),
        Errand("webhooks", courier.round),
        Errand("derivations", deriver.round),
        Errand("reviews", acceptor.round),
        Errand("webhook_sweep", partial(webhooks.forget, ledger), pause_s=SWEEP_PAUSE_S),
    ]


def _check_storage(settings: Settings) -> None:
    """Refuse a store that can't keep the promises. Raises: StorageDown, BadInput."""
    storage = open_storage(settings.storage_url, settings.s3_options)
    can = probe(storage, allow_weak=settings.allow_weak_store)
    if not can.conditional_writes:
        log(Event.STORAGE_WEAK, level=logging.WARNING, storage=str(can))


class Dispatcher:
    """Repairs from the ledger and fills the window, round after round."""

    def __init__(self, settings: Settings, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        app = make_app(embedded.broker_url(settings))
        self._settings, self._ledger, self._clock = settings, ledger, clock
        self._send, self._length = sender(app), queue_length(app)
        self._spare_until = 0.0

    def round(self) -> Round:
        """Do what is to do now. Never raises for a service that is away: it is named in the result."""
        settings = self._settings
        repairs = reconcile(
            self._ledger,
            send=self._send,
            queue_length=self._length,
            crash_limit=settings.crash_limit,
            expire=self._clock() >= self._spare_until,
            spare_s=settings.lease_s,
        )
        sent, down = 0, [*repairs.down]
        if not _ledger_among(down):
            try:
                sent = dispatch(
                    self._ledger,
                    self._send,
                    batch_size=settings.batch or USUAL_BATCH,
                    calibrated=not settings.batch,
                    window=settings.window,
                    queue_length=self._length,
                )
            except ServiceDown as error:
                down.append(error)
        if _ledger_among(down):
            # nobody could renew a lease either: let them all do so before one counts as run out
            self._spare_until = self._clock() + settings.lease_s
        for event, batches in (
            (Event.BATCH_RELEASED, repairs.released),
            (Event.BATCH_RESENT, repairs.resent),
            (Event.BATCH_SENT, sent),
        ):
            if batches:
                log(event, batches=batches)
        return Round(sent, tuple(down))


def _ledger_among(errors: Sequence[ServiceDown]) -> bool:
    return any(isinstance(error, LedgerDown) for error in errors)
