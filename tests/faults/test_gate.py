"""The consent gate and the order of jobs in a running installation (P3, and urgent before nightly)."""

from __future__ import annotations

from pathlib import Path

import pytest

from face0_worker.contract.consent import Purpose
from face0_worker.contract.errors import ConsentRefused
from face0_worker.contract.job import ItemState, Priority
from producer.check import check_files
from producer.results import pull
from producer.submit import submit
from producer.withdraw import withdraw
from tests.faults.conftest import House


def test_revoked_consent_stops_a_running_job_and_its_pictures(house: House, tmp_path: Path) -> None:
    consent_id = house.grant("revoked")
    job_id = house.submit(consent_id, 60)
    house.until_some_are_done(job_id)
    pulled = pull(house.services, job_id, tmp_path)
    withdraw(house.services, consent_id)
    committed = house.commits(job_id)
    status = house.until_ended(job_id)
    assert house.commits(job_id) == committed < 60
    assert status.counts[ItemState.DONE] == 0
    assert status.counts[ItemState.PURGED] == committed
    assert status.counts[ItemState.CANCELLED] == 60 - committed
    for one in check_files(house.services, [path for _, path in pulled.files]):
        assert one.code == "refused"
    # what was being stored in the very moment is erased by its worker, which is refused the commit
    house.until(lambda _: not list(house.services.storage.list(f"pictures/{consent_id}/")), job_id)
    with pytest.raises(ConsentRefused):
        pull(house.services, job_id, tmp_path / "again")


def test_a_use_that_the_consent_does_not_name_is_refused_before_the_photo_is_opened(
    house: House, tmp_path: Path
) -> None:
    consent_id = house.grant("catalogue-only")
    with pytest.raises(ConsentRefused, match="not ad") as refusal:
        submit(house.services, face=tmp_path / "no such photo", items=[], consent_id=consent_id, purpose=Purpose.AD)
    assert refusal.value.exit_code == 3


def test_an_urgent_job_overtakes_a_nightly_one(house: House) -> None:
    nightly = house.submit(house.grant("nightly"), 60, priority=Priority.NIGHTLY)
    house.until_some_are_done(nightly)
    urgent = house.submit(house.grant("urgent"), 4, priority=Priority.URGENT)
    house.until_ended(urgent)
    assert not house.status(nightly).ended
    house.cancel(nightly)
