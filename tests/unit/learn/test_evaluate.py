"""The whole evaluation at toy size on the real code: real faces, a real pipeline with random weights, real judges."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from face0_worker.cli import commands
from face0_worker.commandline import run_group
from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.contract.job import Guidance
from face0_worker.faces.embed import Embedder
from face0_worker.learn import sweep
from face0_worker.learn.attributes import AttributePlan
from face0_worker.learn.dataset import is_held_out
from face0_worker.learn.evaluate import Evaluation, EvaluationPlan, Studio, decoded_photos, evaluate, photo_arms
from face0_worker.learn.judges import Judges, JudgesPlan, train_judges
from face0_worker.learn.looks import look
from face0_worker.learn.measures import Arm, References, fidelity_rows, identity_rows
from face0_worker.learn.recogniser import RecogniserPlan
from face0_worker.learn.scores import Measured
from face0_worker.learn.shots import Setting, plan_shots
from face0_worker.learn.sweep import Point, best, settings_around
from face0_worker.learn.truth import Picture, read_pictures
from face0_worker.render.pipeline import Pipeline
from tests.fakes import write_tiny_model
from tests.unit.learn.toy_people import write_toy_people

PLAN = EvaluationPlan(people=4, prompts=2, floor_prompts=1, varied_people=2, varied_seeds=2, batch=16)
CPU = torch.device("cpu")


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_people(tmp_path_factory.mktemp("toy") / "people")


@pytest.fixture(scope="module")
def pictures(folder: Path) -> tuple[Picture, ...]:
    return read_pictures(folder)


@pytest.fixture(scope="module")
def judges_folder(pictures: tuple[Picture, ...], embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = JudgesPlan(RecogniserPlan(epochs=1, batch=9), AttributePlan(epochs=1, batch=9))
    out = tmp_path_factory.mktemp("judges")
    train_judges(pictures, embedder, out, plan=plan, device=CPU, say=quiet)
    return out


@pytest.fixture(scope="module")
def judges(judges_folder: Path) -> Judges:
    from face0_worker.learn.judges import load_judges

    return load_judges(judges_folder, CPU)


@pytest.fixture(scope="module")
def model_folder(embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), embedder_digest=embedder.pack.digest, steps=2)


@pytest.fixture(scope="module")
def studio(model_folder: Path, embedder: Embedder, judges: Judges) -> Studio:
    pipeline = Pipeline.load(model_folder, digest="d" * 64, device="cpu", precision="float32")
    return Studio(pipeline, embedder, judges, PLAN, quiet)


@pytest.fixture(scope="module")
def evaluation(studio: Studio, pictures: tuple[Picture, ...]) -> Evaluation:
    return evaluate(studio, pictures)


def _rows(rows: tuple[Measured, ...] | list[Measured]) -> dict[str, Measured]:
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


def test_real_photos_are_told_apart_and_an_answer_without_a_face_is_worth_nothing(evaluation: Evaluation) -> None:
    rows = _rows(evaluation.rows)
    for arm in ("photos", "photo_unchanged"):
        assert rows[f"{arm}.no_face"].value == 0
        assert rows[f"{arm}.rank1.matched.conditioning"].value == 1
        assert rows[f"{arm}.auc.matched.conditioning"].value == 1
    # random weights paint noise: nobody is found in it, and nobody is recognised
    for arm in ("model", "text_only"):
        assert rows[f"{arm}.no_face"].value == 1
        for judge in ("independent", "conditioning"):
            assert rows[f"{arm}.rank1.matched.{judge}"].value == 0
            assert rows[f"{arm}.likeness.{judge}"].value == 0
            assert math.isnan(rows[f"{arm}.auc.matched.{judge}"].value)
    assert rows["chance.rank1.matched"].value == rows["chance.rank1.everyone"].value == 0.25


class _Glass(torch.nn.Module):
    """A VAE that leaves pictures as they are, or nothing of them."""

    def __init__(self, *, clear: bool) -> None:
        super().__init__()
        self.clear = clear

    def encode(self, units: torch.Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: units))

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=latents if self.clear else torch.zeros_like(latents))


def test_what_the_vae_leaves_of_the_photos_is_looked_at(evaluation: Evaluation, studio: Studio) -> None:
    references = evaluation.references
    for clear in (True, False):
        pipeline = copy.copy(studio.pipeline)
        pipeline.vae = _Glass(clear=clear)
        pipeline.card = replace(pipeline.card, size=256)
        asked = copy.copy(studio)
        asked.pipeline = pipeline
        arm = decoded_photos(asked, references.galleries)
        rows = _rows(identity_rows(arm, references))
        assert rows["photos_decoded.rank1.matched.conditioning"].value == (1 if clear else 0)
        assert rows["photos_decoded.rank1.matched.conditioning"].n == 4
    # the tiny model's own leaves nobody
    assert _rows(evaluation.rows)["photos_decoded.no_face"].value == 1


def test_every_person_is_asked_every_prompt_and_counts_once(evaluation: Evaluation, studio: Studio) -> None:
    assert len(evaluation.shown) == 4 * 2
    assert {len(shots) for shots in _by_person(evaluation).values()} == {2}
    assert all(picture is not None for picture in evaluation.shown.values())
    assert _rows(evaluation.rows)["model.fidelity.garment_colour"].n == 4
    # each picture has noise of its own, and each person's photo was embedded as the product does
    assert len({shot.seed for shot in evaluation.shown}) == 8
    assert set(studio.embeddings) == set(_by_person(evaluation))


def _by_person(evaluation: Evaluation) -> dict[str, list[Any]]:
    mine: dict[str, list[Any]] = {}
    for shot in evaluation.shown:
        mine.setdefault(shot.sitter.person, []).append(shot)
    return mine


def test_somebody_whom_the_judges_know_is_refused(studio: Studio, pictures: tuple[Picture, ...]) -> None:
    held = next(one.person for one in pictures if is_held_out(one.person))
    knowing = replace(studio.judges, people=studio.judges.people | {held})
    leaking = Studio(studio.pipeline, studio.embedder, knowing, PLAN, quiet)
    with pytest.raises(BadInput, match="the judges learned from"):
        leaking.invite(pictures)


def test_a_photo_without_a_face_is_left_out_and_counted(
    studio: Studio, folder: Path, pictures: tuple[Picture, ...], tmp_path: Path
) -> None:
    blank = tmp_path / "blank.png"
    Image.new("RGB", (128, 128), "grey").save(blank)
    held = next(one.person for one in pictures if is_held_out(one.person))
    spoilt = tuple(replace(one, file=blank) if one.person == held else one for one in pictures)
    other = Studio(studio.pipeline, studio.embedder, studio.judges, PLAN, quiet)
    references = other.invite(spoilt)
    assert held not in {person for person, _ in references.people()}
    assert len(references.people()) == 3
    assert other.left_out == 1


def test_a_model_of_another_face_pack_is_refused(studio: Studio, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "other")
    pipeline = Pipeline.load(tmp_path / "other", digest="d" * 64, device="cpu", precision="float32")
    with pytest.raises(ModelMissing, match="another face pack"):
        Studio(pipeline, studio.embedder, studio.judges, PLAN, quiet)


def test_with_and_without_a_face_only_the_face_differs(studio: Studio, evaluation: Evaluation) -> None:
    galleries = evaluation.references.galleries
    seen, blind = (plan_shots(galleries, prompts=2, face=face) for face in (True, False))
    assert [(one.seed, one.prompt) for one in seen] == [(one.seed, one.prompt) for one in blind]
    with_face, without = studio.shoot(seen[:1])[0], studio.shoot(blind[:1])[0]
    again = studio.shoot(blind[:1])[0]
    assert with_face is not None
    assert without is not None
    np.testing.assert_array_equal(np.asarray(without), np.asarray(again))
    assert np.abs(np.asarray(with_face, int) - np.asarray(without, int)).max() > 0


def test_fewer_prompts_than_there_are_still_ask_for_all_of_them(evaluation: Evaluation) -> None:
    shots = plan_shots(evaluation.references.galleries, prompts=1)
    assert len(shots) == 4
    assert {shot.number for shot in shots} == {0, 1}


def test_a_perfect_model_gets_full_marks_and_another_persons_pictures_none(
    studio: Studio, evaluation: Evaluation
) -> None:
    references = evaluation.references
    ceiling, _ = photo_arms(studio, references.galleries)
    told = Arm("perfect", ceiling.looks, ceiling.people, ceiling.looks.told)
    rows = _rows(identity_rows(told, references) + fidelity_rows(told))
    assert rows["perfect.rank1.everyone.conditioning"].value == 1
    assert rows["perfect.fidelity.garment_colour"].value == 1
    names = list(dict.fromkeys(ceiling.people))
    swapped = dict(zip(names, names[1:] + names[:1], strict=True))
    wrong = Arm("wrong", ceiling.looks, tuple(swapped[person] for person in ceiling.people), ceiling.looks.told)
    assert _rows(identity_rows(wrong, references))["wrong.rank1.everyone.conditioning"].value == 0


def test_a_picture_that_was_never_made_shows_nothing(studio: Studio, evaluation: Evaluation) -> None:
    photo = evaluation.references.galleries[0].sitters[0].reference.open()
    looks = look([photo, None], studio.embedder, studio.judges)
    person = evaluation.references.people()[0][0]
    arm = Arm("half", looks, (person, person), (looks.told[0], looks.told[0]))
    rows = _rows([*identity_rows(arm, evaluation.references), *fidelity_rows(arm)])
    assert rows["half.no_face"].value == rows["half.rank1.everyone.conditioning"].value == 0.5
    assert {row.value for name, row in rows.items() if ".fidelity." in name} == {0.5}


def test_pictures_are_made_from_one_photo_and_compared_with_another(
    evaluation: Evaluation, studio: Studio, embedder: Embedder
) -> None:
    sitter = evaluation.references.galleries[0].sitters[0]
    compared, painted = (embedder.find(view.open())[0] for view in (sitter.reference, sitter.condition))
    np.testing.assert_allclose(evaluation.references.looks.raw[0], compared.embedding, atol=1e-5)
    np.testing.assert_allclose(studio.embeddings[sitter.person], embedder.normalise(painted.embedding), atol=1e-4)
    assert np.abs(compared.embedding - painted.embedding).max() > 1e-3


def test_a_sweep_changes_one_thing_at_a_time_and_the_best_point_serves_both() -> None:
    own = Setting(Guidance(w=3.0), 20)
    settings = settings_around(own)
    assert settings[0] == ("own", own)
    assert len({setting for _, setting in settings}) == len(settings)
    assert {group for group, _ in settings} == {"own", "w", "c, a", "interval", "steps", "sampler"}

    def point(identity: float, fidelity: float, steps: int = 20) -> Point:
        rows = (
            Measured("sweep.rank1.matched.independent", identity, 0, 1, 4),
            Measured("sweep.fidelity.garment+background", fidelity, 0, 1, 4),
        )
        return Point("w", replace(own, steps=steps), rows)

    balanced = point(0.6, 0.7, steps=8)
    assert best([point(0.9, 0.2), point(0.6, 0.7), balanced, point(0.1, 1.0)]) is balanced


def test_the_command_writes_the_report(
    folder: Path, judges_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACE0_HOME", str(tmp_path / "home"))
    for name, few in (
        ("STRENGTHS", (1.0,)),
        ("SHARES", ((0.4, 0.0),)),
        ("INTERVALS", ()),
        ("STEPS", ()),
        ("WAYS", ()),
    ):
        monkeypatch.setattr(sweep, name, few)
    words = ["evaluate", "--model", str(model_folder), "--data", str(folder), "--judges", str(judges_folder)]
    words += ["--out", str(tmp_path / "out"), "--people", "4", "--prompts", "2", "--quick", "--sweep"]
    words += ["--sweep-people", "2", "--device", "cpu", "--precision", "float32"]
    assert run_group(commands, "face0-worker", words) == 0
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert told["model"] == "tiny"
    assert {"name", "value", "low", "high", "n"} == set(told["rows"][0])
    assert [(point["group"], point["guidance"]["w"]) for point in told["sweep"]] == [("own", 3), ("w", 1), ("c, a", 3)]
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert "| rank-1, matched galleries |" in text
    assert "4 people (glasses False)" in text
    with Image.open(tmp_path / "out" / "evaluation_sheet.png") as sheet:
        # a photo and two prompts; four people
        assert sheet.width == 3 * 166 + 6
        assert sheet.height > 4 * 160
    with Image.open(tmp_path / "out" / "evaluation_sweep.png") as plot:
        assert plot.width > 500


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--data", str(tmp_path), "--judges", str(tmp_path / "judges")]
    assert run_group(commands, "face0-worker", words) == 2
    assert "has no people.jsonl" in capsys.readouterr().err


def test_references_know_everybodys_gallery(evaluation: Evaluation) -> None:
    references: References = evaluation.references
    assert len(references.people()) == len(references.looks) == 4
    assert {number for _, number in references.people()} == {0}
