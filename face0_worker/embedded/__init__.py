"""A real Valkey and a real PostgreSQL inside the home folder, for a machine that has no services of its own.

Both listen on unix sockets that only this user can open. Who starts them stops them, but never while another worker
of the home uses them; a server that outlived its starter is found again and used.
"""

from __future__ import annotations

from face0_worker.contract.errors import BrokerDown, LedgerDown
from face0_worker.embedded.broker import EmbeddedBroker, find_broker, start_broker, stop_broker
from face0_worker.embedded.ledger import EmbeddedLedger, find_ledger, start_ledger, stop_ledger
from face0_worker.embedded.lifetime import run_folder
from face0_worker.embedded.shared import running, stop_unless_used, take_over
from face0_worker.settings import Settings

__all__ = [
    "EmbeddedBroker",
    "EmbeddedLedger",
    "broker_url",
    "find_broker",
    "find_ledger",
    "ledger_url",
    "redis_url",
    "run_folder",
    "running",
    "start_broker",
    "start_ledger",
    "stop_broker",
    "stop_ledger",
    "stop_unless_used",
    "take_over",
]


def broker_url(settings: Settings) -> str:
    """Return the broker's URL for Celery: configured, else embedded. Raises: BrokerDown: the embedded one is down."""
    return settings.broker_url or _broker_of(settings).celery_url


def redis_url(settings: Settings) -> str:
    """Return the same broker's URL for redis-py. Raises: BrokerDown: the embedded one does not run."""
    # kombu's name for a unix socket is not redis-py's
    return settings.broker_url.replace("redis+socket://", "unix://", 1) or _broker_of(settings).redis_url


def ledger_url(settings: Settings) -> str:
    """Return the ledger's URL: the configured one, else the embedded one. Raises: LedgerDown: it does not run."""
    if settings.ledger_url:
        return settings.ledger_url
    found = find_ledger(settings.home_dir)
    if found is None:
        raise LedgerDown("the embedded ledger is not running: start it with `face0 up`")
    return found.url


def _broker_of(settings: Settings) -> EmbeddedBroker:
    found = find_broker(settings.home_dir)
    if found is None:
        raise BrokerDown("the embedded broker is not running: start it with `face0 up`")
    return found
