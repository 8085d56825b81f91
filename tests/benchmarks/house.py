"""An installation of its own for a measurement: a fresh home, a consent for nobody, the services asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.records import consents
from face0_worker.settings import Settings, load_settings
from producer.init import init
from producer.services import Services

CONSENT = "bench"


@contextmanager
def installation(
    running: Callable[[Settings], AbstractContextManager[object]], **given: object
) -> Iterator[tuple[Settings, Services]]:
    """Give a fresh installation while `running(settings)` keeps its services, and remove it. `given`: settings."""
    with tempfile.TemporaryDirectory(prefix="face0-bench-") as folder:
        settings = load_settings(None, home=Path(folder) / "home", broker_url="", ledger_url="", storage="", **given)
        for _ in init(settings):
            pass
        with running(settings), Services(settings) as services:
            now = datetime.now(UTC)
            record = ConsentRecord(CONSENT, "nobody", frozenset({Purpose.CATALOGUE}), now, now + timedelta(days=1))
            consents.grant(services.ledger, record)
            yield settings, services
