"""Data folders of coloured squares whose faces are written down: quick, and no face pack is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from face0_worker.learn.dataset import is_held_out
from face0_worker.learn.seen_faces import FACES, SeenFaces, digest_of
from face0_worker.learn.watching import Lines, Watch

EMBEDDER: dict[str, object] = {"name": "toy", "digest": "0" * 64, "dimension": 128}
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 190)}
WIDTH = 0.5  # of a face, in parts of the picture


def names(count: int, *, held_out: bool = False) -> list[str]:
    """Return the first `count` names of people who are held out, or who are not."""
    every = (f"person{number:04}" for number in range(10_000))
    chosen = (name for name in every if is_held_out(name) is held_out)
    return [next(chosen) for _ in range(count)]


def write_people(
    folder: Path, people: Sequence[str], *, views: int = 3, size: int = 64, card: Mapping[str, object] | None = None
) -> Path:
    """Write `views` pictures of each person, captions and card; of embeddings, row r has r + 1 in every place."""
    (folder / "images").mkdir(parents=True)
    files, lines = [], []
    for number, person in enumerate(people):
        for view in range(views):
            colour = list(COLOURS)[(number + view) % 3]
            file = f"images/{person}_{view}.png"
            picture = Image.new("RGB", (size, size), COLOURS[colour])
            picture.putpixel((0, 0), (number, view, 0))  # no two files are the same
            picture.save(folder / file)
            caption = f"a portrait of a person with short black hair wearing a {colour} turtleneck, white background"
            lines.append(json.dumps({"file": file, "person": person, "caption": caption}) + "\n")
            files.append(file)
    (folder / "people.jsonl").write_text("".join(lines))
    (folder / "card.json").write_text(json.dumps({"licence": "CC0-1.0"} if card is None else card))
    write_faces(folder, files)
    return folder


def write_faces(folder: Path, files: Sequence[str], widths: Mapping[str, float] | None = None) -> None:
    """Write the folder's faces.npz: a face in the middle of each picture, as wide as `widths` says; 0 for none."""
    wide = np.array([(widths or {}).get(file, WIDTH) for file in files], np.float32)
    embeddings = np.repeat(np.arange(1, len(files) + 1, dtype=np.float32)[:, None], 128, axis=1) * (wide > 0)[:, None]
    left = 0.5 - wide / 2
    boxes = np.stack([left, left, left + wide, left + wide], axis=1) * (wide > 0)[:, None]
    digests = tuple(digest_of(folder / file) for file in files)
    SeenFaces(digests, embeddings, boxes, EMBEDDER).save(folder / FACES)


def quiet(line: str) -> None:
    """Say nothing."""


QUIET = Watch(Lines(quiet))
