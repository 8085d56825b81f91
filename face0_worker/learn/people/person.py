"""Who somebody is: everything that stays the same from one picture of them to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from face0_worker.learn.people.body import Body

ANCESTRIES = ("african", "asian", "caucasian")
HEADS = ("oval", "round", "rectangular", "square", "triangular", "invertedtriangular", "diamond")
ASYMMETRIES = (
    "brown-1",
    "cheek-1",
    "ear-1",
    "eye-1",
    "eye-3",
    "jaw-1",
    "jaw-2",
    "mouth-1",
    "nose-1",
    "nose-3",
    "top-1",
)
SLIDER_DEVIATION = 0.30  # more gives caricatures
SLIDER_LIMIT = 0.85

# linear light; from light to dark, after Fitzpatrick's six types
TONES = np.array(
    [
        [0.70, 0.45, 0.345],
        [0.60, 0.36, 0.25],
        [0.47, 0.265, 0.165],
        [0.31, 0.165, 0.098],
        [0.18, 0.092, 0.055],
        [0.095, 0.050, 0.033],
    ]
)
HAIR_COLOURS = {
    "black": (0.014, 0.011, 0.010),
    "brown": (0.075, 0.038, 0.020),
    "blond": (0.42, 0.27, 0.12),
    "red": (0.26, 0.070, 0.022),
    "grey": (0.36, 0.36, 0.37),
}
IRIS = {
    "brown": (0.09, 0.040, 0.016),
    "hazel": (0.17, 0.11, 0.040),
    "blue": (0.10, 0.20, 0.34),
    "green": (0.11, 0.19, 0.10),
}
HAIR_OF_MEN = {
    "buzz cut": 0.16,
    "short": 0.44,
    "curly": 0.12,
    "afro": 0.06,
    "bald": 0.12,
    "long": 0.06,
    "side part": 0.04,
}
HAIR_OF_WOMEN = {"long": 0.30, "bob": 0.18, "ponytail": 0.16, "bun": 0.10, "curly": 0.12, "short": 0.08, "afro": 0.06}


@dataclass(frozen=True)
class Person:
    """One person. `sliders`, `asymmetry` are weights of targets; `tone` in [0, 5] is light to dark skin."""

    name: str
    gender: str
    femininity: float
    age: float
    weight: float
    ancestry: tuple[float, ...]
    head: tuple[str, float]
    sliders: tuple[float, ...]
    asymmetry: tuple[float, ...]
    tone: float
    undertone: float
    lips: float
    freckles: float
    blush: float
    iris: str
    brow: tuple[float, float, float]
    hair_style: str
    hair_colour: str
    hair_shade: float
    beard: str
    glasses: int
    wears_glasses: bool
    seed: int

    @property
    def age_band(self) -> str:
        """young, middle-aged or old."""
        return "young" if self.age < 0.38 else "middle-aged" if self.age < 0.7 else "old"

    @property
    def skin_tone(self) -> int:
        """1 (light) to 6 (dark)."""
        return int(min(5, self.tone)) + 1


def draw_person(number: int, seed: int, body: Body) -> Person:
    """Return person `number` of a seed: always the same one, whoever else is drawn."""
    rng = np.random.default_rng((seed, number))
    ancestry = rng.dirichlet([0.45] * 3)
    woman = rng.random() < 0.5
    age = float(rng.beta(1.2, 1.7))
    tone = float(np.clip(ancestry @ [4.3, 1.25, 0.45] + rng.normal(0, 0.4), 0, 5))
    styles = HAIR_OF_WOMEN if woman else HAIR_OF_MEN
    style = str(rng.choice(list(styles), p=list(styles.values())))
    colour = _hair_colour(rng, ancestry, age)
    beard = "none"
    if not woman:
        beard = str(rng.choice(["none", "stubble", "beard", "moustache"], p=[0.5, 0.2, 0.22, 0.08]))
    dark_eyes = ancestry[0] + ancestry[1] > 0.55
    iris = str(rng.choice(list(IRIS), p=[0.94, 0.06, 0, 0] if dark_eyes else [0.35, 0.15, 0.32, 0.18]))
    return Person(
        name=f"p{number:06d}",
        gender="woman" if woman else "man",
        femininity=float(np.clip(rng.normal(0.88 if woman else 0.12, 0.1), 0, 1)),
        age=age,
        weight=float(np.clip(rng.normal(0, 0.5), -1, 1)),
        ancestry=tuple(float(part) for part in ancestry),
        head=(str(rng.choice(HEADS)), float(rng.uniform(0.05, 0.45))),
        sliders=tuple(rng.normal(0, SLIDER_DEVIATION, len(body.sliders)).clip(-SLIDER_LIMIT, SLIDER_LIMIT).tolist()),
        asymmetry=tuple(rng.normal(0, 0.18, len(ASYMMETRIES)).clip(-0.5, 0.5).tolist()),
        tone=tone,
        undertone=float(rng.normal(0, 1)),
        lips=float(rng.uniform(0.35, 0.8) if woman else rng.uniform(0.15, 0.5)),
        freckles=float(rng.uniform(0.3, 1) if tone < 1.2 and rng.random() < 0.25 else 0),
        blush=float(rng.uniform(0.1, 1)),
        iris=iris,
        brow=(
            float(rng.uniform(0.55, 1.0)),
            float(rng.normal(0, 0.6)),
            float(rng.uniform(0.75, 1.35) * (0.85 if woman else 1.15)),
        ),
        hair_style=style,
        hair_colour=colour,
        hair_shade=float(rng.uniform(0.75, 1.3)),
        beard=beard,
        glasses=int(rng.integers(6)),
        wears_glasses=bool(rng.random() < 0.22),
        seed=int(rng.integers(1 << 30)),
    )


def _hair_colour(rng: np.random.Generator, ancestry: np.ndarray, age: float) -> str:
    if rng.random() < max(0.0, (age - 0.5) * 1.5):
        return "grey"
    if rng.random() < 0.12:
        return str(rng.choice(["blond", "red", "brown"]))  # dyed
    light = float(ancestry[2])
    return str(
        rng.choice(["black", "brown", "blond", "red"], p=[1 - 0.85 * light, 0.4 * light, 0.3 * light, 0.15 * light])
    )


def base_points(person: Person, body: Body, units: dict[str, float]) -> np.ndarray:
    """Return the base mesh (n, 3) as this person, with face units (name: weight) for the expression."""
    points = body.rest.copy()

    def add(name: str, weight: float) -> None:
        indices, moves = body.target(name)
        points[indices] += weight * moves

    sexes = (("female", person.femininity), ("male", 1 - person.femininity))
    ages = (("young", 1 - person.age), ("old", person.age))
    builds = (
        ("averageweight", 1 - abs(person.weight)),
        ("maxweight" if person.weight > 0 else "minweight", abs(person.weight)),
    )
    for sex, by_sex in sexes:
        for age, by_age in ages:
            for ancestry, share in zip(ANCESTRIES, person.ancestry, strict=True):
                add(f"macrodetails/{ancestry}-{sex}-{age}", share * by_sex * by_age)
            for build, by_build in builds:
                add(f"macrodetails/universal-{sex}-{age}-averagemuscle-{build}", by_sex * by_age * by_build)
    for (more, less), weight in zip(body.sliders, person.sliders, strict=True):
        name = more if weight > 0 else less
        add(name, abs(weight))
        if "/l-" in name:
            add(name.replace("/l-", "/r-"), abs(weight))
    for name, weight in zip(ASYMMETRIES, person.asymmetry, strict=True):
        add(f"asym/asym-{name}-{'l' if weight > 0 else 'r'}", abs(weight))
    add(f"head/head-{person.head[0]}", person.head[1])
    for unit, weight in units.items():
        add(f"unit/{unit}", weight)
    return points
