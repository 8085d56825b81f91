"""Files with something of a person in the clear, which somebody asked to look at: readable by their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from face0_worker.contract.errors import BadInput


def write_private(file: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file of mode 0600 and its folder. Raises: BadInput: it can't be, or is there and not to be replaced."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if replace:  # a new file: one that was there keeps its mode
            file.unlink(missing_ok=True)
        with open(file, "xb", opener=_private) as opened:
            opened.write(data)
    except FileExistsError as error:
        raise BadInput(f"{file} exists already; name another file with --to") from error
    except OSError as error:
        raise BadInput(f"{file} can't be written: {error.strerror}; choose another place with --to") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
