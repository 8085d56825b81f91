"""`face0-worker run`: the embedded parts where no URL is set, the dispatcher, and the supervisor around the child."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from face0_worker import embedded
from face0_worker.contract.errors import ServiceDown
from face0_worker.queue.app import make_app, queue_length, sender
from face0_worker.queue.dispatch import dispatch, reconcile
from face0_worker.records.ledger import Ledger, open_ledger
from face0_worker.records.manifest import write_manifest
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import open_storage
from face0_worker.records.sweep import sweep_job
from face0_worker.records.tables import create_schema
from face0_worker.settings import Settings
from face0_worker.supervisor import Supervisor, Watch
from face0_worker.telemetry import Event, configure, log

# a child is silent for as long as one denoising step takes; a step as long as this is a hang
HANG_LEASES = 2.0


def serve(settings: Settings) -> None:
    """Run until SIGTERM or Ctrl-C. Raises: Face0Error: a part is missing or does not answer at the start."""
    configure()
    with ExitStack() as stack:
        stack.enter_context(_embedded_parts(settings))
        ledger = open_ledger(embedded.ledger_url(settings))
        stack.callback(ledger.close)
        create_schema(ledger.engine)
        watch = Watch(
            run_dir=embedded.run_folder(settings.home_dir),
            crash_limit=settings.crash_limit,
            hang_s=settings.lease_s * HANG_LEASES,
            poll_s=settings.poll_s,
        )
        os.environ.update(_child_environment(settings))
        supervisor = Supervisor(ledger, watch, dispatcher(settings, ledger))
        signal.signal(signal.SIGTERM, supervisor.stop)
        signal.signal(signal.SIGINT, supervisor.stop)
        log(Event.SUPERVISOR_STARTED, pid=os.getpid())
        supervisor.run()
        log(Event.SUPERVISOR_STOPPED, pid=os.getpid())


def dispatcher(settings: Settings, ledger: Ledger) -> Callable[[], int]:
    """Return one round of the dispatcher: repair from the ledger, then fill the window; how much it did."""
    app = make_app(embedded.broker_url(settings))
    send, length = sender(app), queue_length(app)
    storage = open_storage(settings.storage_url, settings.s3_endpoint)
    signer = Signer.open(settings.home_dir / "keys")

    def finish(job_id: str) -> str:
        swept = sweep_job(ledger, storage, job_id)
        key = write_manifest(ledger, storage, signer, job_id)
        log(Event.MANIFEST_WRITTEN, job=job_id, swept=swept)
        return key

    def round_() -> int:
        repairs = reconcile(
            ledger,
            send=send,
            queue_length=length,
            # the ledger has the bytes that were signed: whatever else stands under the key is replaced
            publish=lambda key, receipt: storage.put(key, receipt, if_absent=False),
            write_manifest=finish,
            crash_limit=settings.crash_limit,
        )
        sent = dispatch(ledger, send, batch_size=settings.batch, window=settings.window, queue_length=length)
        if repairs.released:
            log(Event.BATCH_RELEASED, batches=repairs.released)
        if repairs.resent:
            log(Event.BATCH_RESENT, batches=repairs.resent)
        if sent:
            log(Event.BATCH_SENT, batches=sent)
        if repairs.down:
            raise ServiceDown("; ".join(sorted({str(error) for error in repairs.down})))
        return sent + repairs.published + repairs.finished

    return round_


@contextmanager
def _embedded_parts(settings: Settings) -> Iterator[None]:
    """Start what has no URL and is not running yet; stop what was started here."""
    home = settings.home_dir
    with ExitStack() as stack:
        if not settings.broker_url and embedded.find_broker(home) is None:
            embedded.start_broker(home)
            stack.callback(embedded.stop_broker, home)
        if not settings.ledger_url and embedded.find_ledger(home) is None:
            embedded.start_ledger(home)
            stack.callback(embedded.stop_ledger, home)
        yield


def _child_environment(settings: Settings) -> dict[str, str]:
    """Return the settings as FACE0_* variables, so that the child reads what the command line said."""
    values = settings.model_dump(mode="json")
    return {f"FACE0_{name.upper()}": str(value) for name, value in values.items() if value not in (None, "")}
