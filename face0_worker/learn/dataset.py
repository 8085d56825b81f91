"""A folder of captioned portraits as arrays: what training reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from face0_worker.contract.errors import BadInput

HELD_OUT_SHARE = 0.05
INDEX = "people.jsonl"


@dataclass(frozen=True)
class Portraits:
    """Captioned portraits of people, split by person so that nobody is in both halves.

    `pixels` is uint8 (n, size, size, 3) sRGB; `captions`, `people` and `files` have length n.
    """

    pixels: np.ndarray
    captions: tuple[str, ...]
    people: tuple[str, ...]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.people)

    def subset(self, keep: np.ndarray) -> Portraits:
        """Return the portraits whose index is in `keep` (int64, any order)."""
        return Portraits(
            self.pixels[keep],
            tuple(self.captions[i] for i in keep),
            tuple(self.people[i] for i in keep),
            tuple(self.files[i] for i in keep),
        )

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices (int64) of pictures to learn from, and of those of held-out people."""
        held = np.array([is_held_out(person) for person in self.people], dtype=bool)
        return np.flatnonzero(~held), np.flatnonzero(held)


@dataclass(frozen=True)
class Line:
    """One line of `people.jsonl`: `file` as it is written there, `path` where it lies."""

    file: str
    path: Path
    person: str
    caption: str


def is_held_out(person: str, share: float = HELD_OUT_SHARE) -> bool:
    """Tell whether a person belongs to the held-out part: a pure function of the name."""
    digest = hashlib.sha256(person.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def read_index(folder: Path) -> list[Line]:
    """Read `people.jsonl`: a JSON object a line with `file`, `person` and `caption`; files lie beside it or in images/.

    A last line without an end is still being written and is left out.
    Raises: BadInput: the folder has no `people.jsonl`, it names no picture, or a line of it misses a field.
    """
    index = folder / INDEX
    if not index.is_file():
        raise BadInput(f"{folder} has no {INDEX}; training reads one JSON object per picture from it")
    lines = []
    for number, text in enumerate(index.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            row = json.loads(text)
        except ValueError as error:
            raise BadInput(f"{index} line {number} is not JSON") from error
        missing = {"file", "person", "caption"} - row.keys()
        if missing:
            raise BadInput(f"{index} line {number}: missing {', '.join(sorted(missing))}")
        path = folder / row["file"]
        lines.append(
            Line(
                row["file"], path if path.is_file() else folder / "images" / row["file"], row["person"], row["caption"]
            )
        )
    if not lines:
        raise BadInput(f"{index} names no picture")
    return lines


def load_portraits(
    folder: Path | Sequence[Path], size: int, crop: tuple[int, int, int, int] | None = None
) -> Portraits:
    """Read one or several folders of captioned portraits as squares of `size` px, decoding on all cores.

    `crop` is (left, top, right, bottom) in source pixels.
    Raises: BadInput: as read_index, or a picture is absent or damaged.
    """
    folders = [folder] if isinstance(folder, Path) else list(folder)
    lines = [line for one in folders for line in read_index(one)]
    pixels = np.empty((len(lines), size, size, 3), dtype=np.uint8)

    def decode(number: int) -> None:
        pixels[number] = read_square(lines[number].path, size, crop)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(decode, range(len(lines))))
    captions, people = tuple(line.caption for line in lines), tuple(line.person for line in lines)
    return Portraits(pixels, captions, people, tuple(line.file for line in lines))


def read_square(path: Path, size: int, crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Return a picture as uint8 (size, size, 3) sRGB. Raises: BadInput: it is absent or damaged."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path} can't be read as a picture ({type(error).__name__})") from error
    if crop is not None:
        image = image.crop(crop)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.uint8)
