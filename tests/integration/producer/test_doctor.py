"""`face0 doctor`: for each thing that can be wrong, what was found and how to mend it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import Connection, text

from face0_worker.faces.packs import load_pack
from face0_worker.records.ledger import Ledger, database_clock
from face0_worker.settings import Settings
from producer import doctor
from producer.doctor import Check, examine
from producer.services import Services

pytestmark = pytest.mark.services


@pytest.fixture
def healthy(services: Services, broker_url: str) -> Callable[..., dict[str, Check]]:
    """Examine the installation with some settings changed; the checks by part."""

    def look(**changed: object) -> dict[str, Check]:
        url = broker_url.replace("redis+socket://", "unix://")
        settings = services.settings.model_copy(update={"broker_url": url, **changed})
        return {check.part: check for check in examine(settings)}

    return look


def test_where_nothing_is_wrong_every_part_is_told(healthy: Callable[..., dict[str, Check]]) -> None:
    checks = healthy()
    assert [check.part for check in checks.values() if not check.ok] == []
    assert "schema" in checks["ledger"].found
    assert "noeviction" in checks["broker"].found
    assert "digest" in checks["face pack"].found
    assert "licences: weights: Apache-2.0" in checks["model"].found
    assert "plain (digest" in checks["worker"].found


def test_a_variable_that_means_nothing_is_named(
    healthy: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACE0_LEDGR_URL", "postgresql://host/d")
    assert "did you mean FACE0_LEDGER_URL?" in healthy()["settings"].found


def test_a_clock_that_is_off_is_measured_against_the_ledger(
    healthy: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for off in (-90, 90):

        def shifted(connection: Connection, off: int = off) -> datetime:
            return database_clock(connection) + timedelta(seconds=off)

        monkeypatch.setattr(doctor, "database_clock", shifted)
        check = healthy()["clock"]
        assert not check.ok
        assert "90 s away" in check.found
        assert "NTP" in check.mend


def test_a_ledger_that_was_never_prepared_says_what_to_run(
    healthy: Callable[..., dict[str, Check]], ledger: Ledger, ledger_url: str
) -> None:
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE IF EXISTS unprepared"))
        connection.execute(text("CREATE DATABASE unprepared"))
    try:
        check = healthy(ledger_url=ledger_url.replace("/postgres?", "/unprepared?"))["ledger"]
        assert not check.ok
        assert "face0 init" in check.found + check.mend
    finally:
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("DROP DATABASE unprepared WITH (FORCE)"))


def test_a_gpu_that_is_asked_for_and_not_there_is_a_problem(
    healthy: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi here, whatever this machine has
    assert healthy()["gpu"].ok
    assert "shows no NVIDIA GPU" in healthy(device="cuda")["gpu"].found


def test_a_gpu_is_told_as_its_driver_names_it(
    healthy: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 580.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert healthy(device="cuda")["gpu"].found == "NVIDIA H100, 81559 MiB, 580.1"
    program.write_text("#!/bin/sh\necho 'Driver/library version mismatch' >&2; exit 18\n")
    assert not healthy(device="cuda")["gpu"].ok


def test_a_model_folder_a_pack_and_a_storage_folder_that_are_not_there(
    healthy: Callable[..., dict[str, Check]], tmp_path: Path
) -> None:
    checks = healthy(model=tmp_path / "no", pack=tmp_path / "no", storage=str(tmp_path / "no"))
    assert [part for part, check in checks.items() if not check.ok] == ["storage", "model", "face pack"]
    assert not (tmp_path / "no").exists()
    for part, mend in (("storage", "face0 init"), ("model", "FACE0_MODEL"), ("face pack", "FACE0_PACK")):
        assert mend in checks[part].mend


def test_a_damaged_pack_is_noticed_by_its_digest(healthy: Callable[..., dict[str, Check]], tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(load_pack(None).folder, pack)
    next(pack.glob("*.onnx")).write_bytes(b"other")
    assert "damaged" in healthy(pack=pack)["face pack"].found


def test_a_disk_with_little_room_is_a_problem(
    healthy: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "free_bytes", lambda _: 1_500_000_000)
    assert "1.5 GB free" in healthy()["disk"].found


def test_a_broker_near_its_limit_is_a_problem(healthy: Callable[..., dict[str, Check]], broker_url: str) -> None:
    client = redis.Redis.from_url(broker_url.replace("redis+socket://", "unix://"))
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", int(used * 1.1))
    try:
        assert "raise maxmemory" in healthy()["broker"].mend
    finally:
        client.config_set("maxmemory", 0)
        client.close()


def test_a_home_without_keys_says_what_to_run(
    healthy: Callable[..., dict[str, Check]], settings: Settings, tmp_path: Path
) -> None:
    check = healthy(home=tmp_path / "new", storage=settings.storage_url)["keys"]
    assert not check.ok
    assert check.mend == "run `face0 init`"
