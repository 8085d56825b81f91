"""What a worker's process does beside rendering: pictures in another form, and messages to receivers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from face0_worker.contract.derivation import FileFormat, Form
from face0_worker.records import webhooks
from face0_worker.records.deliveries import Channel
from face0_worker.records.webhook_keys import Keys
from producer.check import check_files
from producer.delivery.fetching import Exit, Request
from producer.delivery.places import Folder
from producer.delivery.selection import of_job
from producer.results import bring
from tests.faults.conftest import PATIENCE_S, House

pytestmark = [pytest.mark.services, pytest.mark.slow]


def test_a_running_worker_makes_other_forms_and_sends_messages_and_reaches_nobody_inside(
    house: House, tmp_path: Path
) -> None:
    ledger, keys = house.services.ledger, Keys.open(house.settings.keys_dir, create=True)
    hook, _ = webhooks.add(ledger, keys, "http://127.0.0.1:9/", ["job.finished"], {"127.0.0.1"})
    job_id = house.submit(house.grant("errands"), 2)
    house.until_ended(job_id)
    way = Exit("export", Channel.EXPORT, str(tmp_path))
    request = Request(of_job(house.services, job_id), way, Form(FileFormat.WEBP))
    assert len(bring(house.services, request, Folder(tmp_path)).copies) == 2
    deadline = time.monotonic() + PATIENCE_S
    while not (told := webhooks.deliveries(ledger, webhook_id=hook.id)) or not told[0].error:
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
    # this worker's setting webhook_hosts names nobody
    assert "name the host in the setting webhook_hosts" in told[0].error
    webhooks.remove(ledger, hook.id)
    while [one.code for one in check_files(house.services, [tmp_path])] != ["ok", "ok"]:
        assert time.monotonic() < deadline, "the receipts were not published"
        time.sleep(0.05)
