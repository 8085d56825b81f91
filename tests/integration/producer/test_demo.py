"""`face0 demo` with real processes and a tiny model: pictures with proof at the end, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from face0_worker.faces.packs import load_pack
from tests.fakes import TINY_SIZE, write_tiny_model

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the real shape for the installed face pack."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", embedder_digest=load_pack(None).digest)


@pytest.fixture
def start_demo(short_folder: Path, tiny_model: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that runs, with its temporary folders in `short_folder` and its results in `tmp_path / "out"`."""
    given = {"TMPDIR": str(short_folder), "FACE0_MODEL": str(tiny_model)}
    # what a demo must not touch, were these believed
    given |= {"FACE0_LEDGER_URL": "postgresql://nowhere.invalid/face0", "FACE0_BROKER_URL": "redis://nowhere.invalid"}
    command = [sys.executable, "-m", "producer.cli", "demo", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command, env={**os.environ, **given}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    yield process
    process.kill()
    process.communicate()


def left_behind(folder: Path) -> list[str]:
    """Return what still runs or lies in a folder."""
    found = [str(path) for path in folder.iterdir()]
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = [*(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()]
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(" ".join(process.info["cmdline"] or [str(process.pid)]))
    return found


def test_the_demo_ends_with_twelve_verified_pictures_and_nothing_else(
    start_demo: subprocess.Popen[str], short_folder: Path, tmp_path: Path
) -> None:
    said, _ = start_demo.communicate(timeout=1200)
    assert start_demo.returncode == 0, said
    out = tmp_path / "out"
    report = json.loads((out / "report.json").read_text())
    numbers = {name: report[name] for name in ("items", "done", "failed", "refused", "kept", "verified")}
    assert numbers == {"items": 12, "done": 12, "failed": 0, "refused": 0, "kept": 0, "verified": 12}
    for picture in report["pictures"]:
        with Image.open(out / picture["file"]) as opened:
            assert opened.size == (TINY_SIZE, TINY_SIZE)
    assert Image.open(out / "contact_sheet.png").width > 1000
    assert (out / "gallery.html").read_text().count('"source": "data:image/') == 12
    assert "12 of 12 pictures done, 12 verified" in said
    assert left_behind(short_folder) == []


def test_a_demo_that_is_ended_in_the_middle_leaves_nothing_running(
    start_demo: subprocess.Popen[str], short_folder: Path
) -> None:
    assert start_demo.stdout is not None
    for line in start_demo.stdout:
        if "worker: started" in line:
            break
    start_demo.send_signal(signal.SIGTERM)
    said, _ = start_demo.communicate(timeout=400)
    assert start_demo.returncode == 130, said
    assert left_behind(short_folder) == []
