"""Packs that travel: whole people, with their faces, as data folders of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.learn.dataset import is_held_out, load_portraits, read_index
from face0_worker.learn.portrait_pack import unpack, write_packs
from face0_worker.learn.seen_faces import FACES, faces_of, read_faces
from face0_worker.learn.sources import read_source
from tests.unit.learn.toy_data import names, quiet, write_people

LIMIT = 100_000


def _unpacked(packs: list[Path]) -> list[Path]:
    folders = [pack.with_suffix("") for pack in packs]
    for pack, folder in zip(packs, folders, strict=True):
        unpack(pack, folder)
    return folders


def test_a_pack_unpacks_to_the_same_pictures_captions_faces_and_card(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(4))
    (out,) = _unpacked(write_packs(folder, tmp_path / "packs", parts=1, limit=10**6, say=quiet))
    before, after = load_portraits([folder], 64)[0], load_portraits([out], 64)[0]
    assert (after.captions, after.people, after.files) == (before.captions, before.people, before.files)
    assert np.array_equal(after.pixels, before.pixels)
    theirs, ours = read_faces(folder / FACES), faces_of(out, None, quiet)
    assert np.array_equal(ours.embeddings, theirs.embeddings)
    assert np.array_equal(ours.boxes, theirs.boxes)
    assert ours.embedder == theirs.embedder
    assert read_source(out).licence == "CC0-1.0"


def test_people_are_whole_in_one_pack_and_no_pack_is_larger_than_allowed(tmp_path: Path) -> None:
    held = names(3, held_out=True)
    people = [*names(25), *held]
    folder = write_people(tmp_path / "data", people)
    packs = write_packs(folder, tmp_path / "packs", parts=9, limit=LIMIT, held_out=2, say=quiet)
    assert len(packs) > 1
    assert all(pack.stat().st_size <= LIMIT for pack in packs)
    seen: list[str] = []
    for out in _unpacked(packs):
        lines = read_index(out)
        mine = list(dict.fromkeys(line.person for line in lines))
        assert len(lines) == 3 * len(mine)
        seen += mine
    assert seen == [*held[:2], *names(25)]
    assert sum(is_held_out(person) for person in seen) == 2


def test_pictures_encoded_again_keep_their_faces(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(1))
    (out,) = _unpacked(write_packs(folder, tmp_path / "packs", parts=1, limit=10**6, quality=80, say=quiet))
    files = [line.file for line in read_index(out)]
    assert all(file.endswith(".webp") for file in files)
    # known by what they are now: nothing is looked at again, and no face pack is needed
    assert faces_of(out, None, quiet).embeddings[:, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("quality", [None, 80])
def test_a_damaged_picture_does_not_travel(tmp_path: Path, quality: int | None) -> None:
    folder = write_people(tmp_path / "data", names(2))
    (folder / read_index(folder)[1].file).write_bytes(b"broken")
    told: list[str] = []
    packs = write_packs(folder, tmp_path / "packs", parts=1, limit=10**6, quality=quality, say=told.append)
    (out,) = _unpacked(packs)
    assert read_faces(out / FACES).embeddings[:, 0].tolist() == [1, 3, 4, 5, 6]
    assert any(line.startswith("1 of 6 pictures can't be read") for line in told)


def test_a_pack_too_small_for_anybody_is_refused(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(1))
    with pytest.raises(BadInput, match="no person fits"):
        write_packs(folder, tmp_path / "packs", parts=1, limit=33_000, say=quiet)


def test_pictures_without_a_right_are_not_packed(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(1), card={"consent": "c1"})
    with pytest.raises(ConsentRefused):
        write_packs(folder, tmp_path / "packs", parts=1, limit=10**6, say=quiet)


def test_unpacking_never_replaces_what_lies_there(tmp_path: Path) -> None:
    (pack,) = write_packs(
        write_people(tmp_path / "data", names(1)), tmp_path / "packs", parts=1, limit=10**6, say=quiet
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(BadInput, match="holds something already"):
        unpack(pack, tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    pack.write_bytes(b"no tar")
    with pytest.raises(BadInput, match="can't be unpacked"):
        unpack(pack, tmp_path / "new")
