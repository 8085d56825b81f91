"""`face0 character new`, as people type it: the same words are the same person, other words another one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from face0_worker.faces.characters import Recipe, character, mixture_of
from face0_worker.records.stored_faces import newest_face
from face0_worker.records.vault import unseal_face
from face0_worker.settings import Settings
from producer import cli
from producer.services import Services

pytestmark = pytest.mark.services


@pytest.fixture
def types(
    services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Type `face0 character new` with these words, and read what it says as JSON; errors come as a sentence."""
    monkeypatch.setenv("FACE0_HOME", str(settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", settings.ledger_url)

    def typed(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.run(["character", "new", *words, "--json"]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return json.loads(out if code == 0 else err)

    return typed


@pytest.mark.parametrize(
    ("words", "recipe", "known_as"),
    [
        (("--seed", "7"), Recipe(7), "character-52a3b6437631"),
        (("--seed", "7", "--toward", "8"), Recipe(7, toward=8, share=0.5), "character-ee6418d36c73"),
        (("--seed", "7", "--toward", "8", "--share", "0.25"), Recipe(7, toward=8, share=0.25), None),
        (("--seed", "7", "--vary", "0.2", "--variant", "3"), Recipe(7, vary=0.2, variant=3), "character-d72bde8c4ff4"),
    ],
)
def test_the_same_words_are_the_same_person_for_ever(
    types: Any, services: Services, words: tuple[str, ...], recipe: Recipe, known_as: str | None
) -> None:
    first, again = types(*words), types(*words)
    assert (first["made"], again["made"]) == (True, False)
    assert again["id"] == first["id"] == (known_as or first["id"])
    assert again["face_digest"] == first["face_digest"]
    # what is sealed is the person that the words mean
    stored = newest_face(services.ledger, first["id"])
    assert stored is not None
    digest, key = stored
    _, sealed = unseal_face(services.vault, first["id"], services.storage.get(key), digest=digest)
    wanted = character(mixture_of(services.pack), recipe)
    np.testing.assert_allclose(services.embedder.normalise(sealed), wanted, atol=1e-3)


def test_without_a_seed_somebody_new_is_made_and_the_seed_is_told(types: Any) -> None:
    one, other = types(), types()
    assert (one["made"], other["made"]) == (True, True)
    assert one["id"] != other["id"]
    assert types("--seed", str(one["recipe"]["seed"]))["id"] == one["id"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seed", "7", "--share", "0.3"), "--toward"),
        (("--seed", "7", "--variant", "2"), "--vary"),
        (("--seed", "7", "--toward", "8", "--share", "1.5"), "share"),
        (("--seed", "7", "--vary", "2"), "vary"),
        (
            (
                "--seed",
                "-1",
            ),
            "seed",
        ),
    ],
)
def test_words_that_mean_nobody_are_refused_and_not_left_out(types: Any, words: tuple[str, ...], said: str) -> None:
    assert said in json.dumps(types(*words, code=2))
