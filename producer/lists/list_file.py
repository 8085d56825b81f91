"""The bytes of a product list: which encoding they are in, and their text a line at a time, however large the file."""

from __future__ import annotations

import codecs
import hashlib
import io
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from face0_worker.contract.errors import BadInput

# In characters. No cell may have more than 2,000; what is far longer is a quote that was never closed, and is not read.
LONGEST_LINE = 16 * 1024 * 1024
_CHUNK = 1024 * 1024
_ADVICE = "save the list as CSV UTF-8 and submit that"
_SAVE_AS = "in Excel choose Save As, Excel Workbook (.xlsx), without a password, and submit that file"
_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
# Kana, Japanese signs and wide letters, or several Japanese signs side by side: Western text in a Windows code page
# also decodes as Shift_JIS, but to single kanji between Latin letters.
_JAPANESE = re.compile(r"[\u3001-\u30ff\uff01-\uff5e]|[\u4e00-\u9fff]{2}|[\uff61-\uff9f]{3}")


def is_workbook(path: Path) -> bool:
    """Whether a file's name and bytes are those of an .xlsx workbook. Raises: BadInput: it can't be read."""
    if path.suffix.lower() not in (".xlsx", ".xlsm"):
        return False
    with opened(path) as file:
        head = file.read(len(_ZIP))
    if not head.startswith((_ZIP, _OLE)):
        raise BadInput(f"{shown_name(path)} is no Excel workbook by its bytes; rename it to end in .csv if it is text")
    return head == _ZIP


class LineTooLong(Exception):
    """A line goes on beyond LONGEST_LINE; the rest of the file can't be read in lines."""


@dataclass(frozen=True)
class ListFile:
    """A file that was looked through once and is text. `encoding` is Python's name; `sha256` is over its bytes."""

    path: Path
    encoding: str
    sha256: bytes

    @property
    def name(self) -> str:
        """The file's name without its folder, for messages."""
        return shown_name(self.path)

    def lines(self, newline: str) -> Iterator[str]:
        """Yield the text's lines with their ends; `newline` as in `open`. Never holds more than one line.

        Raises: LineTooLong. BadInput: can't be read, or the file is no longer the one that was looked through; this
        is noticed at the latest at its end.
        """
        with opened(self.path) as file:
            hashed = _Hashed(file)
            text = io.TextIOWrapper(io.BufferedReader(hashed, _CHUNK), self.encoding, newline=newline)
            try:
                line = text.readline(LONGEST_LINE + 1).removeprefix("\ufeff")
                while line:
                    if len(line) > LONGEST_LINE:
                        raise LineTooLong
                    yield line
                    line = text.readline(LONGEST_LINE + 1)
            except UnicodeDecodeError as error:
                raise self._changed() from error
            finally:
                text.detach().detach()
            if hashed.sha256.digest() != self.sha256:
                raise self._changed()

    def _changed(self) -> BadInput:
        return BadInput(f"{self.name} was changed while it was being read; nothing was enqueued. Submit it again")


def look_through(path: Path) -> ListFile:
    """Read the whole file once, in bounded memory, and return what it is.

    Text is UTF-8, UTF-16 with its mark, or Shift_JIS as Windows writes it.
    Raises: BadInput: can't be read; an Excel workbook; text in another encoding, or no text, and in which line.
    """
    with opened(path) as file:
        head = file.read(8)
        _refuse_what_is_no_text(head, path)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            little = head.startswith(codecs.BOM_UTF16_LE)
            return _as(file, path, "utf-16-le" if little else "utf-16-be", "UTF-16, as its first bytes say")
        if head.startswith(codecs.BOM_UTF8):
            return _as(file, path, "utf-8", "UTF-8, as its first bytes say")
        try:
            return _as(file, path, "utf-8", "UTF-8")
        except _NotIn as utf8:
            return _shift_jis(file, path, utf8.line)


def shown_name(path: Path) -> str:
    """Return a file's name with its unprintable characters escaped, so that it can't disturb a terminal."""
    return path.name if path.name.isprintable() else repr(path.name)[1:-1]


class _NotIn(BadInput):
    """The bytes are not in this encoding from this line on."""

    def __init__(self, sentence: str, line: int) -> None:
        super().__init__(sentence)
        self.line = line


class _Hashed(io.RawIOBase):
    """A file whose sha256 is taken of whatever is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        data = self._file.read(len(view))
        view[: len(data)] = data
        self.sha256.update(data)
        return len(data)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a list's bytes. Raises: BadInput: no file, or it can't be read."""
    try:
        # a pipe can't be read twice, and opening one would wait for its writer
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadInput(f"product list {path} is not a file; save the list to a file and submit that")
        with path.open("rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise BadInput(f"product list {path} can't be read: {error.strerror or type(error).__name__}") from error


def _refuse_what_is_no_text(head: bytes, path: Path) -> None:
    name = shown_name(path)
    if head.startswith(_OLE):
        raise BadInput(f"{name} is an Excel workbook of the old kind, or has a password; {_SAVE_AS}")
    if head.startswith(_ZIP):
        raise BadInput(f"{name} is an Excel workbook by its bytes; rename it to end in .xlsx")
    if path.suffix.lower() == ".xls":
        raise BadInput(f"{name} is no Excel workbook by its bytes; rename it to end in .csv if it holds columns")
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise BadInput(f"{name} is UTF-32; {_ADVICE}")
    zeros = [byte == 0 for byte in head[:4]]
    if zeros in ([False, True] * 2, [True, False] * 2):
        raise BadInput(f"{name} looks like UTF-16 without the mark that begins it; {_ADVICE}")


def _as(file: BinaryIO, path: Path, encoding: str, meaning: str) -> ListFile:
    """Raises: _NotIn: some line is not in this encoding."""
    sha256, decoder, line = hashlib.sha256(), codecs.getincrementaldecoder(encoding)(), 1
    file.seek(0)
    while True:
        data = file.read(_CHUNK)
        sha256.update(data)
        try:
            line += decoder.decode(data, final=not data).count("\n")
        except UnicodeDecodeError as broken:
            line += broken.object[: broken.start].decode(encoding, "ignore").count("\n")
            raise _NotIn(f"{shown_name(path)}, line {line}: is not {meaning}; {_ADVICE}", line) from broken
        if not data:
            return ListFile(path, encoding, sha256.digest())


def _shift_jis(file: BinaryIO, path: Path, bad_line: int) -> ListFile:
    """What is not UTF-8 is Shift_JIS if it can be nothing else; a wrong guess would render wrong words."""
    name = shown_name(path)
    if _decodes(file, "euc_jp"):
        raise BadInput(f"{name} may be EUC-JP, which is not read here; {_ADVICE}")
    neither = f"{name}, line {bad_line}: neither UTF-8 nor Shift_JIS; {_ADVICE}"
    try:
        found = _as(file, path, "cp932", "Shift_JIS")
    except _NotIn as error:
        raise BadInput(neither) from error
    if not _decodes(file, "cp932", _JAPANESE):
        raise BadInput(neither)
    return found


def _decodes(file: BinaryIO, encoding: str, holding: re.Pattern[str] | None = None) -> bool:
    """Return whether the file is in this encoding, and, if so asked, holds such text."""
    decoder = codecs.getincrementaldecoder(encoding)()
    file.seek(0)
    found = holding is None
    try:
        while data := file.read(_CHUNK):
            text = decoder.decode(data)
            found = found or bool(holding and holding.search(text))
            if holding is not None and found:
                return True
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return found
