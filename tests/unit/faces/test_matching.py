"""The bar between one person and another: what it was set by, and what a pack may say about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import insightface
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage import data

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.faces.embed import Embedder
from face0_worker.faces.matching import COSINE, L2, Bar, distance, propose
from face0_worker.faces.packs import LITE_BAR, build_lite, load_pack

SIX = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.open(load_pack(None))


def test_seven_people_in_public_photos_are_told_apart_and_recognised_when_the_photo_changes(embedder: Embedder) -> None:
    bar, mean = embedder.pack.same_person, embedder.pack.mean
    assert bar == LITE_BAR
    people: list[np.ndarray] = []
    for picture in (Image.open(SIX).convert("RGB"), Image.fromarray(data.astronaut())):
        theirs = [face.embedding for face in embedder.find(picture)]
        people += theirs
        half = picture.resize((picture.width // 2, picture.height // 2))
        for changed in (ImageEnhance.Brightness(picture).enhance(0.6), half, picture.rotate(15, expand=True)):
            found = [face.embedding for face in embedder.find(changed)]
            for one in theirs:
                assert min(distance(bar.measure, one, other, mean) for other in found) < bar.most - 0.1
    assert len(people) == 7
    apart = [distance(L2, one, other, mean) for n, one in enumerate(people) for other in people[n + 1 :]]
    assert min(apart) > bar.most + 0.08
    assert min(apart) < 0.6  # the bar that dlib's author gives would let these two pass as one


@pytest.mark.parametrize("measure", [L2, COSINE])
def test_a_proposed_bar_lets_one_in_a_thousand_pairs_of_different_people_pass(measure: str) -> None:
    rng = np.random.default_rng(0)
    people = [[one + 0.2 * rng.standard_normal(16) for _ in range(3)] for one in rng.standard_normal((60, 16))]
    mean = np.zeros(16)
    found = propose(people, measure, mean)
    assert (found.same_pairs, found.other_pairs) == (180, 180 * 179 // 2 - 180)
    pairs = [
        distance(measure, one, other, mean)
        for n, first in enumerate(people)
        for second in people[n + 1 :]
        for one in first
        for other in second
    ]
    assert 0 < np.mean(np.array(pairs) <= found.bar.most) <= 0.001
    assert found.missed < 0.5
    with pytest.raises(BadInput, match="at least 50 people"):
        propose(people[:49], measure, mean)


def test_a_pack_of_ones_own_has_a_bar_only_if_its_manifest_states_one(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(build_lite(), folder)
    manifest = json.loads((folder / "pack.json").read_text())
    for stated, bar in ((None, None), ({"measure": "cosine", "most": 0.4}, Bar(COSINE, 0.4))):
        (folder / "pack.json").write_text(json.dumps({**manifest, "same_person": stated}))
        assert load_pack(folder).same_person == bar
    for wrong in ({"measure": "l2"}, {"measure": "euclid", "most": 1}, {"measure": "l2", "most": -1}, 0.5):
        (folder / "pack.json").write_text(json.dumps({**manifest, "same_person": wrong}))
        with pytest.raises(ModelMissing, match="makes no sense"):
            load_pack(folder)
