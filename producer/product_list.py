"""The files a product list comes in: CSV and JSONL, in the encodings that people have, as lines of named cells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from face0_worker.contract.errors import BadInput

KNOWN_COLUMNS = ("sku", "prompt", "negative_prompt", "seed", "width", "height", "steps", "guidance")


@dataclass(frozen=True)
class Line:
    """One line of a list: its number (from 1) and its cells by column name, all text, trimmed."""

    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a list, and where; `column` is empty when it is the whole line."""

    line: int
    column: str
    sentence: str

    def __str__(self) -> str:
        return f"line {self.line}" + (f", column {self.column}" if self.column else "") + f": {self.sentence}"


def read_lines(path: Path, problems: list[Problem]) -> Iterator[Line]:
    """Yield the lines of a list; a line that can not be read is added to `problems` and left out.

    Raises: BadInput: not a list at all: another kind of file, unreadable, columns not separated by commas.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise BadInput(f"{path.name}: a product list is a .csv or .jsonl file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"product list {path} can't be read: {error.strerror or type(error).__name__}") from error
    text = _decode(data, path)
    return _csv_lines(text, path, problems) if kind == ".csv" else _jsonl_lines(text, problems)


def _decode(data: bytes, path: Path) -> str:
    """UTF-8 with or without BOM, else Shift_JIS as Windows writes it."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        try:
            return data.decode("cp932")
        except UnicodeDecodeError:
            line = data.count(b"\n", 0, broken.start) + 1
            raise BadInput(
                f"{path.name}, line {line}: neither UTF-8 nor Shift_JIS; save the list as CSV UTF-8 and try again"
            ) from broken


def _csv_lines(text: str, path: Path, problems: list[Problem]) -> Iterator[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    number = 1
    try:
        for row in reader:
            start, number = number, reader.line_num + 1
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = _header(cells, path)
            elif len(cells) > len(header) and any(cells[len(header) :]):
                sentence = f"has {len(cells)} cells, but there are {len(header)} columns; put quotes around a comma"
                problems.append(Problem(start, "", sentence))
            else:
                yield Line(start, dict(zip(header, [*cells, *[""] * len(header)], strict=False)))
    except csv.Error as error:
        problems.append(Problem(reader.line_num, "", f"is not CSV ({error}); look for a quote that is not closed"))


def _header(cells: Sequence[str], path: Path) -> list[str]:
    names = [cell.lower() if cell.lower() in KNOWN_COLUMNS else cell for cell in cells]
    while names and not names[-1]:
        names.pop()
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise BadInput(f"{path.name}: the columns are not separated by commas; save the list as CSV with commas")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise BadInput(f"{path.name}: column {', '.join(twice)} is there twice; rename or remove one")
    return names


def _jsonl_lines(text: str, problems: list[Problem]) -> Iterator[Line]:
    # not splitlines(): it also splits at characters that may stand inside a JSON string
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            where = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            problems.append(Problem(number, "", f'is not JSON{where}; expected one object, as in {{"sku": "A1", ...}}'))
            continue
        except RecursionError:
            problems.append(Problem(number, "", "is nested too deeply; expected one flat object"))
            continue
        if not isinstance(values, dict):
            problems.append(Problem(number, "", 'is not an object; expected {"sku": "A1", "prompt": "..."}'))
            continue
        cells: dict[str, str] = {}
        for name, value in values.items():
            if isinstance(value, dict | list):
                problems.append(Problem(number, name, "is a list or object; expected text or a number"))
            elif value is not None:
                cells[name] = value.strip() if isinstance(value, str) else json.dumps(value)
        yield Line(number, cells)
