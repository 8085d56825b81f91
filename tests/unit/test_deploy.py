"""The deployment, checked without a Docker daemon: Compose and hadolint read it, and its promises are in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from face0_worker.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))
SECRETS = ("FACE0_BROKER_PASSWORD", "FACE0_LEDGER_PASSWORD", "FACE0_S3_ACCESS_KEY", "FACE0_S3_SECRET_KEY")
GIVEN = {name: f"given{number}" for number, name in enumerate(SECRETS)}


def tool(name: str) -> str:
    """Return a command that a development package brings; without it skip on a laptop and fail in CI."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        sentence = f"`{name}` is not installed; `pip install face0[dev]` brings it"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    return found


def compose(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("FACE0_", "COMPOSE_"))}
    command = [tool("docker-compose"), "--project-directory", str(ROOT), "--env-file", os.devnull, "-f", str(COMPOSE)]
    command += ["--profile", "*", "config", "--format", "json"]
    return subprocess.run(command, env=plain | environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def resolved() -> dict[str, Any]:
    """The deployment as Compose understands it."""
    ran = compose(GIVEN)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """The deployment as the file says it."""
    return dict(yaml.safe_load(COMPOSE.read_text()))


@pytest.mark.parametrize("name", SECRETS)
def test_compose_refuses_to_start_without_a_secret_and_names_it(name: str) -> None:
    ran = compose({other: value for other, value in GIVEN.items() if other != name})
    assert ran.returncode != 0
    assert f"{name} is missing a value: set it in .env" in ran.stderr


def test_every_part_is_there(resolved: dict[str, Any]) -> None:
    assert {"broker", "ledger", "storage", "worker", "producer"} <= set(resolved["services"])
    assert resolved["services"]["ledger"]["image"].startswith("postgres:18.")
    assert resolved["services"]["producer"]["profiles"] == ["cli"]


def test_the_worker_reserves_a_gpu(resolved: dict[str, Any]) -> None:
    devices = resolved["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_the_broker_writes_its_log_and_never_evicts(resolved: dict[str, Any]) -> None:
    lines = resolved["configs"]["broker"]["content"].splitlines()
    assert "maxmemory-policy noeviction" in lines
    assert "appendonly yes" in lines
    assert "requirepass given0" in lines
    assert resolved["services"]["broker"]["command"] == ["valkey-server", "/etc/valkey/valkey.conf"]


def test_ports_are_open_to_this_machine_only(resolved: dict[str, Any]) -> None:
    ports = [port for service in resolved["services"].values() for port in service.get("ports", [])]
    assert ports
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert not any(service.get("network_mode") == "host" for service in resolved["services"].values())


def test_the_parts_that_see_a_face_have_no_way_out(resolved: dict[str, Any]) -> None:
    assert resolved["networks"]["inside"]["internal"] is True
    for name in ("worker", "producer", "init"):
        assert list(resolved["services"][name]["networks"]) == ["inside"]


def test_keys_and_vault_are_mounted_by_worker_and_producer_only(resolved: dict[str, Any]) -> None:
    mounting = {
        name: service["image"]
        for name, service in resolved["services"].items()
        if any(volume.get("source") == "home" for volume in service.get("volumes", []))
    }
    assert set(mounting) == {"worker", "producer", "init"}
    assert all(image.startswith(("face0-worker:", "face0-producer:")) for image in mounting.values())


def test_storage_of_the_ledger_survives_a_new_container(resolved: dict[str, Any]) -> None:
    targets = [volume["target"] for volume in resolved["services"]["ledger"]["volumes"]]
    assert targets == ["/var/lib/postgresql"]  # the image of 18 puts PGDATA below it and refuses the older path


def test_the_long_running_parts_say_whether_they_are_well(resolved: dict[str, Any]) -> None:
    for name in ("broker", "ledger", "storage", "worker"):
        assert resolved["services"][name]["healthcheck"]["test"]
        assert resolved["services"][name]["restart"] == "unless-stopped"


def test_nothing_runs_as_root_but_the_one_that_gives_a_folder_away(resolved: dict[str, Any]) -> None:
    for name, service in resolved["services"].items():
        assert service["cap_drop"] == ["ALL"]
        if name == "storage-folder":
            assert (service["cap_add"], service["network_mode"]) == (["CHOWN"], "none")
        elif "build" not in service:
            assert service["user"].split(":")[0] not in ("", "0", "root"), name


def test_images_are_pinned(resolved: dict[str, Any]) -> None:
    images = [service["image"] for service in resolved["services"].values()]
    for file in DOCKERFILES:
        images += re.findall(r"^FROM (\S+)", file.read_text(), re.MULTILINE)
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image


def test_no_secret_is_written_down(written: dict[str, Any]) -> None:
    text = COMPOSE.read_text()
    for name in SECRETS:
        assert text.count(name) == len(re.findall(rf"\$\{{{name}:\?[^}}]+\}}", text)) > 0
    for service in written["services"].values():
        for variable, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|KEY|AUTH|TOKEN", variable):
                assert str(value).startswith("${"), variable
    assert not re.search(r"://[^$/\s]*:[^$/\s]+@", text)


def test_the_parts_are_told_by_variables_that_settings_know(written: dict[str, Any]) -> None:
    known = {f"FACE0_{name.upper()}" for name in Settings.model_fields}
    for name in ("worker", "producer"):
        named = {variable for variable in written["services"][name]["environment"] if variable.startswith("FACE0_")}
        assert named <= known
        assert {"FACE0_BROKER_URL", "FACE0_LEDGER_URL", "FACE0_STORAGE", "FACE0_S3_ENDPOINT"} <= named


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing_in_a_dockerfile(file: Path) -> None:
    ran = subprocess.run(
        [tool("hadolint"), "--no-color", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout == ""


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_is_built_in_stages_and_runs_as_nobody_special(file: Path) -> None:
    stages = re.split(r"^(?=FROM )", file.read_text(), flags=re.MULTILINE)[1:]
    assert len(stages) == 2
    assert "build-essential" not in stages[-1]
    assert re.findall(r"^USER (\S+)", stages[-1], re.MULTILINE) == ["10001:10001"]


def test_what_the_images_copy_exists_and_is_sent_to_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for file in DOCKERFILES:
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", file.read_text(), re.MULTILINE):
            for source in sources.split():
                assert f"!{source}" in ignored
                assert (ROOT / source).exists(), source


def test_only_the_worker_gets_torch() -> None:
    extras = {file.name: "[worker]" in file.read_text() for file in DOCKERFILES}
    assert extras == {"worker.Dockerfile": True, "producer.Dockerfile": False}
