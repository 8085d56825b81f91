"""What a comparison says, and bench.json (design.md, section 5): written again after every round."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison: medians of both sides, and the median and spread (largest less smallest) of the paired ratios.

    `about` says more where it was measured: how many rounds, and of each side peak memory, evaluations and share of
    the matmul peak.
    """

    name: str
    a: float
    b: float
    ratio: float
    spread: float
    unit: str
    about: Mapping[str, Any] = field(default_factory=dict)


def compare(name: str, pairs: Sequence[tuple[float, float]], unit: str, about: Mapping[str, Any] | None = None) -> Row:
    """Return the row of paired measurements (a, b); there is at least one, and no b is zero."""
    ratios = [a / b for a, b in pairs]
    return Row(
        name,
        a=round(statistics.median(a for a, _ in pairs), 4),
        b=round(statistics.median(b for _, b in pairs), 4),
        ratio=round(statistics.median(ratios), 4),
        spread=round(max(ratios) - min(ratios), 4),
        unit=unit,
        about=dict(about or {}),
    )


class Report:
    """bench.json in the making. What is written is whole at any moment, so that a run cut short leaves what it has."""

    def __init__(self, folder: Path, *, device: str, commit: str, about: Mapping[str, Any] | None = None) -> None:
        self._file = folder / "bench.json"
        self._head: dict[str, Any] = {"device": device, "commit": commit, **(about or {})}
        self._rows: dict[str, Row] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def put(self, row: Row) -> str:
        """Add a row, or put it in the place of an earlier one of its name; write the file, return a line to print."""
        self._rows[row.name] = row
        self._write()
        return f"{row.name}: {row.a:g} / {row.b:g} {row.unit} = {row.ratio:g} (spread {row.spread:g})"

    def _write(self) -> None:
        whole = {**self._head, "rows": [asdict(row) for row in self._rows.values()]}
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        partial.replace(self._file)


def name_cpu() -> str:
    """Return the processor's name and how many of its cores this process may use."""
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores"


def name_commit() -> str:
    """Return the short commit of the working tree, or "unknown" outside one."""
    try:
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return asked.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
