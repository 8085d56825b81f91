"""What is learned from: everything else is left out, counted and said."""

from __future__ import annotations

from pathlib import Path

import pytest

from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.learn.dataset import read_index
from face0_worker.learn.material import gather
from face0_worker.learn.seen_faces import FACES, SeenFaces, read_faces
from face0_worker.learn.sources import refuse
from tests.unit.learn.toy_data import names, quiet, write_faces, write_people


def test_held_out_people_are_never_learned_from_and_sit_for_samples(tmp_path: Path) -> None:
    learned, held = names(4), names(3, held_out=True)
    folder = write_people(tmp_path / "data", [held[0], *learned, *held[1:]])
    material = gather([folder], 32, None, refuse, quiet)
    assert set(material.seen.people) == set(learned)
    assert set(material.seen.files) == {f"images/{person}_{view}.png" for person in learned for view in range(3)}
    # rows of faces lie as those of pictures do: held-out people come before and behind them
    assert material.faces.embeddings[:, 0].tolist() == list(range(4, 16))
    assert material.sitters.faces[:, 0].tolist() == [1, 16, 19]
    assert len(material.unseen) == 9


def test_pictures_without_a_face_wider_than_20_px_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(2), size=100)
    files = [line.file for line in read_index(folder)]
    write_faces(folder, files, {files[0]: 0.0, files[1]: 0.195, files[2]: 0.21})
    told: list[str] = []
    material = gather([folder], 32, None, refuse, told.append)
    assert material.seen.files == tuple(files[2:])
    assert material.faceless == 2
    assert any(line.startswith("2 pictures show no face wider than 20 px") for line in told)


def test_how_wide_a_face_is_counts_in_the_pixels_of_the_picture_on_disk(tmp_path: Path) -> None:
    small, large = (write_people(tmp_path / str(size), names(1), size=size) for size in (30, 60))
    with pytest.raises(BadInput, match="nothing to learn from"):
        gather([small], 64, None, refuse, quiet)
    assert len(gather([large], 64, None, refuse, quiet).seen) == 3


def test_a_damaged_picture_is_counted_and_its_neighbours_keep_their_faces(tmp_path: Path) -> None:
    one, two = write_people(tmp_path / "one", names(2)), write_people(tmp_path / "two", names(1))
    (one / "images" / f"{names(2)[0]}_1.png").write_bytes(b"\x89PNG broken")
    material = gather([one, two], 32, None, refuse, quiet)
    assert material.unreadable == 1
    assert material.faceless == 0
    assert material.faces.embeddings[:, 0].tolist() == [1, 3, 4, 5, 6, 1, 2, 3]
    assert len(material.seen) == 8


def test_every_folder_needs_a_right_of_its_own(tmp_path: Path) -> None:
    good, bad = (write_people(tmp_path / name, names(1)) for name in ("good", "bad"))
    (bad / "card.json").unlink()
    with pytest.raises(BadInput, match=r"bad has no card\.json"):
        gather([good, bad], 32, None, refuse, quiet)
    (bad / "card.json").write_text('{"consent": "c1"}')
    with pytest.raises(ConsentRefused):
        gather([good, bad], 32, None, refuse, quiet)


def test_faces_of_two_packs_are_not_mixed(tmp_path: Path) -> None:
    one, two = (write_people(tmp_path / name, names(1)) for name in ("one", "two"))
    seen = read_faces(two / FACES)
    SeenFaces(seen.digests, seen.embeddings, seen.boxes, {**seen.embedder, "name": "other"}).save(two / FACES)
    with pytest.raises(BadInput, match="another face pack"):
        gather([one, two], 32, None, refuse, quiet)


def test_faces_that_cannot_be_read_are_told_in_one_sentence(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(1))
    whole = (folder / FACES).read_bytes()
    for broken in (whole[: len(whole) // 2], b"PK", b""):
        (folder / FACES).write_bytes(broken)
        with pytest.raises(BadInput, match="run `face0-worker faces` again"):
            gather([folder], 32, None, refuse, quiet)
