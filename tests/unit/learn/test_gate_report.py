"""The gate's report on planted faults, at toy size; and the bars that a calibration sets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from face0_worker.contract.bars import Calibration, of_model
from face0_worker.contract.errors import BadInput
from face0_worker.contract.receipt import Verdict
from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import FacePack
from face0_worker.learn.gate_calibration import calibrate_model, characters, people_of, write_gate
from face0_worker.learn.gate_report import calibrate, find_sitters, look_at, rate, report, tables, write_report
from face0_worker.learn.planted import GOOD, KINDS, Sitter, plant_all
from face0_worker.learn.truth import read_pictures
from face0_worker.render.card import parse_card
from face0_worker.render.pipeline import Pipeline
from tests.fakes import write_tiny_model
from tests.unit.learn.toy_people import write_toy_people


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_people(tmp_path_factory.mktemp("gate") / "people")


@pytest.fixture(scope="module")
def sitters(people: Path, embedder: Embedder) -> list[Sitter]:
    return find_sitters(read_pictures(people), embedder, lambda line: None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.load(write_tiny_model(tmp_path_factory.mktemp("gate") / "tiny"), digest="", device="cpu")


def test_every_kind_is_planted_once_for_each_person_and_the_same_again(sitters: list[Sitter]) -> None:
    planted = list(plant_all(sitters, seed=3))
    assert [one.kind for one in planted] == [GOOD, *KINDS] * len(sitters)
    again = list(plant_all(sitters, seed=3))
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(planted, again, strict=True))
    for one in planted:
        changed = not np.array_equal(one.pixels, np.asarray(one.sitter.picture))
        assert changed == (one.kind != GOOD)


def test_the_wrong_person_is_never_the_right_one(sitters: list[Sitter]) -> None:
    by_picture = {one.picture.tobytes(): one.name for one in sitters}
    for seed in range(5):
        wrong = [one for one in plant_all(sitters, seed) if one.kind == "wrong_person"]
        assert all(by_picture[one.pixels.tobytes()] != one.sitter.name for one in wrong)


def test_the_report_counts_what_is_caught_with_intervals(
    sitters: list[Sitter], embedder: Embedder, tmp_path: Path
) -> None:
    own = Calibration(identity=-1.0, sharpness=0.0, skin_drift=None, pictures=9, share=0.02)
    told = report(sitters, embedder, own, share=0.02)
    rows = {row["name"]: row for row in told["rows"]}
    judged = len(sitters) - len(sitters) // 2
    assert (told["good"], told["planted"]) == (judged, judged * len(KINDS))
    for kind in ("black", "no_face", "blurred"):
        assert rows[f"photos.caught.{kind}"]["value"] == 1.0, kind
    # bars that nothing reaches below catch only what needs none
    assert rows["model.caught.blurred"]["value"] < 1.0
    assert rows["model.caught.black"]["value"] == 1.0
    assert rows["model.false_alarm"]["value"] == 0.0
    files = write_report(tmp_path / "out", told, sitters)
    assert json.loads(files[0].read_text())["planted"] == told["planted"]
    assert f"| black | {judged} | 100.0%" in files[1].read_text()
    assert Image.open(files[2]).height == 128 * (1 + len(KINDS))
    assert "The gate takes" in tables(told)


def test_too_few_people_are_refused(people: Path, embedder: Embedder) -> None:
    with pytest.raises(BadInput, match="at least 4"):
        find_sitters(read_pictures(people)[:6], embedder, lambda line: None)


def test_the_skin_of_the_same_person_is_nearer_than_of_a_face_in_another_light(
    sitters: list[Sitter], embedder: Embedder
) -> None:
    looked = look_at(list(plant_all(sitters)), embedder)
    drifts = {kind: [one.verdict.skin_drift for one in looked if one.kind == kind] for kind in (GOOD, "skin_tone")}
    good, other = ([one for one in drifts[kind] if one is not None] for kind in drifts)
    assert np.median(other) > 2 * np.median(good)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634)]
)
def test_a_share_has_wilsons_interval(hits: int, of: int, low: float, high: float) -> None:
    measured = rate("x", hits, of)
    assert (measured.value, measured.n) == (hits / of, of)
    assert measured.low == pytest.approx(low, abs=1e-4)
    assert measured.high == pytest.approx(high, abs=1e-4)


def test_a_share_of_nothing_is_not_a_number() -> None:
    assert math.isnan(rate("x", 0, 0).value)


def test_bars_lie_where_the_share_of_good_pictures_lies_beyond() -> None:
    values = np.linspace(0, 1, 101)
    good = [Verdict(True, "ok", 1, one, 0.5, 0.2, sharpness=one, skin_drift=100 * one) for one in values]
    found = calibrate(good, 0.1)
    assert found == Calibration(identity=0.1, sharpness=0.1, skin_drift=90.0, pictures=101, share=0.1)
    faceless = Verdict(True, "ok", 0, None, 0.5, 0.2, sharpness=0.5)
    with pytest.raises(BadInput, match="found on 0 of 3"):
        calibrate([faceless] * 3, 0.1)


def test_a_model_that_paints_no_face_is_not_calibrated(tiny: Pipeline, embedder: Embedder, people: Path) -> None:
    someone = people_of(read_pictures(people), embedder, 4)
    assert len(someone) == 4
    assert all(one.skin is not None for one in someone)
    with pytest.raises(BadInput, match="no bar can be set"):
        calibrate_model(tiny, embedder, someone, share=0.02, batch=2, say=lambda line: None)


def test_characters_have_no_skin_to_compare(embedder: Embedder) -> None:
    assert [one.skin for one in characters(embedder, 3)] == [None] * 3


def test_written_bars_are_read_by_the_card_and_offered(tmp_path: Path, pack: FacePack) -> None:
    folder = write_tiny_model(tmp_path / "model", embedder_digest=pack.digest)
    card = folder / "face0" / "face0.json"
    gate = Calibration(identity=0.1, sharpness=0.3, skin_drift=None, pictures=96, share=0.02)
    write_gate(card, gate)
    assert parse_card(json.loads(card.read_text()), card).gate == gate
    facts = Pipeline.load(folder, digest="", device="cpu").facts()
    assert of_model(facts) == gate.bars()
    card.write_text(json.dumps({**json.loads(card.read_text()), "gate": {"identity": 0.1}}))
    with pytest.raises(BadInput, match="wrong kind"):
        parse_card(json.loads(card.read_text()), card)
