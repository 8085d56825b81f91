"""Characters: the same seed is the same person for ever, and no two seeds are alike."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.faces.characters import Mixture, Recipe, character, character_id, mixture_of
from face0_worker.faces.packs import FacePack, load_pack

# the first five numbers of a person, and the id: of a seed, of somebody between two, of a look-alike
GOLDEN = [
    (Recipe(7), [-0.7455, 1.3353, -0.1244, -0.6033, 0.2268], "character-52a3b6437631"),
    (Recipe(7, toward=8, share=0.5), [0.4336, 1.8362, -1.2485, -0.4981, 1.0927], "character-ee6418d36c73"),
    (Recipe(7, vary=0.2, variant=3), [-0.5662, 1.2359, -0.3443, -0.6478, 0.2067], "character-d72bde8c4ff4"),
]
_PRINT = """
from face0_worker.faces.characters import *
from face0_worker.faces.packs import load_pack
print(character(mixture_of(load_pack(None)), Recipe(7)).tobytes().hex())
"""


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return mixture_of(load_pack(None))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize(("recipe", "first", "known_as"), GOLDEN)
def test_a_recipe_is_the_same_person_as_when_this_was_written(
    mixture: Mixture, recipe: Recipe, first: list[float], known_as: str
) -> None:
    # a change here changes every character that anybody has: then the mixture or the draw needs a new version
    assert character(mixture, recipe)[:5] == pytest.approx(first, abs=2e-4)
    assert character_id(mixture, recipe) == known_as


def test_a_seed_is_the_same_person_in_another_process(mixture: Mixture) -> None:
    said = subprocess.run([sys.executable, "-c", _PRINT], capture_output=True, text=True, check=True).stdout
    assert said.strip() == character(mixture, Recipe(7)).tobytes().hex()


def test_characters_are_as_long_as_embeddings_and_as_different_as_people(mixture: Mixture) -> None:
    drawn = np.stack([character(mixture, Recipe(seed)) for seed in range(100)])
    assert np.allclose(np.linalg.norm(drawn, axis=1), np.sqrt(128), rtol=1e-5)
    between = (drawn @ drawn.T / 128)[np.triu_indices(100, 1)]
    # of people in the training pictures: mean 0.006, deviation 0.18
    assert abs(between.mean()) < 0.03
    assert 0.12 < between.std() < 0.24


def test_between_two_people_one_goes_from_the_first_to_the_second(mixture: Mixture) -> None:
    one, other = character(mixture, Recipe(1)), character(mixture, Recipe(2))
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    way = [character(mixture, Recipe(1, toward=2, share=share)) for share in shares]
    assert np.allclose(way[0], one, atol=1e-3)
    assert np.allclose(way[-1], other, atol=1e-3)
    likeness = [cosine(step, one) for step in way]
    assert likeness == sorted(likeness, reverse=True)
    assert abs(cosine(way[2], one) - cosine(way[2], other)) < 1e-4
    assert np.allclose([np.linalg.norm(step) for step in way], np.sqrt(128), rtol=1e-5)


def test_a_little_variation_is_a_look_alike_and_each_variant_another(mixture: Mixture) -> None:
    person = character(mixture, Recipe(1))
    varied = [character(mixture, Recipe(1, vary=0.2, variant=variant)) for variant in range(3)]
    for one in varied:
        # the change is at right angles to the person: cosine 1 / sqrt(1 + 0.2^2)
        assert cosine(one, person) == pytest.approx(0.9806, abs=1e-3)
    assert cosine(varied[0], varied[1]) < 0.98


def test_an_id_stands_for_the_recipe_and_the_mixture(mixture: Mixture) -> None:
    recipes = [
        Recipe(1),
        Recipe(2),
        Recipe(1, toward=2, share=0.5),
        Recipe(1, vary=0.1),
        Recipe(1, vary=0.1, variant=1),
    ]
    ids = [character_id(mixture, recipe) for recipe in recipes]
    assert len(set(ids)) == len(ids)
    other = dataclasses.replace(mixture, residual=mixture.residual + 0.1)
    assert character_id(other, Recipe(1)) != ids[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 1, "share": 0.5},
        {"seed": 1, "toward": 2, "share": 1.1},
        {"seed": 1, "vary": 1.5},
        {"seed": 1, "vary": float("nan")},
    ],
)
def test_a_recipe_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_a_pack_without_characters_is_refused_and_its_own_file_is_taken(mixture: Mixture, tmp_path: Path) -> None:
    pack = FacePack(tmp_path, "other", "e" * 64, "", 128, np.zeros(128, np.float32))
    with pytest.raises(ModelMissing, match="no characters for the face pack other"):
        mixture_of(pack)
    own = {**mixture.to_json(), "embedder_digest": "e" * 64}
    (tmp_path / "characters.json").write_text(json.dumps(own))
    assert np.array_equal(character(mixture_of(pack), Recipe(3)), character(mixture, Recipe(3)))


@pytest.mark.parametrize("damage", [{"weights": [1.0]}, {"basis": []}, {"residual": "x"}, {"means": None}])
def test_a_damaged_mixture_is_one_sentence(mixture: Mixture, tmp_path: Path, damage: dict[str, object]) -> None:
    (tmp_path / "m.json").write_text(json.dumps({**mixture.to_json(), **damage}))
    with pytest.raises(ModelMissing, match=r"m\.json"):
        Mixture.read(tmp_path / "m.json")
