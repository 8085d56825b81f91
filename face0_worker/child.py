"""The render child's own process: load the model, offer it in the ledger, take batches until told to stop.

Started by the supervisor as `python -m face0_worker.child WORKER_ID BEAT_FILE SUPERVISOR_PID`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from celery import Celery

from face0_worker.contract.errors import BadInput, BrokerDown, Face0Error, ServiceDown
from face0_worker.contract.job import read_batch_message
from face0_worker.embedded import broker_url, ledger_url
from face0_worker.lease import Patience
from face0_worker.office import Office
from face0_worker.outages import Outages
from face0_worker.queue.app import RENDER_TASK, make_app, queue_name
from face0_worker.queue.consumer import make_worker, stop_receiving
from face0_worker.records import jobs
from face0_worker.records.ledger import open_ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import open_storage
from face0_worker.records.vault import Vault
from face0_worker.renderer import load_renderer, paces_of
from face0_worker.settings import NO_FILE, Settings, load_settings
from face0_worker.supervisor import BROKEN, CANT_START, last_words
from face0_worker.tasks import HANDS, RenderWorker
from face0_worker.telemetry import Event, configure, log

if TYPE_CHECKING:
    from face0_worker.render.limits import BatchLimits

P = ParamSpec("P")
R = TypeVar("R")
HEARTBEAT_S = 5.0
ORPHAN_POLL_S = 1.0
_PR_SET_PDEATHSIG = 1


def main(worker_id: str, beat_file: Path, parent: int) -> int:
    """Run one render child of the supervisor with pid `parent` until SIGTERM; return its exit code."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides what it means
    configure()
    try:
        settings = load_settings(NO_FILE)
        end_orphan(parent, settings.grace_s)
        return _serve(settings, worker_id, beat_file)
    except Face0Error as error:
        log(Event.CHILD_FAILED, level=logging.ERROR, worker=worker_id, reason=str(error))
        if error.retryable:
            return error.exit_code
        last_words(beat_file).write_text(f"{error.exit_code} {error}", encoding="utf-8")
        return CANT_START
    except Exception as error:  # noqa: BLE001 - a traceback quotes arguments, which may be a person's data
        log(Event.CHILD_FAILED, level=logging.ERROR, worker=worker_id, **_kind(error))
        return BROKEN


def log_limits(limits: BatchLimits, worker_id: str) -> None:
    """Write into the log how much of a batch turned out to fit on this worker's device."""
    limits.on_learned = lambda width, height, rows: log(
        Event.BATCH_LIMITED, worker=worker_id, width=width, height=height, rows=rows
    )


def _serve(settings: Settings, worker_id: str, beat_file: Path) -> int:
    render = load_renderer(settings)
    pipeline = render.pipeline
    log_limits(pipeline.limits, worker_id)
    beating = Heartbeat(beat_file)
    patience = Patience(beat=beating.beat)
    ledger = patience.insist(lambda: open_ledger(ledger_url(settings)))
    office = Office(
        ledger=ledger,
        storage=patience.insist(lambda: open_storage(settings.storage_url, settings.s3_options)),
        vault=Vault.open(settings.vault_dir, settings.vault_secret),
        signer=Signer.open(settings.keys_dir),
        worker_id=worker_id,
        lease_s=settings.lease_s,
        patience=patience,
    )
    digest = pipeline.digest
    facts = {**pipeline.facts(), "paces": [pace.to_json() for pace in paces_of(settings, pipeline)]}
    offer = partial(jobs.offer_model, ledger, worker_id, digest, str(facts["name"]), facts)
    patience.insist(offer)
    beating.start(offer, patience.outages)
    log(Event.CHILD_READY, worker=worker_id, model=digest[:12], device=str(pipeline.device))
    app = make_app(patience.insist(lambda: broker_url(settings)))
    return _receive(app, queue_name(digest), RenderWorker(office, beating.around(render)), beating, office)


def _receive(app: Celery, queue: str, worker: RenderWorker, beating: Heartbeat, office: Office) -> int:
    """Take batches until SIGTERM, finish what was claimed, and return the exit code."""

    @app.task(name=RENDER_TASK)  # type: ignore[untyped-decorator]
    def render_batch_task(message: dict[str, Any]) -> None:
        try:
            attempt_id = read_batch_message(message)
        except BadInput as error:
            log(Event.MESSAGE_REFUSED, level=logging.WARNING, reason=str(error))
            return
        try:
            worker.run(attempt_id)
        except Exception as error:  # noqa: BLE001 - whatever it was: a broken device stays broken in this process
            log(Event.CHILD_FAILED, level=logging.ERROR, worker=office.worker_id, attempt=attempt_id, **_kind(error))
            os._exit(BROKEN)

    away = BrokerDown(f"the broker at {app.connection_for_read().as_uri()} does not answer; start it again")
    outages = office.patience.outages
    receiver = make_worker(
        app,
        queue,
        HANDS,
        name=office.worker_id,
        lost=lambda: outages.saw(away),
        found=lambda: outages.answered([away]),
    )

    def stop(*_: object) -> None:
        # nothing in here takes a lock: the thread that was interrupted may hold it, be it in this very handler. The
        # kernel may send SIGTERM for each thread of a supervisor that dies
        beating.stop()
        worker.stop()
        stop_receiving()

    signal.signal(signal.SIGTERM, stop)
    receiver.start()
    worker.close()
    return int(receiver.exitcode or 0)


def _kind(error: Exception) -> dict[str, str]:
    """Return what may be told of an unexpected error: its type, and the last line of ours that it came through."""
    here = Path(__file__).parent
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if here in Path(frame.filename).parents]
    at = f"{Path(ours[-1].filename).relative_to(here)}:{ours[-1].lineno}" if ours else ""
    return {"error": type(error).__name__, "at": at}


class Heartbeat:
    """Touches the beat file on every step, and every few seconds while nothing is being rendered.

    A renderer that hangs therefore goes silent, although this process still runs.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rendering = threading.Event()
        self._stopping = False

    def beat(self) -> None:
        """Give one sign of life."""
        os.utime(self._file)

    def around(self, render: Callable[P, R]) -> Callable[P, R]:
        """Return `render`, marked as rendering while it runs."""

        def watched(*args: P.args, **kwargs: P.kwargs) -> R:
            self.beat()
            self._rendering.set()
            try:
                return render(*args, **kwargs)
            finally:
                self._rendering.clear()
                self.beat()

        return watched

    def start(self, offer: Callable[[], None], outages: Outages) -> None:
        """Beat in the background from now on, and repeat the `offer` of this worker's model at each beat."""

        def loop() -> None:
            pause = threading.Event()
            missed: dict[type[ServiceDown], ServiceDown] = {}
            while not pause.wait(HEARTBEAT_S):
                if not self._rendering.is_set():
                    self.beat()
                if self._stopping:
                    continue
                try:
                    offer()
                except ServiceDown as error:
                    outages.saw(error)
                    missed[type(error)] = error
                else:
                    outages.answered(missed.values())
                    missed.clear()

        self.beat()
        threading.Thread(target=loop, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Offer the model no more; beat on. May be called from a signal handler."""
        # no Event: it takes a lock, and a second signal may interrupt the first one's handler while it holds it
        self._stopping = True


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the supervisor dies, so that no child is left without one (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel knew
        raise SystemExit(1)


def end_orphan(parent: int, grace_s: float) -> None:
    """End this process `grace_s` seconds after its supervisor died, whatever it does: nobody else would.

    A renderer that hangs would keep the device, and the worker that is started next could not load its model.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_POLL_S)
        time.sleep(grace_s)
        os._exit(BROKEN)

    threading.Thread(target=watch, name="orphan", daemon=True).start()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
