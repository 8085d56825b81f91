"""No backup undoes an erasure, and what has had its time is erased by itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, update

from face0_worker.contract.consent import ConsentState
from face0_worker.contract.errors import Refused, VerificationFailed
from face0_worker.contract.job import ItemState
from face0_worker.records import consents, erasure, revocation, schedule, schema
from face0_worker.records.erasure import Erasure, Step
from face0_worker.records.ledger import Ledger
from face0_worker.records.replay import replay
from face0_worker.records.revocation import Cause
from face0_worker.records.storage import open_storage
from face0_worker.records.tables import consents as consents_table
from face0_worker.records.tables import erasures
from face0_worker.records.tombstones import certificate_key, tombstone_key
from face0_worker.records.vault import unseal_face
from tests import ledgers
from tests.erasures import Desk, make_desk
from tests.integration.records.databases import pg_tool, url_of


@pytest.fixture
def desk(empty: Ledger, tmp_path: Path) -> Desk:
    schema.upgrade(empty.engine)
    return make_desk(empty, open_storage(str(tmp_path / "storage")), tmp_path)


def backup(desk: Desk, tmp_path: Path) -> None:
    """Save the ledger by pg_dump and the store by copying it; the vault is in no backup."""
    dump = [pg_tool("pg_dump"), "--clean", "--if-exists", f"--file={tmp_path / 'ledger.sql'}", url_of(desk.ledger)]
    subprocess.run(dump, check=True, timeout=60)
    shutil.copytree(tmp_path / "storage", tmp_path / "saved")


def restore_ledger(desk: Desk, tmp_path: Path) -> None:
    """Bring the ledger back to the backup."""
    desk.ledger.close()
    load = [pg_tool("psql"), "-q", "-v", "ON_ERROR_STOP=1", f"--file={tmp_path / 'ledger.sql'}", url_of(desk.ledger)]
    subprocess.run(load, check=True, timeout=60, capture_output=True)


def restore_storage(desk: Desk, tmp_path: Path) -> None:
    """Bring the store back to the backup."""
    shutil.rmtree(tmp_path / "storage")
    shutil.copytree(tmp_path / "saved", tmp_path / "storage")


def lose_tombstones(desk: Desk, tmp_path: Path) -> None:
    """Bring ledger and store back, so that only the vault still knows."""
    restore_ledger(desk, tmp_path)
    restore_storage(desk, tmp_path)


@pytest.mark.parametrize("restore", [restore_ledger, restore_storage, lose_tombstones])
def test_a_restored_backup_stays_unreadable_and_is_erased_again_before_anything_starts(
    desk: Desk, tmp_path: Path, restore: Callable[[Desk, Path], None]
) -> None:
    desk.person("c1")
    desk.person("c2")
    (face,) = desk.storage.list("faces/c1/")
    sealed = desk.storage.get(face)
    backup(desk, tmp_path)
    desk.revoke("c1")
    assert desk.eraser.run("c1").finished
    assert replay(desk.eraser) == []
    restore(desk, tmp_path)
    with pytest.raises(Refused, match="key destroyed"):
        unseal_face(desk.vault, "c1", sealed)
    assert replay(desk.eraser) == ["c1"]
    assert desk.objects("c1") == 0
    record = consents.get(desk.ledger, "c1")
    assert record is not None
    assert (record.state, record.epoch) == (ConsentState.REVOKED, 2)
    assert set(ledgers.states(desk.ledger, "done-c1")) == {ItemState.PURGED}
    assert desk.objects("c2") == 5
    assert replay(desk.eraser) == []


def test_a_key_that_came_back_with_the_vaults_own_backup_is_destroyed_again(desk: Desk, tmp_path: Path) -> None:
    desk.person("c1")
    shutil.copytree(tmp_path / "vault", tmp_path / "saved vault")
    desk.revoke("c1")
    desk.eraser.run("c1")
    shutil.rmtree(tmp_path / "vault")
    shutil.copytree(tmp_path / "saved vault", tmp_path / "vault")
    assert desk.vault.has_key("c1")
    assert replay(desk.eraser) == ["c1"]
    assert not desk.vault.has_key("c1")
    found = erasure.get(desk.ledger, "c1")
    assert found is not None
    assert found.counts["replays"] == 1


def test_a_store_that_was_saved_in_the_middle_of_an_erasure_is_erased_again(desk: Desk, tmp_path: Path) -> None:
    desk.person("c1")
    desk.revoke("c1")

    def save(done: Erasure) -> None:
        if done.step is Step.TOMBSTONE:
            shutil.copytree(tmp_path / "storage", tmp_path / "saved")

    assert replace(desk.eraser, told=save).run("c1").finished
    restore_storage(desk, tmp_path)
    assert desk.storage.exists(tombstone_key("c1"))
    assert desk.objects("c1") == 5
    assert replay(desk.eraser) == ["c1"]
    assert desk.objects("c1") == 0


def test_objects_that_somebody_copied_back_are_found_by_a_thorough_replay(desk: Desk, tmp_path: Path) -> None:
    desk.person("c1")
    shutil.copytree(tmp_path / "storage" / "pictures", tmp_path / "pictures")
    desk.revoke("c1")
    desk.eraser.run("c1")
    shutil.copytree(tmp_path / "pictures", tmp_path / "storage" / "pictures", dirs_exist_ok=True)
    assert replay(desk.eraser) == []
    assert replay(desk.eraser, thorough=True) == ["c1"]
    assert desk.objects("c1") == 0


def test_a_tombstone_or_certificate_that_was_forged_erases_nobody_and_is_told(desk: Desk) -> None:
    desk.person("c1")
    desk.person("c2")
    desk.revoke("c2")
    desk.eraser.run("c2")
    desk.storage.put(tombstone_key("c1"), desk.storage.get(tombstone_key("c2")))
    with pytest.raises(VerificationFailed, match="tombstone of consent c1"):
        replay(desk.eraser)
    desk.storage.delete(tombstone_key("c1"))
    for forged in (desk.storage.get(certificate_key("c2")), b"{}"):
        desk.storage.put(certificate_key("c1"), forged, if_absent=False)
        with pytest.raises(VerificationFailed, match="certificate"):
            replay(desk.eraser)
    assert desk.objects("c1") == 5


def test_a_damaged_tombstone_is_made_again_where_the_vault_knows_the_erasure(desk: Desk, tmp_path: Path) -> None:
    desk.person("c1")
    backup(desk, tmp_path)
    desk.revoke("c1")
    desk.eraser.run("c1")
    restore_ledger(desk, tmp_path)
    desk.storage.put(tombstone_key("c1"), b"{}", if_absent=False)
    assert replay(desk.eraser) == ["c1"]
    assert replay(desk.eraser) == []


def test_a_ledger_that_is_older_than_the_consent_is_told_all_the_same(desk: Desk, tmp_path: Path) -> None:
    backup(desk, tmp_path)
    desk.person("c1")
    desk.revoke("c1")
    desk.eraser.run("c1")
    restore_ledger(desk, tmp_path)
    desk.storage.put("pictures/c1/left/left.png", b"left")
    assert replay(desk.eraser) == ["c1"]
    assert (desk.objects("c1"), consents.get(desk.ledger, "c1")) == (0, None)


def end(desk: Desk, consent_id: str, days_ago: float, **retention: int) -> None:
    """Let a consent have ended so many days ago, with a retention of its own."""
    ended = func.now() - timedelta(days=days_ago)
    change = update(consents_table).where(consents_table.c.id == consent_id)
    with desk.ledger.transaction() as connection:
        connection.execute(change.values(valid_until=ended, terms={"retention": retention}))


def test_what_has_had_its_time_is_erased_by_itself_and_nothing_sooner(desk: Desk) -> None:
    for consent_id in ("still", "default", "longer", "never"):
        desk.person(consent_id)
    end(desk, "default", 31)
    end(desk, "longer", 31, pictures=60, photo=60, embedding=60)
    end(desk, "never", 9000, pictures=10**9, photo=10**9, embedding=10**9)
    assert schedule.begin(desk.eraser, 30) == 1
    assert schedule.begin(desk.eraser, 30) == 0
    assert [(one.consent_id, one.cause) for one in erasure.unfinished(desk.ledger)] == [("default", Cause.RETENTION)]
    assert desk.eraser.run("default").finished
    assert [desk.objects(one) for one in ("still", "default", "longer", "never")] == [5, 0, 5, 5]


def test_a_photo_may_have_to_go_before_the_pictures(desk: Desk) -> None:
    desk.person("c1")
    end(desk, "c1", 5, pictures=30, photo=3)
    assert schedule.begin(desk.eraser, 30) == 1
    assert schedule.begin(desk.eraser, 30) == 0
    assert (desk.objects("c1"), list(desk.storage.list("faces/c1/"))) == (4, [])
    with pytest.raises(Refused, match="key destroyed"):
        desk.vault.seal("c1", b"", about="face")
    # which is no erasure of everything: a replay leaves the pictures
    assert replay(desk.eraser) == []
    end(desk, "c1", 31, pictures=30, photo=3)
    assert schedule.begin(desk.eraser, 30) == 1
    assert desk.eraser.run("c1").finished
    assert (desk.objects("c1"), replay(desk.eraser)) == (0, [])


def test_without_any_retention_everything_goes_when_the_consent_ends(desk: Desk) -> None:
    desk.person("c1")
    end(desk, "c1", 0)
    assert schedule.due(desk.ledger, 0).whole == (("c1", Cause.EXPIRED),)
    assert schedule.due(desk.ledger, 1).whole == ()


def test_a_consent_that_was_extended_in_the_last_moment_is_not_erased(desk: Desk) -> None:
    desk.person("c1")
    end(desk, "c1", 31)
    ((consent_id, cause),) = schedule.due(desk.ledger, 30).whole
    end(desk, "c1", -1)
    assert not revocation.end(desk.ledger, consent_id, cause)
    assert erasure.unfinished(desk.ledger) == []
    end(desk, "c1", 31)
    assert revocation.end(desk.ledger, consent_id, cause)


def test_what_an_older_program_revoked_is_taken_up_by_the_schedule(desk: Desk) -> None:
    desk.person("c1")
    desk.revoke("c1")
    with desk.ledger.transaction() as connection:
        connection.execute(erasures.delete())
    assert schedule.begin(desk.eraser, 30) == 1
    assert [one.consent_id for one in erasure.unfinished(desk.ledger)] == ["c1"]
