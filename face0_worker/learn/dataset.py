"""A folder of captioned portraits as arrays: what training reads."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from face0_worker.contract.errors import BadInput

HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class Portraits:
    """Captioned portraits of people, split by person so that nobody is in both halves.

    `pixels` is uint8 (n, size, size, 3) sRGB; `captions` and `people` have length n.
    """

    pixels: np.ndarray
    captions: tuple[str, ...]
    people: tuple[str, ...]

    def subset(self, keep: np.ndarray) -> Portraits:
        """Return the portraits whose index is in `keep` (int64, any order)."""
        return Portraits(
            self.pixels[keep],
            tuple(self.captions[i] for i in keep),
            tuple(self.people[i] for i in keep),
        )


def is_held_out(person: str, share: float = HELD_OUT_SHARE) -> bool:
    """Tell whether a person belongs to the held-out part: a pure function of the name."""
    digest = hashlib.sha256(person.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def load_portraits(folder: Path, size: int, crop: tuple[int, int, int, int] | None = None) -> Portraits:
    """Read `people.jsonl` and its pictures; `crop` (left, top, right, bottom) in source pixels.

    Each line of `people.jsonl` is an object with `file`, `person` and `caption`; the files lie
    beside it or in `images/`.

    Raises: BadInput: the folder has no `people.jsonl`, or a line of it misses a field.
    """
    index = folder / "people.jsonl"
    if not index.is_file():
        raise BadInput(f"{folder} has no people.jsonl; training reads one JSON object per picture from it")
    pixels, captions, people = [], [], []
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        missing = {"file", "person", "caption"} - row.keys()
        if missing:
            raise BadInput(f"{index} line {number}: missing {', '.join(sorted(missing))}")
        path = folder / row["file"]
        if not path.is_file():
            path = folder / "images" / row["file"]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        if crop is not None:
            image = image.crop(crop)
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.LANCZOS)
        pixels.append(np.asarray(image, dtype=np.uint8))
        captions.append(row["caption"])
        people.append(row["person"])
    if not pixels:
        raise BadInput(f"{index} names no picture")
    return Portraits(np.stack(pixels), tuple(captions), tuple(people))
