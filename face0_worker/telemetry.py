"""Logs: one list of event names, one line per event, and nothing of a person in any of them (promise P7)."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any, TextIO

import structlog


class Event(StrEnum):
    """Every event that is ever logged. One word for one concept: the first part is the room."""

    SUPERVISOR_STARTED = "supervisor.started"
    SUPERVISOR_STOPPING = "supervisor.stopping"
    SUPERVISOR_STOPPED = "supervisor.stopped"
    LEDGER_UPGRADED = "ledger.upgraded"
    STORAGE_WEAK = "storage.weak"
    LICENCE_RESEARCH = "licence.research"
    SERVICE_DOWN = "service.down"
    SERVICE_STILL_DOWN = "service.still_down"
    SERVICE_BACK = "service.back"
    CHILD_STARTED = "child.started"
    CHILD_READY = "child.ready"
    CHILD_FAILED = "child.failed"
    CHILD_STOPPING = "child.stopping"
    CHILD_HUNG = "child.hung"
    CHILD_DIED = "child.died"
    BATCH_SENT = "batch.sent"
    BATCH_RESENT = "batch.resent"
    BATCH_RENDERED = "batch.rendered"
    BATCH_RELEASED = "batch.released"
    BATCH_HANDED_BACK = "batch.handed_back"
    BATCH_LIMITED = "batch.limited"
    BATCH_ABORTED = "batch.aborted"
    BATCH_AGAIN = "batch.again"
    LEASE_LOST = "lease.lost"
    MESSAGE_REFUSED = "message.refused"
    EMBEDDED_LEFT = "embedded.left"
    MANIFEST_WRITTEN = "manifest.written"
    MANIFEST_FAILED = "manifest.failed"
    ERRAND_FAILED = "errand.failed"
    WEBHOOK_DELIVERED = "webhook.delivered"
    WEBHOOK_FAILED = "webhook.failed"
    WEBHOOK_GIVEN_UP = "webhook.given_up"
    ERASURE_STEP = "erasure.step"
    ERASURE_REPLAYED = "erasure.replayed"
    ERASURE_FAILED = "erasure.failed"
    AUDIT_FORKED = "audit.forked"


# a worker's broker connection is told by our own events: theirs are one line per second of an outage
_SILENT = ("celery.worker.consumer", "celery.bootsteps", "kombu")
WITHHELD = "<withheld>"
_PERSONAL = frozenset(
    {"subject", "name", "person", "photo", "image", "picture", "pixels", "embedding", "face", "prompt", "email", "args"}
)
_PLAIN = (str, int, float, bool, type(None))
_LONGEST = 500  # characters; a sentence, not a payload


def configure(*, stream: TextIO | None = None, json: bool | None = None, level: int = logging.INFO) -> None:
    """Send every log event to `stream` (stderr), as JSON lines or, on a terminal, readable; call it once per process.

    The standard library's own loggers (celery, kombu, ...) speak at warning and above, in the same form.
    """
    out = stream or sys.stderr
    as_json = not out.isatty() if json is None else json
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    render: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            stamp,
            withhold,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    foreign: list[structlog.types.Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, stamp]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=foreign,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_traceback, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def log(event: Event, *, level: int = logging.INFO, **facts: object) -> None:
    """Log one event of the list with its facts: ids, digests, counts, states and seconds; never a person's own data."""
    structlog.get_logger().log(level, str(event), **facts)


def withhold(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what could be personal data, by its name or by its kind (bytes, arrays, objects, long text)."""
    for key, value in event.items():
        event[key] = WITHHELD if key.lower() in _PERSONAL else _plain(value)
    return event


def _plain(value: object) -> object:
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): WITHHELD if str(key).lower() in _PERSONAL else _plain(part) for key, part in value.items()}
    if not isinstance(value, _PLAIN):
        return WITHHELD
    return WITHHELD if isinstance(value, str) and len(value) > _LONGEST else value


def _without_traceback(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A traceback quotes arguments, which may be a person's data: keep the exception's type."""
    raised = event.pop("exc_info", None)
    if isinstance(raised, tuple) and raised[0] is not None:
        event["error"] = raised[0].__name__
    return withhold(logger, method, event)
