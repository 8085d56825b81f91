"""What reaches the disk, and when."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def sync(path: Path) -> None:
    """Force a file's contents, or the names in a folder, to the disk; after a power cut they are there."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_secret(path: Path, data: bytes) -> bool:
    """Write a file of mode 0600, whole and on the disk, unless it exists; return whether it was written."""
    staged = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    number = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(staged, path)
    except FileExistsError:
        return False
    finally:
        staged.unlink(missing_ok=True)
        sync(path.parent)
    return True
