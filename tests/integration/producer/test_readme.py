"""The README's own lines, typed as they stand there, on a real installation with the model that ships."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from producer.demo import PERSON

pytestmark = [pytest.mark.services, pytest.mark.slow]

README = Path(__file__).parents[3] / "README.md"
PATIENCE_S = 240.0


def block_under(title: str) -> list[str]:
    """Return the lines of the first shell block under a title, without their remarks."""
    found = re.search(rf"^## {title}\n+```sh\n(.*?)```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"README has no shell block under {title!r}"
    return [line.partition("  #")[0].strip() for line in found[1].splitlines() if line.strip()]


def test_the_lines_for_ones_own_photo_do_what_they_say(tmp_path: Path) -> None:
    shutil.copy(PERSON, tmp_path / "photo.jpg")
    (tmp_path / "list.csv").write_text("sku,prompt\none,a portrait of a person wearing a red t-shirt\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FACE0_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    environment = {**clean, "PATH": path, "FACE0_HOME": str(tmp_path / "home")}
    named: dict[str, str] = {}
    said: dict[str, str] = {}
    lines = block_under("Your own photo and list")
    assert lines[0] == ". .venv/bin/activate"
    try:
        for line in lines[1:]:
            for name, value in named.items():
                line = line.replace(name, value)
            # asked on a terminal; here nobody answers
            typed = f"{line} --yes" if " revoke " in line else line
            done = subprocess.run(
                ["bash", "-c", typed], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
            )
            assert done.returncode == 0, f"{typed}\n{done.stdout}{done.stderr}"
            said[line.split()[1]] = done.stdout
            for name, pattern in (("CONSENT_ID", r"Consent (\S+) is granted"), ("JOB_ID", r"Job (job-\w+)")):
                if found := re.search(pattern, done.stdout):
                    named[name] = found[1]
    finally:
        subprocess.run(["face0", "down"], env=environment, capture_output=True, timeout=PATIENCE_S)
    assert (tmp_path / "pictures" / "one.png").is_file()
    assert "1 of 1 pictures are verified" in said["verify"]
