"""An installation on the session's ledger, with a model that a worker has offered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from face0_worker.records.ledger import Ledger
from face0_worker.settings import Settings
from producer.init import init
from producer.services import Services
from tests.integration.producer.plain_worker import grant, offer
from tests.integration.producer.shop import Shop


@pytest.fixture
def settings(tmp_path: Path, ledger_url: str, ledger: Ledger) -> Settings:
    """A prepared home folder on the session's (emptied) ledger."""
    prepared = Settings(home=tmp_path / "home", ledger_url=ledger_url)
    for _ in init(prepared):
        pass
    return prepared


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """The installation's parts; a worker has offered a model for its face pack."""
    with Services(settings) as opened:
        offer(opened)
        yield opened


@pytest.fixture
def shop(services: Services) -> Iterator[Shop]:
    """Somebody who runs nights, with the consent c1."""
    grant(services.ledger)
    with Services(services.settings) as worker:
        yield Shop(services, worker)
