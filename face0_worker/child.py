"""The render child's own process: load the model, offer it in the ledger, take batches until told to stop.

Started by the supervisor as `python -m face0_worker.child WORKER_ID BEAT_FILE`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from face0_worker.contract.errors import Face0Error, ModelMissing
from face0_worker.contract.job import RenderItem, read_batch_message
from face0_worker.embedded import broker_url, ledger_url
from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import digest_folder, load_pack
from face0_worker.models import model_folder
from face0_worker.queue.app import RENDER_TASK, make_app, queue_name
from face0_worker.records import jobs
from face0_worker.records.ledger import open_ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import open_storage
from face0_worker.records.vault import Vault
from face0_worker.settings import Settings, load_settings
from face0_worker.tasks import HANDS, Office, RenderWorker
from face0_worker.telemetry import Event, configure, log

P = ParamSpec("P")
R = TypeVar("R")
HEARTBEAT_S = 5.0
_PR_SET_PDEATHSIG = 1


def main(worker_id: str, beat_file: Path) -> int:
    """Run one render child until SIGTERM; return its exit code."""
    _die_with_parent()
    configure()
    try:
        settings = load_settings()
        _serve(settings, worker_id, beat_file)
    except Face0Error as error:
        log(Event.CHILD_FAILED, worker=worker_id, reason=str(error))
        print(f"face0-worker: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _serve(settings: Settings, worker_id: str, beat_file: Path) -> None:
    from face0_worker.render.batch import RenderRequest, render_batch
    from face0_worker.render.pipeline import Pipeline
    from face0_worker.render.quality import gate

    folder = model_folder(settings.model)
    digest = digest_folder(folder)
    pipeline = Pipeline.load(folder, digest=digest, device=settings.device, precision=settings.precision)
    embedder = Embedder.open(load_pack(settings.pack))
    if pipeline.card.embedder_digest != embedder.pack.digest:
        raise ModelMissing(
            f"model {pipeline.card.name} was trained with another face pack than {embedder.pack.name} "
            f"({pipeline.card.embedder_digest[:12]}, not {embedder.pack.digest[:12]}); set FACE0_PACK or FACE0_MODEL"
        )
    ledger = open_ledger(ledger_url(settings))
    judge = gate(embedder)

    def render(asked: Sequence[tuple[RenderItem, np.ndarray]], on_step: Callable[[int, int], None]) -> Sequence[Any]:
        requests = [RenderRequest(item, embedder.normalise(face)) for item, face in asked]
        return render_batch(pipeline, requests, judge=judge, on_step=on_step)

    beating = Heartbeat(beat_file)
    office = Office(
        ledger=ledger,
        storage=open_storage(settings.storage_url, settings.s3_endpoint),
        vault=Vault.open(settings.home_dir / "vault"),
        signer=Signer.open(settings.home_dir / "keys"),
        worker_id=worker_id,
        lease_s=settings.lease_s,
        beat=beating.beat,
    )
    worker = RenderWorker(office, beating.around(render))
    app = make_app(broker_url(settings))

    @app.task(name=RENDER_TASK)  # type: ignore[untyped-decorator]
    def render_batch_task(message: dict[str, Any]) -> None:
        worker.run(read_batch_message(message))

    facts = pipeline.facts()
    jobs.offer_model(ledger, worker_id, digest, str(facts["name"]), facts)
    beating.start(lambda: jobs.offer_model(ledger, worker_id, digest, str(facts["name"]), facts))
    log(Event.CHILD_READY, worker=worker_id, model=digest[:12], device=str(pipeline.device))
    app.Worker(
        pool="threads",
        concurrency=HANDS,
        queues=[queue_name(digest)],
        hostname=f"{worker_id}@%h",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
    ).start()
    worker.close()


class Heartbeat:
    """Touches the beat file on every step, and every few seconds while nothing is being rendered.

    A renderer that hangs therefore goes silent, although this process still runs.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rendering = threading.Event()

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

    def start(self, also: Callable[[], None]) -> None:
        """Beat in the background from now on; `also` is called at each beat (the offer in the ledger)."""

        def loop() -> None:
            pause = threading.Event()
            while not pause.wait(HEARTBEAT_S):
                if not self._rendering.is_set():
                    self.beat()
                try:
                    also()
                except Face0Error as error:
                    log(Event.SERVICE_DOWN, reason=str(error))

        self.beat()
        threading.Thread(target=loop, name="heartbeat", daemon=True).start()


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the supervisor dies, so that no child is left without one (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        raise SystemExit(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2])))
