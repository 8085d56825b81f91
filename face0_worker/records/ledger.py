"""The holder of the database: opens it, gives transactions, and says in our words what went wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import psycopg
from sqlalchemy import ColumnElement, Connection, Engine, create_engine, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from face0_worker.contract.errors import BadInput, LedgerDown
from face0_worker.records.tables import items

CONNECT_TIMEOUT_S = 5
# a cable that was pulled must be noticed within half a minute, not after the kernel's quarter of an hour
_NOTICE_A_DEAD_LINE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class Ledger:
    """PostgreSQL, the durable truth about jobs, items, consents and commits. Safe to share between threads.

    Rooms lock in this order, so that no two transactions wait for each other: attempt, consent, then items, several
    items always by id (`lock_items`) or with SKIP LOCKED.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give one transaction; it commits when the block ends and rolls back when it raises.

        Raises: LedgerDown: PostgreSQL does not answer, gave up a deadlock, or has no tables yet.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError, PoolTimeout, psycopg.OperationalError) as error:
            raise LedgerDown(
                f"the ledger at {self.where} does not answer as PostgreSQL ({_why(error)}); "
                "start it, or correct FACE0_LEDGER_URL"
            ) from error
        except ProgrammingError as error:
            # 42P01 undefined_table: a new server, or another database than `face0 init` prepared
            if getattr(error.orig, "sqlstate", None) == "42P01":
                raise LedgerDown(f"the ledger at {self.where} has no tables; run `face0 init` first") from error
            raise

    @property
    def where(self) -> str:
        """The database's URL without its password, for messages."""
        return self.engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Give back every pooled connection."""
        self.engine.dispose()


def open_ledger(url: str) -> Ledger:
    """Connect to the ledger at a postgresql:// URL. The tables must exist (`schema.upgrade`).

    Raises: BadInput: not a PostgreSQL URL. LedgerDown: nothing answers there within five seconds.
    """
    engine = create_engine(
        _psycopg_url(url),
        pool_pre_ping=True,
        pool_size=8,
        max_overflow=24,
        # values of a statement could carry personal data into a log (promise P7)
        hide_parameters=True,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "face0", **_NOTICE_A_DEAD_LINE},
    )
    ledger = Ledger(engine)
    with ledger.transaction() as connection:
        connection.execute(select(1))
    return ledger


def database_clock(connection: Connection) -> datetime:
    """Return the database's clock at this moment (UTC), not at the transaction's start.

    Whoever decides after waiting for a lock must use this: `now()` is the time before the wait.
    """
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now


def lock_items(connection: Connection, wanted: ColumnElement[bool]) -> int:
    """Lock the items that match, in the order of their ids as every room does; return how many."""
    locked = select(items.c.id).where(wanted).order_by(items.c.id).with_for_update().subquery()
    return int(connection.execute(select(func.count()).select_from(locked)).scalar_one())


def _why(error: Exception) -> str:
    """Return what PostgreSQL or the way to it said, in one line and without the address, which is told already."""
    said = str(getattr(error, "orig", None) or error).splitlines() or [""]
    return (said[0].rpartition("failed: ")[2][:200] or type(error).__name__).rstrip(".")


def _psycopg_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise BadInput(
            "the ledger's URL can't be read; it looks like postgresql://user:password@host/database"
        ) from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise BadInput(f"the ledger must be PostgreSQL, not {parsed.get_backend_name()}")
    return parsed.set(drivername="postgresql+psycopg")
