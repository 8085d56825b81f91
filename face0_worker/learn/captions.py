"""Folders of captioned pictures as people have them: metadata.jsonl, metadata.csv, or a .txt beside each picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput

# by the names that Hugging Face's image folders have
JSONL, CSV = "metadata.jsonl", "metadata.csv"
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_NAMES = {"file": ("file", "file_name", "image"), "caption": ("caption", "text", "prompt"), "person": ("person",)}

Row = tuple[str, Mapping[str, Any]]
"""Where it is written, for messages; and `file`, `caption` and, where it is said, `person`."""


def read_rows(folder: Path) -> tuple[list[Row], int] | None:
    """Return a row for each captioned picture of a folder without `people.jsonl`, and how many have no caption.

    None where it holds no such thing. Raises: BadInput: a file can't be read, or a line is no JSON object.
    """
    if (folder / JSONL).is_file():
        return _json_rows(folder / JSONL), 0
    if (folder / CSV).is_file():
        return _csv_rows(folder / CSV), 0
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    rows = [_beside(folder, path) for path in pictures]
    told = [row for row in rows if row is not None]
    return (told, len(rows) - len(told)) if told else None


def _json_rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{where} is not JSON") from error
        if not isinstance(row, dict):
            raise BadInput(f"{where} is not a JSON object")
        rows.append((where, _named(row)))
    return rows


def _csv_rows(path: Path) -> list[Row]:
    try:
        lines = list(csv.DictReader(_text(path).splitlines(keepends=True)))
    except csv.Error as error:
        raise BadInput(f"{path} can't be read as CSV ({error})") from error
    return [(f"{path} row {number}", _named(row)) for number, row in enumerate(lines, start=1)]


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return file, caption and person under these names; those that are not said are absent."""
    found = {name: next((row[one] for one in others if row.get(one)), None) for name, others in _NAMES.items()}
    return {name: value for name, value in found.items() if value is not None}


def _beside(folder: Path, picture: Path) -> Row | None:
    said = picture.with_suffix(".txt")
    caption = " ".join(_text(said).split()) if said.is_file() else ""
    if not caption:
        return None
    return str(said), {"file": picture.relative_to(folder).as_posix(), "caption": caption}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} can't be read as UTF-8 text ({type(error).__name__})") from error
