"""What was measured of a model on this machine's device: kept in the home folder, offered by the worker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from face0_worker.contract.errors import BadInput
from face0_worker.contract.pace import Pace, read_paces


def calibration_file(home: Path, digest: str, precision: str) -> Path:
    """Return where the paces of a model in a precision are kept."""
    return home / "calibration" / f"{digest[:16]}-{precision}.json"


def keep(file: Path, device: str, paces: Sequence[Pace]) -> None:
    """Keep these paces, beside those of other sizes that the same device has. Raises: BadInput: it can't be written."""
    of_size = {(pace.width, pace.height): pace for pace in [*recall(file, device), *paces]}
    whole = {"device": device, "paces": [of_size[size].to_json() for size in sorted(of_size)]}
    fresh = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        fresh.replace(file)
    except OSError as error:
        raise BadInput(f"{file} can't be written: {error.strerror}; name another home with FACE0_HOME") from error


def recall(file: Path, device: str) -> tuple[Pace, ...]:
    """Return what was measured; nothing when it was on another device, or never."""
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    if not isinstance(whole, dict) or whole.get("device") != device:
        return ()
    return read_paces(whole)
