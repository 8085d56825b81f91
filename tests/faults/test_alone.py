"""No connection that nobody asked for: a whole job in a network with no way out, and nobody even tries to leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import ROOT

_TRY = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))"
_COUNT = "from tests.faults.alone import network_counts; import json; print(json.dumps(network_counts()))"


@pytest.fixture(scope="module")
def own_network() -> list[str]:
    """The command that runs another one in a network of its own, which is empty."""
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-current-user", "--net"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        sentence = "this machine lets nobody make a network of its own (unshare --net)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{sentence}; in CI it must")
        pytest.skip(sentence)
    return command


def _guarded(tmp_path: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(Path(__file__).with_name("guard")), str(ROOT)])
    return {**os.environ, "PYTHONPATH": paths, "FACE0_TEST_GUARD": str(tmp_path / "tries")}


def test_a_job_is_rendered_without_any_network_and_nothing_tries_to_use_one(
    own_network: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [*own_network, sys.executable, "-m", "tests.faults.alone", str(tmp_path / "all")],
        cwd=ROOT,
        env=_guarded(tmp_path),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["pictures"] == 2
    tries = tmp_path / "tries"
    assert not tries.exists(), tries.read_text()
    # the kernel's own count also has what was written in C
    assert set(found["network"].values()) == {0}, found["network"]


def test_the_guards_see_a_try(own_network: list[str], tmp_path: Path) -> None:
    script = f"import sys\ntry:\n    exec({_TRY!r})\nexcept OSError: pass\n{_COUNT}"
    done = subprocess.run(
        [*own_network, sys.executable, "-c", script],
        cwd=ROOT,
        env=_guarded(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["IpOutNoRoutes"] > 0
    assert json.loads((tmp_path / "tries").read_text())["event"] == "socket.sendto"
