"""The same picture said in other words: prompts need not follow one grammar to the letter."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

# what `face0-worker people` writes: opening, who, looks, clothes, place
_GRAMMAR = re.compile(
    r"a portrait of (?P<who>an? .+?)(?: with (?P<looks>.+?))?(?: wearing (?P<worn>.+?))?(?:, (?P<place>[^,]+))?"
)
_OPENINGS = ("a portrait of", "a portrait of", "a portrait of", "a photo of", "portrait of", "a picture of", "")
_WEARING = ("wearing", "wearing", "wearing", "in", "dressed in", "who wears")
_PLACES = ("{}", "{}", "{}", "on a {}", "in front of a {}", "with a {}")
_GARMENTS = {
    "turtleneck": ("turtleneck sweater", "roll-neck", "polo neck", "turtleneck top"),
    "t-shirt": ("tee", "tshirt", "T-shirt"),
    "v-neck sweater": ("v-neck", "v-neck jumper", "sweater"),
    "shirt": ("button-up shirt", "collared shirt"),
    "hoodie": ("hooded sweatshirt", "hooded sweater"),
}
_AGES = ("young", "old")


@dataclass(frozen=True)
class Caption:
    """A caption of rendered people in its parts; `looks` are single traits, "" is what it does not say."""

    who: str
    looks: tuple[str, ...]
    worn: str
    place: str

    @classmethod
    def parse(cls, text: str) -> Caption | None:
        """Return the parts of a caption in the grammar of rendered people; None where it follows another."""
        found = _GRAMMAR.fullmatch(text)
        if found is None:
            return None
        looks = tuple(part for part in re.split(r", | and ", found["looks"] or "") if part)
        return cls(found["who"].split(" ", 1)[1], looks, found["worn"] or "", found["place"] or "")


def wordings(caption: str, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Return `count` wordings of a caption, the caption itself first.

    They leave parts out and put them in other words, and contradict nothing: colour stays with its garment. A
    caption in another grammar than that of rendered people is returned as it is, `count` times.
    """
    parts = Caption.parse(caption)
    if parts is None:
        return (caption,) * count
    return (caption, *(_reword(parts, rng) for _ in range(count - 1)))


def _reword(parts: Caption, rng: np.random.Generator) -> str:
    who = [word for word in parts.who.split(" ") if word not in _AGES or rng.random() < 0.6]
    if rng.random() < 0.4:
        who[-1] = "person"
    noun = " ".join(who)
    text = f"{rng.choice(_OPENINGS)} {'an' if noun[0] in 'aeiou' else 'a'} {noun}".strip()
    looks = _some(parts.looks, rng)
    if looks:
        text += " with " + (looks[0] if len(looks) == 1 else ", ".join(looks[:-1]) + " and " + looks[-1])
    if parts.worn and rng.random() < 0.93:
        text += f" {rng.choice(_WEARING)} {_garment(parts.worn, rng)}"
    if parts.place and rng.random() < 0.93:
        plain = parts.place.endswith(" background") and " in the " not in parts.place
        form = str(rng.choice(_PLACES)) if plain else "{}"
        said = form.format(parts.place).replace(" a orange", " an orange")
        text = f"{text}, {said}" if form == "{}" or rng.random() < 0.3 else f"{text} {said}"
    return text.replace("grey", "gray") if rng.random() < 0.15 else text


def _some(looks: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """All of the looks in half of the cases, none in some, else each with an even chance."""
    lot = rng.random()
    if lot < 0.5:
        return list(looks)
    return [] if lot < 0.65 else [look for look in looks if rng.random() < 0.5]


def _garment(worn: str, rng: np.random.Generator) -> str:
    """The garment, now and then by another of its names; the colour before it stays."""
    for name, others in _GARMENTS.items():
        if worn.endswith(" " + name):
            return worn.removesuffix(name) + str(rng.choice(others)) if rng.random() < 0.2 else worn
    return worn
