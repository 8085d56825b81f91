"""Whom an evaluation asks about, and what a prompt may tell of them: nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from face0_worker.contract.errors import BadInput
from face0_worker.learn.dataset import is_held_out
from face0_worker.learn.galleries import MATCHED, choose_galleries, choose_prompts, key_of, said_attributes
from face0_worker.learn.truth import Picture, attribute_values, read_pictures

COLOURS = ("red", "blue", "green", "white", "teal")


def _truth(number: int, view: int) -> dict[str, Any]:
    return {
        "gender": ("woman", "man")[number % 2],
        "age_band": ("young", "middle-aged", "old")[number % 3],
        "hair_style": ("long", "short")[number // 2 % 2],
        "hair_colour": ("brown", "blond")[number // 3 % 2],
        "glasses": number % 5 == 0,
        "skin_tone": number % 6 + 1,
        "garment": ("turtleneck", "hoodie")[view % 2],
        "garment_colour": COLOURS[(number + view) % 5],
        "background": COLOURS[(2 * number + 3 * view) % 5],
        "yaw_deg": (-20.0, 5.0, 10.0)[view],
    }


def _caption(truth: dict[str, Any]) -> str:
    age = "" if truth["age_band"] == "middle-aged" else f"{truth['age_band']} "
    glasses = " and glasses" if truth["glasses"] else ""
    return (
        f"a portrait of a {age}{truth['gender']} with {truth['hair_style']} {truth['hair_colour']} hair{glasses} "
        f"wearing a {truth['garment_colour']} {truth['garment']}, {truth['background']} background"
    )


def people(count: int) -> tuple[Picture, ...]:
    """Pictures of `count` people, three views each, without files."""
    pictures = []
    for number in range(count):
        for view in range(3):
            truth = _truth(number, view)
            said = _caption(truth)
            if is_held_out(f"p{number}"):
                said = said.replace("portrait", "likeness")  # so that a held-out caption is seen to be one
            pictures.append(Picture(Path(f"{number}_{view}.png"), f"p{number}", view, said, truth))
    return tuple(pictures)


@pytest.fixture(scope="module")
def pictures() -> tuple[Picture, ...]:
    return people(3000)


def test_a_gallery_has_people_alike_who_were_held_out(pictures: tuple[Picture, ...]) -> None:
    galleries = choose_galleries(pictures, people=40, prompts=4)
    sitters = [sitter for gallery in galleries for sitter in gallery.sitters]
    assert len(sitters) == len({sitter.person for sitter in sitters}) == 40
    assert all(is_held_out(sitter.person) for sitter in sitters)
    for gallery in galleries:
        assert len(gallery.sitters) >= 3
        assert gallery.chance == 1 / len(gallery.sitters)
        assert {key_of(sitter.reference.truth) for sitter in gallery.sitters} == {gallery.key}
    assert [len(gallery.sitters) for gallery in galleries[:-1]] == sorted(
        (len(gallery.sitters) for gallery in galleries[:-1]), reverse=True
    )


def test_the_photo_that_conditions_is_never_the_one_that_is_compared_with(pictures: tuple[Picture, ...]) -> None:
    for gallery in choose_galleries(pictures, people=40, prompts=4):
        for sitter in gallery.sitters:
            views = [sitter.condition, sitter.reference, *sitter.others]
            assert len({view.file for view in views}) == len(views) == 3
            assert {view.person for view in views} == {sitter.person}


def test_a_gallerys_prompts_are_the_same_for_all_and_equal_in_all_but_clothes_and_background(
    pictures: tuple[Picture, ...],
) -> None:
    for gallery in choose_galleries(pictures, people=40, prompts=4):
        key = dict(gallery.key)
        assert len({prompt.text for prompt in gallery.prompts}) == 4
        for prompt in gallery.prompts:
            for name in ("gender", "hair_style", "glasses"):
                assert prompt.truth[name] == key[name]
        for name in ("hair_colour", "age_band"):
            assert len({prompt.truth[name] for prompt in gallery.prompts}) == 1
        assert len({prompt.truth["garment_colour"] for prompt in gallery.prompts}) >= 3


def test_prompts_are_captions_of_people_who_are_not_held_out(pictures: tuple[Picture, ...]) -> None:
    told = {prompt.text for gallery in choose_galleries(pictures, people=40, prompts=4) for prompt in gallery.prompts}
    assert told
    assert all(text.startswith("a portrait") for text in told)


def test_prompts_say_as_little_of_a_person_as_captions_do() -> None:
    prompts = choose_prompts(people(3000), key_of(_truth(1, 0)), 4)
    assert {prompt.truth["age_band"] for prompt in prompts} == {"middle-aged"}


def test_what_captions_do_not_say_is_not_asked_for() -> None:
    silent = [replace(one, truth={**one.truth, "fringe": bool(i % 2)}) for i, one in enumerate(people(30))]
    assert "fringe" in attribute_values(silent)
    assert "fringe" not in said_attributes(silent)
    assert "glasses" in said_attributes(silent)


def test_the_same_pictures_give_the_same_galleries_in_any_order(pictures: tuple[Picture, ...]) -> None:
    one = choose_galleries(pictures, people=20, prompts=3)
    assert choose_galleries(tuple(reversed(pictures)), people=20, prompts=3) == one


def test_somebody_whose_photo_is_refused_is_replaced(pictures: tuple[Picture, ...]) -> None:
    first = choose_galleries(pictures, people=10, prompts=3)[0].sitters[0].person
    galleries = choose_galleries(pictures, people=10, prompts=3, usable=lambda sitter: sitter.person != first)
    names = [sitter.person for gallery in galleries for sitter in gallery.sitters]
    assert first not in names
    assert len(names) == 10


def test_neighbouring_skin_tones_are_one_band() -> None:
    bands = [dict(key_of({"skin_tone": tone}))["skin_tone"] for tone in range(1, 7)]
    assert bands == ["1-2", "1-2", "3-4", "3-4", "5-6", "5-6"]


def test_people_can_be_matched_in_less(pictures: tuple[Picture, ...]) -> None:
    every = choose_galleries(pictures, people=40, prompts=3)
    fewer = choose_galleries(pictures, people=40, prompts=3, match=("gender",))
    assert len(every) > len(fewer) == 1
    assert fewer[0].chance == 1 / 40


def test_too_few_people_or_captions_are_said(pictures: tuple[Picture, ...]) -> None:
    with pytest.raises(BadInput, match="no 3 held-out people"):
        choose_galleries(people(5), match=MATCHED)
    with pytest.raises(BadInput, match="captions fit the gallery"):
        choose_galleries(pictures, people=10, prompts=500)


def _line(**row: Any) -> str:
    return json.dumps({"file": "a.png", "person": "p", "view": 0, "caption": "c", "truth": {}, **row}) + "\n"


def test_a_line_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    (tmp_path / "people.jsonl").write_text(_line() + _line(person="q")[:30])
    assert [picture.person for picture in read_pictures(tmp_path)] == ["p"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [("{]\n", "line 2: expected an object"), ('{"file": "a.png"}\n', "line 2: missing person"), ("[1]\n", "line 2")],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "people.jsonl").write_text(_line() + line)
    with pytest.raises(BadInput, match=sentence):
        read_pictures(tmp_path)


def test_attributes_are_read_from_the_data_and_measurements_are_none() -> None:
    values = attribute_values(people(30))
    assert values["garment_colour"] == tuple(sorted(COLOURS))
    assert values["glasses"] == (False, True)
    assert not {"skin_tone", "yaw_deg"} & values.keys()
