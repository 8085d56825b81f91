"""What a process cost: its seconds and the most memory it ever held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import face0_worker


@dataclass(frozen=True)
class Cost:
    """How a process ended and what it took: wall seconds, and peak resident memory in MiB (its children's, if more)."""

    code: int
    said: str
    seconds: float
    peak_mib: float


# On Linux a process begins with the peak of the one that started it, and that is a test run with all it has loaded.
_BETWEEN = """
import json, os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
with open(sys.argv[1], "w") as file:
    json.dump([process.returncode, time.perf_counter() - begun, usage.ru_maxrss], file)
"""


def cost_of(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a command to its end; `environment` is added to this process's own."""
    with tempfile.TemporaryDirectory(prefix="face0-cost-") as folder, (Path(folder) / "said").open("w+b") as said:
        told = Path(folder) / "cost"
        between = [sys.executable, "-I", "-S", "-c", _BETWEEN, str(told), *command]
        subprocess.run(between, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **environment}, check=True)
        code, seconds, peak = json.loads(told.read_text())
        said.seek(0)
        # Linux counts in KiB, macOS in bytes
        unit = 1024 * 1024 if sys.platform == "darwin" else 1024
        return Cost(code, said.read().decode(errors="replace"), seconds, peak / unit)


def cost_of_face0(words: Iterable[str | Path], environment: Mapping[str, str]) -> Cost:
    """Run `face0` with these words in a process of its own."""
    code = str(Path(next(iter(face0_worker.__path__))).parent)
    command = [sys.executable, "-m", "producer.cli", *(str(word) for word in words)]
    return cost_of(command, {**environment, "PYTHONPATH": code})


def write_list(path: Path, count: int, *, first: int = 0) -> Path:
    """Write a product list of `count` lines, 110 characters each, as a shop has them."""
    with path.open("w", encoding="utf-8") as file:
        file.write("sku,prompt,seed\n")
        for number in range(first, first + count):
            prompt = "a portrait of a person with long hair wearing a red turtleneck, blue background"
            file.write(f'SKU-{number:07d},"{prompt}",{number}\n')
    return path
