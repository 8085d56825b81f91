"""Databases of a test's own on the session's PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import make_url

from face0_worker.records.ledger import Ledger
from tests.integration.records.databases import opened


@pytest.fixture
def database(ledger_url: str) -> Iterator[Callable[[], str]]:
    """Make an empty database on the session's PostgreSQL, as often as it is called; return its URL."""
    made: list[str] = []
    with psycopg.connect(ledger_url, autocommit=True) as server:

        def make() -> str:
            made.append(f"schema_{len(made)}")
            server.execute(f"DROP DATABASE IF EXISTS {made[-1]} WITH (FORCE)".encode())
            server.execute(f"CREATE DATABASE {made[-1]}".encode())
            return make_url(ledger_url).set(database=made[-1]).render_as_string(hide_password=False)

        yield make
        for name in made:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def empty(database: Callable[[], str]) -> Iterator[Ledger]:
    """A database with nothing in it, opened."""
    with opened(database()) as ledger:
        yield ledger
