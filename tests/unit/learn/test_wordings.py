"""Other words for the same picture: nothing is said that the picture does not show."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from face0_worker.learn.people.body import load_body
from face0_worker.learn.people.colours import COLOURS
from face0_worker.learn.people.person import draw_person
from face0_worker.learn.people.view import PLACES, caption, draw_view
from face0_worker.learn.wordings import Caption, wordings

CAPTION = "a portrait of a smiling old woman with long red hair and glasses wearing an orange shirt, grey background"
# what a rendered garment of each kind may truly be called
CALLED = {
    "t-shirt": {"t-shirt", "tee", "tshirt", "T-shirt"},
    "turtleneck": {"turtleneck", "turtleneck sweater", "roll-neck", "polo neck", "turtleneck top"},
    "v-neck sweater": {"v-neck sweater", "v-neck", "v-neck jumper", "sweater"},
    "shirt": {"shirt", "button-up shirt", "collared shirt"},
    "hoodie": {"hoodie", "hooded sweatshirt", "hooded sweater"},
    "jacket": {"jacket"},
}
FILLING = {"a", "an", "portrait", "photo", "picture", "of", "with", "and", "wearing", "in", "dressed", "who", "wears"}
FILLING |= {"on", "front"}


@pytest.fixture(scope="module")
def captions() -> list[str]:
    body = load_body()
    people = [draw_person(number, 11, body) for number in range(120)]
    return [caption(person, draw_view(person, view, 11)) for person in people for view in range(2)]


def _left_over(wording: str, said: str) -> set[str]:
    """Return the words of a wording that neither say what the caption says nor fill the sentence."""
    parts = Caption.parse(said)
    assert parts is not None
    colour, garment = parts.worn.split(" ", 2)[1:]
    phrases = [f"{colour} {name}" for name in CALLED[garment]]
    phrases += [parts.place, *parts.looks, *parts.who.split(" "), "person"]
    rest = f" {wording.replace('gray', 'grey')} ".replace(",", " ")
    for phrase in sorted(phrases, key=len, reverse=True):
        rest = rest.replace(f" {phrase} ", "  ")
    return set(rest.split()) - FILLING


def test_no_wording_says_what_the_caption_does_not_and_colours_stay_with_their_things(captions: list[str]) -> None:
    rng = np.random.default_rng(0)
    for said in captions:
        for wording in wordings(said, 12, rng):
            assert not _left_over(wording, said), (said, wording)


def test_the_check_of_wordings_sees_swapped_colours_and_inventions() -> None:
    assert not _left_over("a woman in an orange shirt with a grey background", CAPTION)
    for wrong in ("a woman in a grey shirt", "a woman with long orange hair", "a woman in an orange cotton shirt"):
        assert _left_over(wrong, CAPTION), wrong


def test_the_expression_is_always_said(captions: list[str]) -> None:
    for said in captions:
        mood = Caption.parse(said).who.split(" ")[0]  # type: ignore[union-attr]
        if mood in ("smiling", "laughing", "surprised", "stern"):
            assert all(f" {mood} " in f" {one}" for one in wordings(said, 12, np.random.default_rng(1)))


def test_articles_fit_the_word_behind_them(captions: list[str]) -> None:
    rng = np.random.default_rng(2)
    for said in captions:
        for wording in wordings(said, 12, rng):
            words = wording.replace(",", "").split()
            for article, word in pairwise(words):
                assert article not in ("a", "an") or (article == "an") == (word[0] in "aeiou"), wording


def test_wordings_vary_and_the_caption_itself_comes_first() -> None:
    said = wordings(CAPTION, 40, np.random.default_rng(0))
    assert said[0] == CAPTION
    assert len(said) == 40
    assert len(set(said)) > 30


def test_wordings_leave_things_out_so_that_each_can_be_said_alone(captions: list[str]) -> None:
    rng = np.random.default_rng(3)
    some = [one for said in captions for one in wordings(said, 12, rng)[1:]]
    for part in ("background", "hair"):
        share = np.mean([part in one for one in some])
        assert 0.3 < share < 0.97, part


def test_a_caption_of_another_grammar_is_left_as_it_is() -> None:
    assert wordings("mountain at dawn", 3, np.random.default_rng(0)) == ("mountain at dawn",) * 3


def test_every_caption_that_people_get_is_understood(captions: list[str]) -> None:
    for said in captions:
        parts = Caption.parse(said)
        assert parts is not None
        assert parts.looks
        assert parts.place in PLACES.values() or parts.place.removesuffix(" background") in COLOURS
