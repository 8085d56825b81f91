"""The ledger's schema version: bring a ledger up to date, and say whether this program may work with one.

A ledger says which revision its tables have and which is the oldest program that works with them (a program is named
by the newest revision it knows). So an old program, which can't know a newer revision, is told by the ledger itself.
The rules for revisions stand in docs/ledger.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from face0_worker.contract.errors import LedgerDown
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import SCHEMA_LOCK

# the revision of this program's tables
HEAD = "0003"
# Alembic's version table under a name of our own, with the column `works_with` beside Alembic's
VERSION_TABLE = "face0_schema"
# A migration that waits for a table keeps everybody behind it waiting too; leases and heartbeats outlast this
LOCK_WAIT_S = 5.0
# another process that migrates is waited for longer: it will have done the work
TURN_WAIT_S = 120.0

# what ledgers hold that were made before versions were counted: number of columns by table
_FIRST = "0001"
_FIRST_TABLES = {
    "attempts": 11,
    "audit_events": 7,
    "audit_outbox": 4,
    "commits": 15,
    "consents": 10,
    "faces": 4,
    "items": 18,
    "jobs": 19,
    "models": 6,
}


@dataclass(frozen=True)
class Upgrade:
    """What `upgrade` did: the ledger's revision before (None: it was empty) and after."""

    before: str | None
    after: str

    def __str__(self) -> str:
        was = "" if self.before == self.after else f" (was {self.before or 'empty'})"
        return f"schema {self.after}{was}"


@dataclass(frozen=True)
class Schema:
    """A ledger's revision (None: it says none) beside this program's; `problem` is "" or a sentence with what to do."""

    current: str | None
    head: str
    problem: str

    @property
    def compatible(self) -> bool:
        """Whether this program may work with the ledger."""
        return not self.problem


@dataclass(frozen=True)
class _Mark:
    """What a ledger says of itself."""

    revision: str
    works_with: str


def describe(engine: Engine) -> Schema:
    """Return how the ledger's schema stands to this program. Raises: LedgerDown: it does not answer."""
    ledger = Ledger(engine)
    with _transaction(ledger) as connection:
        mark = _read(connection)
    return Schema(mark.revision if mark else None, HEAD, _problem(mark, ledger.where))


def check(engine: Engine) -> None:
    """Return if this program may work with the ledger; two short questions, nothing is changed.

    Raises: LedgerDown: it does not answer, is older than this program, or is too new for it.
    """
    schema = describe(engine)
    if not schema.compatible:
        raise LedgerDown(schema.problem)


def upgrade(engine: Engine, *, lock_wait_s: float = LOCK_WAIT_S) -> Upgrade:
    """Bring an empty or older ledger to this program's schema, in one transaction: all of it or nothing.

    Safe to repeat, and safe for several processes at once: one works, the others wait. A newer ledger that works with
    this program is left as it is. Running workers may go on; a table that is in use is waited for `lock_wait_s`
    seconds (above 0.001) and no longer.
    Raises: LedgerDown: it does not answer, is busy, holds other tables, is too new, or its user may not change tables.
    """
    ledger = Ledger(engine)
    with _transaction(ledger) as connection:
        _wait_at_most(connection, TURN_WAIT_S)
        connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        mark = _read(connection)
        if mark is not None and mark.revision >= HEAD:
            problem = _problem(mark, ledger.where)
            if problem:
                raise LedgerDown(problem)
            return Upgrade(mark.revision, mark.revision)
        before = mark.revision if mark else _unmarked(connection, ledger.where)
        _wait_at_most(connection, lock_wait_s)
        if mark is None:
            _start_marking(connection, before)
        _migrate(connection)
        return Upgrade(before, HEAD)


def _read(connection: Connection) -> _Mark | None:
    if connection.execute(select(func.to_regclass(VERSION_TABLE))).scalar() is None:
        return None
    row = connection.execute(text(f"SELECT version_num, works_with FROM {VERSION_TABLE}")).first()
    return _Mark(row.version_num, row.works_with) if row else None


def _problem(mark: _Mark | None, where: str) -> str:
    if mark is None:
        return f"the ledger at {where} is not prepared for this program; run `face0 init`"
    if mark.revision < HEAD:
        return (
            f"the ledger at {where} has schema {mark.revision} and this program needs {HEAD}; "
            "run `face0 init` with this program"
        )
    if mark.works_with > HEAD:
        return (
            f"the ledger at {where} has schema {mark.revision}, which needs a program of schema {mark.works_with} or "
            f"newer, and this one is of {HEAD}; update face0"
        )
    return ""


def _unmarked(connection: Connection, where: str) -> str | None:
    """Return the revision of a ledger that says none: None when it holds nothing of ours."""
    there = inspect(connection)
    found = {name: len(there.get_columns(name)) for name in there.get_table_names() if name in _FIRST_TABLES}
    if not found:
        return None
    if found != _FIRST_TABLES:
        raise LedgerDown(
            f"the database at {where} holds tables that are not a ledger's: {', '.join(sorted(found))}; "
            "name an empty one with FACE0_LEDGER_URL. Nothing was changed"
        )
    return _FIRST


def _start_marking(connection: Connection, revision: str | None) -> None:
    connection.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} ("
            "version_num varchar(32) PRIMARY KEY, works_with varchar(32) NOT NULL DEFAULT '')"
        )
    )
    if revision is not None:
        marked = text(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:revision)")
        connection.execute(marked, {"revision": revision})


def _migrate(connection: Connection) -> None:
    # here, not above: only a migration needs Alembic, and importing it takes longer than most commands
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "face0_worker.records:migrations")
    command.upgrade(config, HEAD)
    works_with = ScriptDirectory.from_config(config).get_revision(HEAD).module.works_with
    connection.execute(text(f"UPDATE {VERSION_TABLE} SET works_with = :oldest"), {"oldest": works_with})


def _wait_at_most(connection: Connection, seconds: float) -> None:
    """Let each later wait for a lock in this transaction end after so many seconds."""
    connection.execute(select(func.set_config("lock_timeout", f"{seconds * 1000:.0f}ms", True)))


@contextmanager
def _transaction(ledger: Ledger) -> Iterator[Connection]:
    """Give one transaction of the ledger; what a schema change is refused for is said in our words."""
    with ledger.transaction() as connection:
        try:
            yield connection
        except DBAPIError as error:
            sentence = _REFUSALS.get(str(getattr(error.orig, "sqlstate", "")))
            if sentence is None:
                raise
            raise LedgerDown(f"the ledger at {ledger.where} {sentence}") from error


_REFUSALS = {
    # lock_not_available
    "55P03": "is busy: another transaction holds a table that has to change. Nothing was changed; workers may go on, "
    "and `face0 init` can be run again in a moment",
    # insufficient_privilege
    "42501": "does not let this user see or change its tables; run `face0 init` as the user that owns them",
    # read_only_sql_transaction
    "25006": "is a copy that can only be read; name the primary server with FACE0_LEDGER_URL",
}
