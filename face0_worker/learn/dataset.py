"""A folder of captioned portraits as arrays: what training reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from face0_worker.contract.errors import BadInput
from face0_worker.learn.captions import CSV, JSONL, read_rows

HELD_OUT_SHARE = 0.05
INDEX = "people.jsonl"
CARD = "card.json"
_NAMED = 5  # unreadable pictures that a message names


@dataclass(frozen=True)
class Portraits:
    """Captioned portraits of people, split by person so that nobody is in both halves.

    `pixels` is uint8 (n, size, size, 3) sRGB; `captions`, `people` and `files` have length n; `rows` int64 (n,) says
    which of the lines of all folders each is, `sides` int64 (n,) how many pixels wide it was on disk.
    """

    pixels: np.ndarray
    captions: tuple[str, ...]
    people: tuple[str, ...]
    files: tuple[str, ...]
    rows: np.ndarray
    sides: np.ndarray

    def __len__(self) -> int:
        return len(self.people)

    def subset(self, keep: np.ndarray) -> Portraits:
        """Return the portraits whose index is in `keep` (int64, any order)."""
        return Portraits(
            self.pixels[keep],
            tuple(self.captions[i] for i in keep),
            tuple(self.people[i] for i in keep),
            tuple(self.files[i] for i in keep),
            self.rows[keep],
            self.sides[keep],
        )

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices (int64) of pictures to learn from, and of those of held-out people."""
        held = np.array([is_held_out(person) for person in self.people], dtype=bool)
        return np.flatnonzero(~held), np.flatnonzero(held)


@dataclass(frozen=True)
class Line:
    """One captioned picture: `file` as its folder's index names it, `path` where it lies.

    Where the index does not say who is in the picture, `person` is the consent that the folder's card names, for that
    is one person's; else the file itself: each picture stands alone.
    """

    file: str
    path: Path
    person: str
    caption: str


def is_held_out(person: str, share: float = HELD_OUT_SHARE) -> bool:
    """Tell whether a person belongs to the held-out part: a pure function of the name."""
    digest = hashlib.sha256(person.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def read_index(folder: Path, say: Callable[[str], None] = lambda line: None) -> list[Line]:
    """Return the captioned pictures of a folder, in the order of its index.

    `people.jsonl`: a JSON object a line with `file`, `person` and `caption`; files lie beside it or in images/, and a
    last line without an end is still being written and is left out. Else `metadata.jsonl` or `metadata.csv` with
    `file_name` and `text`, and `person` where it is known; else every picture with a `.txt` of its name beside it:
    `say` counts the pictures without one.
    Raises: BadInput: the folder is none of these, names no picture, or a line of it misses a field or leads out of it.
    """
    if (folder / INDEX).is_file():
        return _people(folder)
    read = read_rows(folder)
    if read is None:
        raise BadInput(
            f"{folder} has no {INDEX}, {JSONL} or {CSV}, and no picture with a .txt beside it; training reads captions "
            "from one of these"
        )
    rows, bare = read
    if bare:
        say(f"{bare} pictures in {folder} have no caption beside them and are left out")
    whose = _consent(folder)
    lines = [_line(folder, where, {"person": whose, **row}, ("caption", "file")) for where, row in rows]
    if not lines:
        raise BadInput(f"{folder} names no picture")
    return lines


def _people(folder: Path) -> list[Line]:
    index = folder / INDEX
    try:
        written = index.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{index} can't be read as UTF-8 ({type(error).__name__})") from error
    lines = []
    for number, text in enumerate(written, start=1):
        where = f"{index} line {number}"
        try:
            row = json.loads(text)
        except ValueError as error:
            raise BadInput(f"{where} is not JSON") from error
        if not isinstance(row, dict):
            raise BadInput(f"{where} is not a JSON object")
        lines.append(_line(folder, where, row, ("caption", "file", "person")))
    if not lines:
        raise BadInput(f"{index} names no picture")
    return lines


def _consent(folder: Path) -> str:
    """Return the consent that a folder's card names; "" for none: what is wrong with a card is said where it counts."""
    try:
        return str(json.loads((folder / CARD).read_text(encoding="utf-8")).get("consent") or "").strip()
    except (OSError, ValueError, AttributeError):
        return ""


def _line(folder: Path, where: str, row: Mapping[str, object], needed: Sequence[str]) -> Line:
    missing = [name for name in needed if not isinstance(row.get(name), str)]
    if missing:
        raise BadInput(f"{where}: missing {', '.join(missing)}")
    file = str(row["file"])
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise BadInput(f"{where}: {file} leads out of the folder, whose card says nothing of what lies there")
    path = folder / file
    person = str(row.get("person") or file)
    return Line(file, path if path.is_file() else folder / "images" / file, person, str(row["caption"]))


def load_portraits(
    folders: Sequence[Path], size: int, say: Callable[[str], None] = lambda line: None
) -> tuple[Portraits, int]:
    """Read folders of captioned portraits as squares of `size` px, decoding on all cores; also return how many
    pictures are absent or damaged: `say` names them, and they are left out.

    Raises: BadInput: as read_index, or no picture at all can be read.
    """
    lines = [line for one in folders for line in read_index(one)]
    pixels = np.empty((len(lines), size, size, 3), dtype=np.uint8)

    def decode(number: int) -> int:
        try:
            square = read_square(lines[number].path)
        except BadInput:
            return 0
        resized = square if square.size == (size, size) else square.resize((size, size), Image.Resampling.LANCZOS)
        pixels[number] = np.asarray(resized, dtype=np.uint8)
        return square.width

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        sides = np.array(list(threads.map(decode, range(len(lines)))), np.int64)
    _tell([line for line, side in zip(lines, sides, strict=True) if not side], len(lines), say)
    rows = np.flatnonzero(sides)
    kept = [lines[row] for row in rows]
    portraits = Portraits(
        pixels if len(rows) == len(lines) else pixels[rows],
        tuple(line.caption for line in kept),
        tuple(line.person for line in kept),
        tuple(line.file for line in kept),
        rows,
        sides[rows],
    )
    return portraits, len(lines) - len(rows)


def readable(lines: Sequence[Line], say: Callable[[str], None], of: int) -> list[Line]:
    """Return the lines whose picture can be read, on all cores; `say` counts and names the others, of so many.

    Raises: BadInput: none of them can be read.
    """

    def sound(line: Line) -> bool:
        try:
            read_square(line.path)
        except BadInput:
            return False
        return True

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        good = list(threads.map(sound, lines))
    _tell([line for line, there in zip(lines, good, strict=True) if not there], of, say)
    return [line for line, there in zip(lines, good, strict=True) if there]


def _tell(damaged: Sequence[Line], of: int, say: Callable[[str], None]) -> None:
    if not damaged:
        return
    named = ", ".join(str(line.path) for line in damaged[:_NAMED])
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    if len(damaged) == of:
        raise BadInput(f"none of {of} pictures can be read: {named}{more}")
    say(f"{len(damaged)} of {of} pictures can't be read and are left out: {named}{more}")


def read_square(path: Path) -> Image.Image:
    """Return the middle square of a picture, upright, RGB. Raises: BadInput: it is absent or damaged."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        raise BadInput(f"{path} can't be read as a picture ({type(error).__name__})") from error
    side = min(image.size)
    if image.width == image.height:
        return image
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
