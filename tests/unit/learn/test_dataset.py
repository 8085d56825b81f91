"""What training reads, and who is kept out of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from face0_worker.contract.errors import BadInput
from face0_worker.learn.dataset import is_held_out, load_portraits


def _folder(tmp_path: Path, *rows: dict[str, str]) -> Path:
    for number, row in enumerate(rows):
        if "file" in row:
            Image.new("RGB", (40, 60), (number, 100, 200)).save(tmp_path / row["file"])
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_pictures_are_cropped_and_resized(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {"file": "a.png", "person": "p", "caption": "a portrait"})
    portraits = load_portraits(folder, 16, (0, 10, 40, 50))
    assert portraits.pixels.shape == (1, 16, 16, 3)
    assert portraits.captions == ("a portrait",)


def test_a_line_without_a_caption_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {"file": "a.png", "person": "p", "caption": "c"}, {"file": "b.png", "person": "p"})
    with pytest.raises(BadInput, match="line 2: missing caption"):
        load_portraits(folder, 16)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"people\.jsonl"):
        load_portraits(tmp_path, 16)


def test_about_a_twentieth_of_the_people_are_held_out_and_always_the_same() -> None:
    people = [f"person-{n}" for n in range(4000)]
    held = [person for person in people if is_held_out(person)]
    assert 0.035 < len(held) / len(people) < 0.065
    assert held == [person for person in people if is_held_out(person)]


def test_a_subset_keeps_rows_together(tmp_path: Path) -> None:
    rows = [{"file": f"{n}.png", "person": f"p{n}", "caption": f"c{n}"} for n in range(3)]
    chosen = load_portraits(_folder(tmp_path, *rows), 8).subset(np.array([2, 0]))
    assert chosen.people == ("p2", "p0")
    assert chosen.captions == ("c2", "c0")
