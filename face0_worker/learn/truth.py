"""Rendered people as evaluation reads them: each picture with its person, its caption and what is truly on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from face0_worker.contract.errors import BadInput

INDEX = "people.jsonl"
# an attribute with more values than this is a measurement or a name, not a class
MOST_VALUES = 40


@dataclass(frozen=True)
class Picture:
    """One rendered picture. `truth` holds what it was rendered from; its names and values are the data's own."""

    file: Path
    person: str
    view: int
    caption: str
    truth: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def open(self) -> Image.Image:
        """Return the picture, RGB. Raises: BadInput: the file is absent or damaged."""
        try:
            with Image.open(self.file) as opened:
                return opened.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadInput(f"{self.file} can't be read as a picture ({type(error).__name__})") from error


def read_pictures(folder: Path) -> tuple[Picture, ...]:
    """Return the pictures of a folder that `face0-worker people` made, in the order of its people.jsonl.

    A last line without an end is being written just now, and is left for later.
    Raises: BadInput: there is no people.jsonl, it names no picture, or a line of it is not of the form.
    """
    index = folder / INDEX
    if not index.is_file():
        raise BadInput(f"{folder} has no {INDEX}; evaluation reads a folder that `face0-worker people` made")
    lines = index.read_text(encoding="utf-8").split("\n")
    pictures = tuple(_picture(index, number, line) for number, line in enumerate(lines[:-1], 1) if line.strip())
    if not pictures:
        raise BadInput(f"{index} names no picture")
    return pictures


def _picture(index: Path, number: int, line: str) -> Picture:
    try:
        row = json.loads(line)
        file, person, caption, truth = (row[name] for name in ("file", "person", "caption", "truth"))
        told = Picture(index.parent / str(file), str(person), int(row.get("view", 0)), str(caption), dict(truth))
    except KeyError as error:
        raise BadInput(f"{index} line {number}: missing {error.args[0]}") from error
    except (ValueError, TypeError) as error:
        raise BadInput(f"{index} line {number}: expected an object with file, person, caption and truth") from error
    return told


def attribute_values(pictures: Sequence[Picture]) -> dict[str, tuple[Any, ...]]:
    """Return each attribute of the truth that names a class, with its values in order: texts, and yes or no.

    Only attributes that every picture tells and that differ somewhere; numbers and lists are no classes.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for name in pictures[0].truth if pictures else ():
        told = [picture.truth.get(name) for picture in pictures]
        kinds = {type(value) for value in told}
        if kinds in ({str}, {bool}) and 2 <= len(set(told)) <= MOST_VALUES:
            found[name] = tuple(sorted(set(told)))
    return found


def by_person(pictures: Sequence[Picture]) -> dict[str, tuple[Picture, ...]]:
    """Return each person's pictures by view, people in the order of their names."""
    mine: dict[str, list[Picture]] = {}
    for picture in pictures:
        mine.setdefault(picture.person, []).append(picture)
    return {person: tuple(sorted(mine[person], key=lambda one: one.view)) for person in sorted(mine)}
