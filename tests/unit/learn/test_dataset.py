"""What training reads, who is kept out of it, and what a damaged picture does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from face0_worker.contract.errors import BadInput
from face0_worker.learn.dataset import is_held_out, load_portraits, read_index, read_square


def _folder(tmp_path: Path, *rows: object) -> Path:
    for number, row in enumerate(rows):
        if isinstance(row, dict) and "file" in row:
            Image.new("RGB", (40, 60), (number, 100, 200)).save(tmp_path / row["file"])
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def _rows(count: int) -> list[dict[str, str]]:
    return [{"file": f"{n}.png", "person": f"p{n}", "caption": f"c{n}"} for n in range(count)]


def test_pictures_become_squares_of_one_size_and_keep_how_wide_they_were(tmp_path: Path) -> None:
    portraits, unreadable = load_portraits([_folder(tmp_path, *_rows(2))], 16)
    assert portraits.pixels.shape == (2, 16, 16, 3)
    assert portraits.pixels[:, 0, 0, 0].tolist() == [0, 1]
    assert portraits.captions == ("c0", "c1")
    assert portraits.sides.tolist() == [40, 40]
    assert unreadable == 0


def test_a_picture_is_cut_to_its_middle_square_and_never_stretched(tmp_path: Path) -> None:
    tall = np.zeros((60, 40, 3), np.uint8)
    tall[10:50] = 255
    Image.fromarray(tall).save(tmp_path / "tall.png")
    assert np.asarray(read_square(tmp_path / "tall.png")).min() == 255


def test_a_picture_that_lies_on_its_side_is_put_upright(tmp_path: Path) -> None:
    lying = Image.new("RGB", (40, 40))
    lying.paste((255, 255, 255), (0, 0, 40, 20))
    exif = lying.getexif()
    exif[0x0112] = 3  # upside down
    lying.save(tmp_path / "lying.png", exif=exif)
    assert np.asarray(read_square(tmp_path / "lying.png"))[0, 0, 0] == 0


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"file": "b.png", "person": "p"}, "line 2: missing caption"),
        ({"file": "b.png", "person": 7, "caption": "c"}, "line 2: missing person"),
        ([1], "line 2 is not a JSON object"),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_named(tmp_path: Path, row: object, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        read_index(_folder(tmp_path, {"file": "a.png", "person": "p", "caption": "c"}, row))


def test_a_last_line_without_an_end_is_still_being_written(tmp_path: Path) -> None:
    folder = _folder(tmp_path, *_rows(2))
    with (folder / "people.jsonl").open("a") as index:
        index.write('{"file": "2.png", "per')
    assert [line.file for line in read_index(folder)] == ["0.png", "1.png"]


@pytest.mark.parametrize("written", [None, b"\xff\xfe\x00bad\n", b""])
def test_a_folder_without_a_readable_index_is_refused(tmp_path: Path, written: bytes | None) -> None:
    if written is not None:
        (tmp_path / "people.jsonl").write_bytes(written)
    with pytest.raises(BadInput, match=r"people\.jsonl"):
        load_portraits([tmp_path], 16)


def test_damaged_truncated_and_absent_pictures_are_counted_named_and_left_out(tmp_path: Path) -> None:
    folder = _folder(tmp_path, *_rows(5))
    (folder / "1.png").write_bytes(b"no picture")
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "3.png").unlink()
    told: list[str] = []
    portraits, unreadable = load_portraits([folder], 8, told.append)
    assert portraits.files == ("0.png", "4.png")
    assert portraits.rows.tolist() == [0, 4]
    assert portraits.pixels[:, 0, 0, 0].tolist() == [0, 4]
    assert unreadable == 3
    assert told[0].startswith("3 of 5 pictures can't be read")
    assert all(f"{n}.png" in told[0] for n in (1, 2, 3))


def test_a_folder_in_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, *_rows(1))
    (folder / "0.png").write_bytes(b"")
    with pytest.raises(BadInput, match="none of 1 pictures can be read"):
        load_portraits([folder], 8)


def test_about_a_twentieth_of_the_people_are_held_out_and_always_the_same() -> None:
    people = [f"person-{n}" for n in range(4000)]
    held = [person for person in people if is_held_out(person)]
    assert 0.035 < len(held) / len(people) < 0.065
    assert held[:3] == ["person-3", "person-4", "person-48"]  # in every release: models were trained on the others


def test_a_subset_keeps_rows_together(tmp_path: Path) -> None:
    chosen = load_portraits([_folder(tmp_path, *_rows(3))], 8)[0].subset(np.array([2, 0]))
    assert chosen.people == ("p2", "p0")
    assert chosen.captions == ("c2", "c0")
    assert chosen.rows.tolist() == [2, 0]
    assert chosen.pixels[:, 0, 0, 0].tolist() == [2, 0]
