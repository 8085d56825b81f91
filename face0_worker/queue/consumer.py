"""The receiving end: one Celery worker that waits for its broker as long as it takes, and says so in our words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer

# between two tries to reach a broker that is away; Celery's own pauses grow to half a minute
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 3.0


def make_worker(
    app: Celery, queue: str, hands: int, *, name: str, lost: Callable[[], None], found: Callable[[], None]
) -> WorkController:
    """Return a worker that takes the messages of one queue with `hands` threads; `start()` runs it to its end.

    `lost` is called each time the broker did not answer, `found` whenever it is connected. There is no banner, and
    no signal is handled: the caller decides what ends it, see `stop_receiving`.
    """

    class PatientConsumer(Consumer):  # type: ignore[misc]
        def ensure_connected(self, conn: Any) -> Any:
            def missed(error: Exception, pause_s: float) -> None:
                lost()

            connected = conn.ensure_connection(
                missed,
                interval_start=_PAUSE_S,
                interval_step=_PAUSE_S,
                interval_max=_LONGEST_PAUSE_S,
                callback=state.maybe_shutdown,
            )
            found()
            return connected

        def on_connection_error_after_connected(self, exc: Exception) -> None:
            lost()
            super().on_connection_error_after_connected(exc)

        def on_connection_error_before_connected(self, exc: Exception) -> None:
            lost()

    # the bare controller: the one that `celery worker` starts prints a banner and takes the process's signals
    return WorkController(
        app=app,
        pool="threads",
        concurrency=hands,
        queues=[queue],
        hostname=f"{name}@%h",
        consumer_cls=PatientConsumer,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
    )


def stop_receiving() -> None:
    """Let the worker of this process take nothing more; its `start()` returns when what runs has ended.

    May be called from a signal handler.
    """
    state.should_stop = 0
