"""Faces are looked for once a picture: what a real face pack sees, and what it is not asked again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import FacePack
from face0_worker.learn import seen_faces
from face0_worker.learn.dataset import Line, read_index
from face0_worker.learn.seen_faces import FACES, SeenFaces, faces_of, read_faces
from tests.unit.learn.toy_data import names, quiet, write_people
from tests.unit.learn.toy_people import SIX, write_toy_people


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_toy_people(tmp_path_factory.mktemp("faces") / "data")
    faces_of(folder, None, quiet, cores=1)
    return folder


def test_every_face_is_found_and_people_are_nearer_to_themselves(looked: Path) -> None:
    faces = read_faces(looked / FACES)
    assert faces.embeddings.shape == (21, 128)
    assert np.abs(faces.embeddings).sum(axis=1).all()
    unit = faces.embeddings / np.linalg.norm(faces.embeddings, axis=1, keepdims=True)
    same = unit @ unit.T
    person = np.arange(21) // 3
    mine = person[:, None] == person[None]
    assert same[mine].mean() > same[~mine].mean() + 0.4
    assert bool((faces.boxes[:, 2] - faces.boxes[:, 0] > 0.2).all())


def test_pictures_are_known_by_what_they_are_and_only_new_ones_are_looked_at(
    looked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(looked, folder)
    first, second, third = (folder / line.file for line in read_index(folder)[:3])
    shutil.copy(first, folder / "images" / "copy.png")
    with Image.open(first) as opened:
        ImageOps.mirror(opened).save(folder / "images" / "new.png")
    for name in ("copy", "new"):
        with (folder / "people.jsonl").open("a") as index:
            index.write(f'{{"file": "images/{name}.png", "person": "{name}", "caption": "c"}}\n')
    one, two = second.read_bytes(), third.read_bytes()
    second.write_bytes(two)
    third.write_bytes(one)
    seen: list[str] = []
    real = seen_faces._look_at

    def look(pack: FacePack, lines: Sequence[Line]) -> SeenFaces:
        seen.extend(line.file for line in lines)
        return real(pack, lines)

    monkeypatch.setattr(seen_faces, "_look_at", look)
    before = read_faces(looked / FACES).embeddings
    after = faces_of(folder, None, quiet, cores=1).embeddings
    assert seen == ["images/new.png"]
    assert np.array_equal(after[:3], before[[0, 2, 1]])
    assert np.array_equal(after[21], before[0])


def test_one_damaged_picture_among_known_ones_is_no_reason_to_stop(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(2))
    (folder / read_index(folder)[2].file).write_bytes(b"broken")
    told: list[str] = []
    faces = faces_of(folder, None, told.append)
    assert faces.embeddings[:, 0].tolist() == [1, 2, 0, 4, 5, 6]
    assert [bool(digest) for digest in faces.digests] == [True, True, False, True, True, True]
    assert told[0].startswith("1 of 6 pictures can't be read")


def test_the_largest_of_several_faces_is_kept(embedder: Embedder, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    with Image.open(SIX) as opened:
        six = opened.convert("RGB")
    side = min(six.size)
    left = (six.width - side) // 2
    six.save(folder / "images" / "six.png")
    (folder / "people.jsonl").write_text('{"file": "six.png", "person": "p", "caption": "c"}\n')
    found = embedder.find(six.crop((left, (six.height - side) // 2, left + side, (six.height + side) // 2)))
    assert len(found) > 2
    box = faces_of(folder, None, quiet, cores=1).boxes[0] * side
    assert box[2] - box[0] == pytest.approx(max(face.width for face in found), abs=1)


def test_a_damaged_picture_is_named_skipped_and_looked_at_again_once_it_is_mended(looked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(looked, folder)
    (folder / FACES).unlink()
    first = folder / read_index(folder)[0].file
    whole = first.read_bytes()
    first.write_bytes(whole[:500])
    told: list[str] = []
    faces = faces_of(folder, None, told.append, cores=1)
    assert not faces.embeddings[0].any()
    assert faces.embeddings[1:].any(axis=1).all()
    assert told[0].startswith("1 of 21 pictures can't be read")
    assert first.name in told[0]
    first.write_bytes(whole)
    assert faces_of(folder, None, quiet, cores=1).embeddings[0].any()


def test_a_folder_that_brings_all_its_faces_needs_no_face_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_people(tmp_path / "data", names(2))
    monkeypatch.setattr(seen_faces, "load_pack", lambda pack: pytest.fail("a face pack was asked for"))
    assert faces_of(folder, None, quiet).embeddings[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
