"""Folders of captioned pictures as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from face0_worker.contract.errors import BadInput
from face0_worker.learn.dataset import read_index
from face0_worker.learn.sources import read_source


def _pictures(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / file)
    return folder


def test_a_text_beside_each_picture_is_its_caption_and_pictures_without_one_are_counted(tmp_path: Path) -> None:
    folder = _pictures(tmp_path, "a.png", "deep/b.JPG", "c.webp", "d.png")
    (folder / "a.txt").write_text("﻿a man\n in  red \n", encoding="utf-8")
    (folder / "deep" / "b.txt").write_text("a woman", encoding="utf-8")
    (folder / "d.txt").write_text(" \n")
    told: list[str] = []
    lines = read_index(folder, told.append)
    assert [(line.file, line.caption) for line in lines] == [("a.png", "a man in red"), ("deep/b.JPG", "a woman")]
    assert [line.person for line in lines] == ["a.png", "deep/b.JPG"]  # nobody says who it is: each stands alone
    assert lines[1].path == folder / "deep" / "b.JPG"
    assert len(told) == 1
    assert told[0].startswith("2 pictures in ")


def test_pictures_under_a_consent_are_all_of_the_one_person_who_gave_it(tmp_path: Path) -> None:
    folder = _pictures(tmp_path, "a.png", "b.png")
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text("a woman")
    (folder / "card.json").write_text('{"consent": "c-1"}')
    asked: list[str] = []
    read_source(folder, asked.append)
    assert asked == ["c-1"]
    assert len({line.person for line in read_index(folder)}) == 1


@pytest.mark.parametrize("end", ["", "\n"])
def test_metadata_in_json_lines_is_read_to_its_end(tmp_path: Path, end: str) -> None:
    folder = _pictures(tmp_path, "a.png", "b.png")
    rows = [{"file_name": "a.png", "text": "one", "person": "ann"}, {"file_name": "b.png", "caption": "two"}]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + end)
    lines = read_index(folder)
    assert [(line.file, line.caption, line.person) for line in lines] == [
        ("a.png", "one", "ann"),
        ("b.png", "two", "b.png"),
    ]


def test_metadata_in_csv_is_read_with_its_commas_and_line_ends(tmp_path: Path) -> None:
    folder = _pictures(tmp_path, "a.png", "b.png")
    (folder / "metadata.csv").write_text('file_name,text,person\na.png,"red, \nwarm",ann\nb.png,blue,\n')
    lines = read_index(folder)
    assert [(line.caption, line.person) for line in lines] == [("red, \nwarm", "ann"), ("blue", "b.png")]


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("metadata.jsonl", '{"file_name": "a.png"}\n', r"metadata\.jsonl line 1: missing caption"),
        ("metadata.jsonl", "\n{oops\n", r"metadata\.jsonl line 2 is not JSON"),
        ("metadata.csv", "file_name,text\n,red\n", r"metadata\.csv row 1: missing file"),
        ("metadata.csv", "file_name,text\n", "names no picture"),
        ("metadata.jsonl", '{"file_name": "../a.png", "text": "t"}', "leads out of the folder"),
        ("metadata.jsonl", '{"file_name": "/etc/a.png", "text": "t"}', "leads out of the folder"),
        ("letter.md", "x", r"has no people\.jsonl, metadata\.jsonl or metadata\.csv"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, name: str, written: str, said: str) -> None:
    (_pictures(tmp_path, "a.png") / name).write_text(written)
    with pytest.raises(BadInput, match=said):
        read_index(tmp_path)


def test_a_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (_pictures(tmp_path, "a.png") / "a.txt").write_bytes(b"\xff\xfe\x41")
    with pytest.raises(BadInput, match=r"a\.txt can't be read as UTF-8"):
        read_index(tmp_path)
