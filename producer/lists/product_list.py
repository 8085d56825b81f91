"""The lines of a product list (columns, sheet rows or JSON objects), one at a time, and what is wrong with them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput
from producer.lists.list_file import LONGEST_LINE, LineTooLong, ListFile, is_workbook, look_through, shown_name
from producer.lists.signs import hidden_sign, same_look
from producer.lists.workbook import WORKBOOKS, Row, Workbook, open_workbook

GUIDANCE_COLUMNS = ("guidance", "guidance_c", "guidance_a", "guidance_start", "guidance_stop")
OUTPUT_COLUMNS = ("frame", "output_width", "output_height", "fit")
KNOWN_COLUMNS = (
    *("sku", "prompt", "negative_prompt", "seed", "width", "height", "steps", "sampler"),
    *GUIDANCE_COLUMNS,
    *OUTPUT_COLUMNS,
)
COLUMNS, JSONL = (".csv", ".tsv", ".txt"), (".jsonl",)
SHOWN, MOST_PROBLEMS = 20, 1000
_LONGEST_OBJECT, _LONGEST_NAME, _MOST_COLUMNS = 1024 * 1024, 200, 1000  # characters, characters, columns
# no control characters, which str.strip() also takes: those are refused, not cut off
_BLANKS = " \t\r\n\u00a0\u3000"
_TITLES = 20  # rows that a sheet may have above its column names
_OBJECT = 'expected one object, as in {"sku": "A1", "prompt": "..."}'


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


@dataclass
class Problems:
    """What is wrong with a list: a count, and the first problems in words. Small, however wrong the list is."""

    count: int = 0
    shown: list[Problem] = field(default_factory=list)

    def add(self, line: int, column: str, sentence: str) -> None:
        """Note one more problem."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(Problem(line, column, sentence))

    @property
    def too_many(self) -> bool:
        """Whether reading on would help nobody."""
        return self.count >= MOST_PROBLEMS

    def said(self, name: str) -> str:
        """Return all of it as one message about the list of that name."""
        least = "at least " if self.too_many else ""
        count = "1 problem" if self.count == 1 else f"{least}{self.count:,} problems"
        said = [f"{name}: {count}; nothing was enqueued", *(f"  {problem}" for problem in self.shown)]
        if self.count > len(self.shown):
            said.append(f"  ... and {least}{self.count - len(self.shown):,} more")
        return "\n".join(said)


def open_list(path: Path, sheet: str = "") -> ListFile | Workbook:
    """Look through a list once. `sheet`: which one of a workbook; "": the first.

    Raises: BadInput: no product list by its name or its bytes, or unreadable.
    """
    if path.suffix.lower() not in (*COLUMNS, *JSONL, *WORKBOOKS, ".xls"):
        raise BadInput(
            f"{shown_name(path)}: a product list is a .csv, .jsonl or .xlsx file (also .tsv or .txt with columns)"
        )
    if is_workbook(path):
        return open_workbook(path, sheet)
    if sheet:
        raise BadInput(f"{shown_name(path)} is no Excel workbook and has no sheets; leave --sheet out")
    return look_through(path)


def read_lines(file: ListFile | Workbook, problems: Problems) -> Iterator[Line]:
    """Yield the lines of a list; a line that can not be read is added to `problems` and left out.

    Raises: BadInput: not a list at all: unreadable, changed meanwhile, column names that can't be used.
    """
    if isinstance(file, Workbook):
        yield from _sheet_rows(file, problems)
        return
    try:
        yield from _objects(file, problems) if file.path.suffix.lower() in JSONL else _rows(file, problems)
    except _TooLong as error:
        hint = "" if file.path.suffix.lower() in JSONL else "; look for a quote that is not closed"
        problems.add(error.line, "", f"goes on for more than {LONGEST_LINE:,} characters{hint}")


def _sheet_rows(book: Workbook, problems: Problems) -> Iterator[Line]:
    rows = book.rows()
    above: list[Row] = []
    for row in rows:
        above.append(row)
        if "sku" in map(column_name, row.cells) or len(above) == _TITLES:
            break
    names = next((row for row in reversed(above) if "sku" in map(column_name, row.cells)), None)
    names = names or next((row for row in above if any(cell.strip(_BLANKS) for cell in row.cells)), None)
    if names is None:
        return
    header = _header(names.cells, book)
    for row in chain([row for row in above if row.number > names.number], rows):
        if any(cell.strip(_BLANKS) for cell in row.cells[len(header) :]):
            problems.add(
                row.number, "", f"has cells beyond the {len(header)} columns that have names; name or clear them"
            )
            continue
        before = problems.count
        for place, sentence in row.wrong.items():
            if place < len(header):
                problems.add(row.number, header[place], sentence)
        if "sku" in header and header.index("sku") in row.dates:
            problems.add(row.number, "sku", "Excel has made a date of it; format the column as text and type it again")
        cells = [cell.strip(_BLANKS) for cell in row.cells[: len(header)]]
        if problems.count == before and any(cells):
            yield Line(row.number, dict(zip_longest(header, cells, fillvalue="")))


class _TooLong(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Feed:
    """Hands a file's lines to csv.reader and stops it when a record, quotes and all, grows too long."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.number, self.start, self._length = 0, 1, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except LineTooLong as error:
            raise _TooLong(self.start) from error
        self.number += 1
        self._length += len(line)
        if self._length > LONGEST_LINE:
            raise _TooLong(self.start)
        return line

    def next_record(self) -> None:
        """Begin a record with the next line."""
        self.start, self._length = self.number + 1, 0


def _rows(file: ListFile, problems: Problems) -> Iterator[Line]:
    # the csv module's limit is the process's: raised, never lowered, so that an overlong cell is told with its length
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    feed = _Feed(file.lines(newline=""))
    first = next((line for line in feed if line.strip(_BLANKS)), None)
    if first is None:
        return
    reader = csv.reader(chain([first], feed), delimiter=_separator(first), strict=True)
    try:
        header = _header(next(reader), file)
        feed.next_record()
        for row in reader:
            start = feed.start
            feed.next_record()
            if len(row) > len(header) and any(cell.strip(_BLANKS) for cell in row[len(header) :]):
                problems.add(
                    start,
                    "",
                    f"has {len(row):,} cells, but there are {len(header)} columns; put quotes around a cell that "
                    "holds a separator",
                )
                continue
            cells = [cell.strip(_BLANKS) for cell in row[: len(header)]]
            if any(cells):
                yield Line(start, dict(zip_longest(header, cells, fillvalue="")))
    except csv.Error as error:
        problems.add(feed.start, "", _broken(error))


def _broken(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "opens a quote that is never closed; close it, or remove it"
    if "expected after" in str(error):
        return (
            "has text after a closing quote; a quote inside a cell is written twice, and an earlier one may not be "
            "closed"
        )
    return f"can't be read in columns ({error})"


def _separator(header: str) -> str:
    """Commas; semicolons or tabs where only they give a column sku, or more columns than commas do."""

    def fits(separator: str) -> tuple[bool, int]:
        names = [column_name(cell) for cell in next(csv.reader([header], delimiter=separator), [])]
        return "sku" in names, len(names)

    return max(",;\t", key=fits)


def _header(row: Sequence[str], file: ListFile | Workbook) -> list[str]:
    if len(row) > _MOST_COLUMNS:
        raise BadInput(f"{file.name}: there are {len(row):,} columns; expected at most {_MOST_COLUMNS:,}")
    names = [column_name(cell) for cell in row]
    while names and not names[-1]:
        names.pop()
    for place, name in enumerate(names, start=1):
        if wrong := _wrong_name(name):
            raise BadInput(f"{file.name}: the name of column {place} {wrong}")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise BadInput(f"{file.name}: column {', '.join(twice)} is there twice; rename or remove one")
    return names


@lru_cache(maxsize=_MOST_COLUMNS)
def column_name(cell: str) -> str:
    """Return what a column is called that somebody wrote like this: in one width, the known ones in small letters."""
    name = same_look(cell.strip(_BLANKS))
    return name.casefold() if name.casefold() in KNOWN_COLUMNS else name


def _wrong_name(name: str) -> str:
    if len(name) > _LONGEST_NAME:
        return f"has {len(name):,} characters; expected at most {_LONGEST_NAME}"
    sign = hidden_sign(name)
    return f"holds the character {sign}; remove it" if sign else ""


def _objects(file: ListFile, problems: Problems) -> Iterator[Line]:
    feed = _Feed(file.lines(newline="\n"))  # other line ends may stand inside a JSON string
    for line in feed:
        number = feed.start
        feed.next_record()
        if len(line) > _LONGEST_OBJECT:
            problems.add(number, "", f"has {len(line):,} characters; expected at most {_LONGEST_OBJECT:,}")
        elif line.strip(_BLANKS) and (cells := _cells(line, number, problems)) is not None:
            yield Line(number, cells)


def _cells(line: str, number: int, problems: Problems) -> dict[str, str] | None:
    try:
        pairs = json.loads(line, object_pairs_hook=tuple)
    except ValueError as error:
        where = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        problems.add(number, "", f"is not JSON{where}; {_OBJECT}")
        return None
    except RecursionError:
        problems.add(number, "", "is nested too deeply; expected one flat object")
        return None
    if not isinstance(pairs, tuple):
        problems.add(number, "", f"is not an object; {_OBJECT}")
        return None
    cells: dict[str, str] = {}
    before = problems.count
    for written, value in pairs:
        name = column_name(written)
        if wrong := _wrong_name(name):
            problems.add(number, "", f"a name {wrong}")
        elif name in cells:
            problems.add(number, name, "is there twice; remove one")
        elif isinstance(value, tuple | list):
            problems.add(number, name, "is a list or object; expected text or a number")
        else:
            cells[name] = _as_text(value)
    return cells if problems.count == before else None


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value.strip(_BLANKS) if isinstance(value, str) else json.dumps(value)
