"""The mixture of characters: fitted to people, it gives people like them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.faces.characters import Recipe, character
from face0_worker.learn.characters import compare, fit_mixture, fit_portraits
from tests.unit.learn.toy_data import names, quiet, write_people


def two_kinds(count: int) -> np.ndarray:
    """Embeddings (count, 16) of two kinds of people, with norm 4."""
    source = np.random.RandomState(0)
    centres = np.stack([np.eye(16)[0] * 4, np.eye(16)[1] * 4])
    drawn = centres[source.randint(0, 2, count)] + 0.5 * source.standard_normal((count, 16))
    return np.asarray(4 * drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def test_what_is_drawn_is_distributed_as_what_was_fitted() -> None:
    faces = two_kinds(1500)
    mixture, about = fit_mixture(faces, [f"p{i}" for i in range(1500)], "e" * 64)
    drawn = np.stack([character(mixture, Recipe(seed)) for seed in range(1500)])
    assert np.allclose(drawn.mean(axis=0), faces.mean(axis=0), atol=0.2)
    # both kinds are there, and nothing between them
    for sample in (faces, drawn):
        first = sample[:, 0] > sample[:, 1]
        assert 0.4 < first.mean() < 0.6
        assert (np.abs(sample[:, 0] - sample[:, 1]) < 1.0).mean() < 0.03
    assert max(about["held_out_log_likelihood"].values()) > about["held_out_log_likelihood"][1]


def test_faces_that_were_not_found_do_not_count() -> None:
    faces = two_kinds(400)
    some = np.concatenate([faces, np.zeros((400, 16), np.float32)])
    people = [f"p{i}" for i in range(400)]
    with_gaps, _ = fit_mixture(some, [*people, *people], "e" * 64)
    without, _ = fit_mixture(faces, people, "e" * 64)
    assert with_gaps.digest == without.digest


def test_too_few_faces_are_refused() -> None:
    with pytest.raises(BadInput, match="too few"):
        fit_mixture(two_kinds(20), [f"p{i}" for i in range(20)], "e" * 64)


def test_drawn_people_are_compared_with_others_and_never_with_themselves() -> None:
    faces, people = two_kinds(300), [f"p{i // 2}" for i in range(300)]
    faces[1::2] = faces[::2]  # two equal pictures of each person
    mixture, _ = fit_mixture(two_kinds(400), [f"q{i}" for i in range(400)], "e" * 64)
    told = compare(mixture, faces, people, count=50)
    assert told["nearest_other_person_to_a_person"] < 0.999
    assert abs(told["people_mean"] - told["drawn_mean"]) < 0.15


def test_portraits_are_fitted_to_only_by_a_right(tmp_path: Path) -> None:
    folder, out = write_people(tmp_path / "data", names(1), card={"consent": "c1"}), tmp_path / "characters.json"
    with pytest.raises(ConsentRefused):
        fit_portraits(folder, out, pack=None, say=quiet)
    (folder / "card.json").unlink()
    with pytest.raises(BadInput, match=r"has no card\.json"):
        fit_portraits(folder, out, pack=None, say=quiet)
    assert not out.exists()
