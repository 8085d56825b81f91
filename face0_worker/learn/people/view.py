"""One picture of somebody: what changes from picture to picture, and the caption that says it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from face0_worker.learn.people.colours import COLOURS
from face0_worker.learn.people.person import HAIR_OF_MEN, HAIR_OF_WOMEN, Person

SCENES = ("spring", "summer", "autumn", "winter", "city")
GARMENTS = ("t-shirt", "turtleneck", "v-neck sweater", "shirt", "hoodie", "jacket")
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smiling": {"mouthSmileLeft": 0.75, "mouthSmileRight": 0.75, "cheekSquintLeft": 0.5, "cheekSquintRight": 0.5},
    "laughing": {
        "mouthSmileLeft": 0.9,
        "mouthSmileRight": 0.9,
        "jawOpen": 0.22,
        "mouthUpperUpLeft": 0.35,
        "mouthUpperUpRight": 0.35,
        "cheekSquintLeft": 0.8,
        "cheekSquintRight": 0.8,
        "eyeSquintLeft": 0.4,
        "eyeSquintRight": 0.4,
    },
    "surprised": {
        "browInnerUp": 0.8,
        "browOuterUpLeft": 0.7,
        "browOuterUpRight": 0.7,
        "eyeWideLeft": 0.7,
        "eyeWideRight": 0.7,
        "jawOpen": 0.28,
    },
    "stern": {
        "browDownLeft": 0.8,
        "browDownRight": 0.8,
        "mouthPressLeft": 0.5,
        "mouthPressRight": 0.5,
        "mouthFrownLeft": 0.45,
        "mouthFrownRight": 0.45,
        "eyeSquintLeft": 0.3,
        "eyeSquintRight": 0.3,
    },
}
_HAIR_WORDS = {
    "short": "short {} hair",
    "side part": "side-parted {} hair",
    "long": "long {} hair",
    "bob": "a {} bob",
    "curly": "curly {} hair",
    "ponytail": "{} hair in a ponytail",
    "bun": "{} hair in a bun",
    "afro": "a {} afro",
    "buzz cut": "a {} buzz cut",
}


@dataclass(frozen=True)
class Light:
    """Where light comes from, seen from the camera (degrees; azimuth to the picture's right), how much of it comes from
    there in [0, 1], its temperature, and how large the lamp is."""

    azimuth: float
    elevation: float
    strength: float
    kelvin: float
    softness: float
    rim: float


@dataclass(frozen=True)
class View:
    """One picture. Angles in degrees; `units` are the face units of the expression."""

    number: int
    expression: str
    units: dict[str, float]
    yaw: float
    pitch: float
    roll: float
    turn: float
    gaze: tuple[float, float]
    light: Light
    garment: str
    garment_colour: str
    background: str
    hair_style: str
    fringe: bool
    glasses: bool
    zoom: float
    shift: tuple[float, float]
    seed: int


def draw_view(person: Person, number: int, seed: int) -> View:
    """Return view `number` of a person: always the same one."""
    rng = np.random.default_rng((seed, person.seed, number))
    expression = str(rng.choice(list(EXPRESSIONS), p=[0.42, 0.28, 0.14, 0.08, 0.08]))
    force = float(rng.uniform(0.75, 1.1))
    units = {unit: force * weight for unit, weight in EXPRESSIONS[expression].items()}
    for unit in (
        "mouthLeft",
        "mouthRight",
        "browInnerUp",
        "jawForward",
        "mouthPucker",
        "eyeBlinkLeft",
        "eyeBlinkRight",
    ):
        units[unit] = units.get(unit, 0) + float(np.clip(rng.normal(0, 0.05), 0, 0.12))
    for unit in ("eyeWideLeft", "eyeWideRight"):  # the base mesh looks sleepy
        units[unit] = units.get(unit, 0) + 0.22
    styles = HAIR_OF_WOMEN if person.gender == "woman" else HAIR_OF_MEN
    style = person.hair_style
    if style != "bald" and rng.random() < 0.25:  # another haircut: the face has to be recognised without it
        style = str(rng.choice([name for name in styles if name != "bald"]))
    plain = rng.random() < 0.62
    return View(
        number=number,
        expression=expression,
        units=units,
        yaw=float(np.clip(rng.normal(0, 11), -28, 28)),
        pitch=float(np.clip(rng.normal(0, 4), -10, 10)),
        roll=float(np.clip(rng.normal(0, 2.5), -6, 6)),
        turn=float(np.clip(rng.normal(0, 9), -22, 22)),
        gaze=(float(rng.normal(0, 2.5)), float(rng.normal(0, 2.0))),
        light=Light(
            azimuth=float(rng.uniform(-65, 65)),
            elevation=float(rng.uniform(8, 58)),
            strength=float(rng.uniform(0.25, 0.68)),
            kelvin=float(rng.normal(5500, 750)),
            softness=float(rng.uniform(0.06, 0.3)),
            rim=float(rng.uniform(0, 0.5) if rng.random() < 0.4 else 0),
        ),
        garment=str(rng.choice(GARMENTS)),
        garment_colour=str(rng.choice(list(COLOURS))),
        background=str(rng.choice(list(COLOURS) if plain else SCENES)),
        hair_style=style,
        fringe=bool(style in ("bob", "long", "short") and rng.random() < 0.3),
        glasses=bool(rng.random() < (0.85 if person.wears_glasses else 0.10)),
        zoom=float(rng.uniform(0.95, 1.06)),
        shift=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.04))),
        seed=int(rng.integers(1 << 30)),
    )


def neutral(view: View) -> View:
    """Return the view as a photo for a passport: frontal, unmoved, evenly lit."""
    light = Light(azimuth=-20, elevation=30, strength=0.35, kelvin=5500, softness=0.3, rim=0.0)
    return replace(view, expression="neutral", units={}, yaw=0, pitch=0, roll=0, turn=0, gaze=(0, 0), light=light)


def caption(person: Person, view: View) -> str:
    """Say what the picture shows, in one fixed grammar; training varies it."""
    mood = {
        "neutral": "",
        "smiling": "smiling ",
        "laughing": "laughing ",
        "surprised": "surprised ",
        "stern": "stern ",
    }[view.expression]
    age = {"young": "young ", "middle-aged": "", "old": "old "}[person.age_band]
    looks = []
    if view.hair_style != "bald":
        looks.append(_HAIR_WORDS[view.hair_style].format(person.hair_colour))
    else:
        looks.append("a bald head")
    if person.beard in ("beard", "moustache"):
        looks.append(f"a {person.beard}")
    if view.glasses:
        looks.append("glasses")
    joined = looks[0] if len(looks) == 1 else ", ".join(looks[:-1]) + " and " + looks[-1]
    where = f"{view.background} background" if view.background in COLOURS else PLACES[view.background]
    a = "an" if view.garment_colour[0] in "aeiou" else "a"
    who = f"{mood}{age}{person.gender}"
    one = "an" if who[0] in "aeiou" else "a"
    clothes = f"{a} {view.garment_colour} {view.garment}"
    return f"a portrait of {one} {who} with {joined} wearing {clothes}, {where}"


PLACES = {
    "spring": "spring blossoms in the background",
    "summer": "a summer beach in the background",
    "autumn": "autumn leaves in the background",
    "winter": "winter snow in the background",
    "city": "a city at night in the background",
}


def truth(person: Person, view: View) -> dict[str, Any]:
    """Everything that an attribute classifier or an evaluation asks, as JSON."""
    return {
        "gender": person.gender,
        "age_band": person.age_band,
        "age": round(person.age, 3),
        "skin_tone": person.skin_tone,
        "ancestry": [round(part, 3) for part in person.ancestry],
        "hair_style": view.hair_style,
        "hair_colour": person.hair_colour if view.hair_style != "bald" else "none",
        "fringe": view.fringe,
        "glasses": view.glasses,
        "beard": person.beard in ("beard", "moustache"),
        "facial_hair": person.beard,
        "expression": view.expression,
        "yaw_deg": round(view.yaw + view.turn, 1),
        "pitch_deg": round(view.pitch, 1),
        "roll_deg": round(view.roll, 1),
        "light": {
            "azimuth_deg": round(view.light.azimuth, 1),
            "elevation_deg": round(view.light.elevation, 1),
            "strength": round(view.light.strength, 3),
            "kelvin": round(view.light.kelvin),
        },
        "garment": view.garment,
        "garment_colour": view.garment_colour,
        "background": view.background,
    }
