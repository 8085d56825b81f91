"""The sheets of an Excel workbook: which there are, and one's rows as the text that Excel shows, one row at a time."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from openpyxl import load_workbook
from openpyxl.utils import range_boundaries
from openpyxl.utils.exceptions import InvalidFileException

from face0_worker.contract.errors import BadInput
from producer.lists.list_file import opened, shown_name

WORKBOOKS = (".xlsx", ".xlsm")
# bytes when unpacked: a million products need a quarter of it, and a small file can unpack to anything
_LARGEST = 1024 * 1024 * 1024
_DIGITS = 10**15  # Excel keeps 15 digits of a number
_MOST_UNSAVED, _MOST_MERGES = 1000, 100_000
_ZEROS = re.compile(r"0+")
_DAMAGED = (
    zipfile.BadZipFile,
    InvalidFileException,
    ElementTree.ParseError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    EOFError,
    OSError,
    OverflowError,
)


@dataclass(frozen=True)
class Row:
    """One row: its number as Excel shows it, its cells as text, and what is wrong with cells, by their place from 0.

    `dates` are the places of cells that Excel holds as dates or times.
    """

    number: int
    cells: list[str]
    wrong: dict[int, str]
    dates: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Workbook:
    """A workbook that was looked through once. `sheet` is the one that is read; `sha256` is over the file's bytes."""

    path: Path
    sheet: str
    sha256: bytes
    _about: _Sheet = field(repr=False)

    @property
    def name(self) -> str:
        """File and sheet, for messages."""
        return f"{shown_name(self.path)}, sheet {self.sheet}"

    def rows(self) -> Iterator[Row]:
        """Yield the sheet's rows; a merged cell's value stands in each of its places.

        Raises: BadInput: damaged, or no longer the file that was looked through; noticed at the latest at its end.
        """
        try:
            with opened(self.path) as file:
                yield from self._read(file)
                file.seek(0)
                changed = _sha256(file) != self.sha256
        except _DAMAGED as error:
            raise BadInput(f"{self.name} can't be read ({type(error).__name__}); save it in Excel again") from error
        if changed:
            said = "was changed while it was being read; nothing was enqueued. Submit it again"
            raise BadInput(f"{shown_name(self.path)} {said}")

    def _read(self, file: BinaryIO) -> Iterator[Row]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Excel's extras that no list needs
            # bytes of our own position: openpyxl closes what it is given
            book = load_workbook(io.BufferedReader(_Kept(file)), read_only=True, data_only=True, keep_links=False)
        with closing(book):
            sheet = book[self.sheet]
            sheet.reset_dimensions()  # other programs write wrong ones, and rows beyond them would be left out
            merges = _Merges(self._about.merges)
            for number, cells in enumerate(sheet.iter_rows(), start=1):
                texts, wrong = [], {}
                for place, cell in enumerate(cells):
                    text, sentence = _shown(cell)
                    if sentence or (number, place + 1) in self._about.unsaved:
                        wrong[place] = sentence or (
                            "holds a formula whose result was never saved; open the workbook in Excel and save it"
                        )
                    texts.append(text)
                dates = frozenset(place for place, cell in enumerate(cells) if isinstance(cell.value, date | time))
                yield Row(number, merges.spread(number, texts), wrong, dates)


@dataclass(frozen=True)
class _Sheet:
    """What openpyxl does not tell row by row: merged cells (row, column, last row, last column), and formulas without
    a result (row, column)."""

    merges: tuple[tuple[int, int, int, int], ...] = ()
    unsaved: frozenset[tuple[int, int]] = frozenset()


def open_workbook(path: Path, sheet: str = "") -> Workbook:
    """Look through a workbook once. `sheet`: its name; "": the first that is not hidden.

    Raises: BadInput: no workbook, damaged, with a password, too large when unpacked, or no sheet of that name.
    """
    name = shown_name(path)
    with opened(path) as file:
        sha256 = _sha256(file)
        try:
            with zipfile.ZipFile(io.BufferedReader(_Kept(file))) as packed:
                if sum(part.file_size for part in packed.infolist()) > _LARGEST:
                    raise BadInput(f"{name} unpacks to more than 1 GiB; save the list as CSV UTF-8 and submit that")
                parts = _sheets(packed)
                chosen = sheet or next((one for one, (_, hidden) in parts.items() if not hidden), "")
                if chosen not in parts:
                    there = ", ".join(one for one, (_, hidden) in parts.items() if not hidden) or "none"
                    raise BadInput(f"{name} has no sheet {sheet!r}; its sheets are {there}")
                return Workbook(path, chosen, sha256, _survey(packed, parts[chosen][0]))
        except _DAMAGED as error:
            raise BadInput(f"{name} is damaged, or no Excel workbook; save it in Excel again") from error


_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_LINKS = "{http://schemas.openxmlformats.org/package/2006/relationships}"


def _sheets(packed: zipfile.ZipFile) -> dict[str, tuple[str, bool]]:
    """Return each sheet's part of the file and whether it is hidden, by name, in the workbook's order."""
    links = ElementTree.fromstring(packed.read("xl/_rels/workbook.xml.rels"))
    target = {link.attrib["Id"]: link.attrib["Target"] for link in links.iter(f"{_LINKS}Relationship")}
    found = {}
    for sheet in ElementTree.fromstring(packed.read("xl/workbook.xml")).iter(f"{_MAIN}sheet"):
        part = target[sheet.attrib[_RELATION]]
        if "chartsheet" in part:
            continue
        where = part.lstrip("/") if part.startswith("/") else f"xl/{part}"
        found[sheet.attrib["name"]] = (where, sheet.attrib.get("state", "visible") != "visible")
    return found


def _survey(packed: zipfile.ZipFile, part: str) -> _Sheet:
    merges: list[tuple[int, int, int, int]] = []
    unsaved: set[tuple[int, int]] = set()
    with packed.open(part) as stream:
        rows = None
        for event, node in ElementTree.iterparse(stream, ("start", "end")):
            if event == "start":
                rows = node if node.tag == f"{_MAIN}sheetData" else rows
            elif node.tag == f"{_MAIN}c":
                value = node.find(f"{_MAIN}v")
                formula = node.find(f"{_MAIN}f") is not None
                if formula and (value is None or value.text is None) and node.get("t") != "str":
                    unsaved.add(_place(node.attrib["r"])[:2])
            elif node.tag == f"{_MAIN}mergeCell":
                merges.append(_place(node.attrib["ref"]))
            elif node.tag == f"{_MAIN}row" and rows is not None:
                rows.clear()  # a million rows need not stay
            if len(merges) > _MOST_MERGES:
                raise ValueError(f"more than {_MOST_MERGES} merged cells")
            if len(unsaved) >= _MOST_UNSAVED:
                break
    return _Sheet(tuple(sorted(merges)), frozenset(unsaved))


def _place(reference: str) -> tuple[int, int, int, int]:
    left, top, right, bottom = range_boundaries(reference)
    return int(top or 1), int(left or 1), int(bottom or 1), int(right or 1)


class _Merges:
    """Writes a merged cell's value, which Excel keeps in its first place only, into its other places."""

    def __init__(self, merges: tuple[tuple[int, int, int, int], ...]) -> None:
        self._coming = list(reversed(merges))
        self._open: list[tuple[int, int, int, str]] = []

    def spread(self, number: int, cells: list[str]) -> list[str]:
        """Return the cells of row `number` with the merged ones filled; rows come in their order."""
        self._open = [merge for merge in self._open if merge[0] >= number]
        while self._coming and self._coming[-1][0] <= number:
            _, left, bottom, right = self._coming.pop()
            if left <= len(cells) and cells[left - 1]:
                self._open.append((bottom, left, right, cells[left - 1]))
        for _, left, right, value in self._open:
            cells.extend([""] * (right - len(cells)))
            cells[left - 1 : right] = [value] * (right - left + 1)
        return cells


def _shown(cell: Any) -> tuple[str, str]:
    """Return a cell's text and what is wrong with it ("" for nothing)."""
    value = cell.value
    if value is None:
        return "", ""
    if cell.data_type == "e":
        return "", f"holds Excel's error {value}; mend the formula"
    if isinstance(value, bool):
        return str(value).upper(), ""
    if isinstance(value, int | float):
        return _number(value, str(cell.number_format))
    if isinstance(value, datetime):
        whole = value.isoformat(" ", "seconds" if value.second else "minutes")
        return (str(value.date()) if value.time() == time() else whole), ""
    if isinstance(value, date | time | timedelta):
        return str(value), ""
    return str(value), ""


def _number(value: int | float, form: str) -> tuple[str, str]:
    if abs(value) >= _DIGITS:
        return "", "has more than 15 digits, of which Excel keeps 15; format the column as text and type it again"
    if "%" in form:
        return f"{value * 100:.15g}%", ""
    if _ZEROS.fullmatch(form) and value >= 0 and float(value).is_integer():
        return f"{int(value):0{len(form)}d}", ""  # 00123 is typed as 123 and shown with a format of zeros
    return f"{value:.15g}" if not float(value).is_integer() else str(int(value)), ""


def _sha256(file: BinaryIO) -> bytes:
    made = hashlib.sha256()
    while data := file.read(1024 * 1024):
        made.update(data)
    return made.digest()


class _Kept(io.RawIOBase):
    """A file that stays open when its reader is closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)
