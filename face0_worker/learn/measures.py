"""Rows of an evaluation: one kind of pictures (an arm) held against the galleries and the prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from face0_worker.learn.galleries import SAID, Gallery
from face0_worker.learn.looks import CONDITIONING, INDEPENDENT, Looks
from face0_worker.learn.scores import (
    NO_FACE,
    Measured,
    Trials,
    likeness,
    measured_mean,
    measured_verification,
    pixel_spread,
    rank_one,
    spread,
    trials,
)

MATCHED, EVERYONE = "matched", "everyone"


@dataclass(frozen=True)
class Arm:
    """Pictures of one kind. `people[i]` is whom picture i should show, `wanted[i]` what else it should show.

    Row i of `looks` is picture i.
    """

    name: str
    looks: Looks
    people: tuple[str, ...]
    wanted: tuple[Mapping[str, Any], ...]

    def of(self, person: str) -> list[int]:
        """Return the rows that should show a person."""
        return [row for row, name in enumerate(self.people) if name == person]


@dataclass(frozen=True)
class References:
    """One photo of each person, in the order of the galleries: what pictures are compared with."""

    galleries: tuple[Gallery, ...]
    looks: Looks

    def people(self) -> tuple[tuple[str, int], ...]:
        """Return everyone with the number of their gallery, in the order of `looks`."""
        return tuple(
            (sitter.person, number) for number, gallery in enumerate(self.galleries) for sitter in gallery.sitters
        )


def identity_rows(arm: Arm, references: References) -> list[Measured]:
    """Return likeness, rank-1 and verification by both recognisers, and how often no face is found."""
    rows = [measured_mean(f"{arm.name}.no_face", _per_person(arm, lambda mine: float(np.mean(~mine.found))))]
    for recogniser in (INDEPENDENT, CONDITIONING):
        for which in (MATCHED, EVERYONE):
            tried = _trials(arm, references, recogniser, which)
            named = f"{which}.{recogniser}"
            rows.append(measured_mean(f"{arm.name}.rank1.{named}", [rank_one(one) for one in tried]))
            rows.append(measured_verification(f"{arm.name}.auc.{named}", tried))
        rows.append(measured_mean(f"{arm.name}.likeness.{recogniser}", [likeness(one) for one in tried]))
        rows.append(measured_mean(f"{arm.name}.likeness_of_others.{recogniser}", _stranger(tried)))
    rows.append(measured_mean(f"{arm.name}.l2.{CONDITIONING}", _distances(arm, references)))
    return rows


def _per_person(arm: Arm, value: Callable[[Looks], float]) -> list[float]:
    return [value(arm.looks.rows(arm.of(person))) for person in dict.fromkeys(arm.people)]


def _stranger(tried: Sequence[Trials]) -> list[float]:
    """Return per person the mean cosine to other people's photos: what likeness is worth nothing below."""
    seen = [one.others[one.own > NO_FACE] for one in tried]
    return [float(cosines.mean()) for cosines in seen if cosines.size]


def _trials(arm: Arm, references: References, recogniser: str, which: str) -> list[Trials]:
    everyone, there = references.people(), set(arm.people)
    photos = references.looks.vectors[recogniser]
    tried = []
    for row, (person, number) in enumerate(everyone):
        if person not in there:
            continue
        against = [i for i, (_, other) in enumerate(everyone) if which == EVERYONE or other == number]
        mine = arm.looks.rows(arm.of(person))
        tried.append(trials(mine.vectors[recogniser], mine.found, photos[against], against.index(row)))
    return tried


def _distances(arm: Arm, references: References) -> list[float]:
    """Return per person the mean L2 distance of the conditioning recogniser's raw vectors, over faces found."""
    found = []
    for row, (person, _) in enumerate(references.people()):
        mine = arm.looks.rows(arm.of(person))
        if mine.found.any():
            apart = np.linalg.norm(mine.raw[mine.found] - references.looks.raw[row], axis=1)
            found.append(float(apart.mean()))
    return found


def fidelity_rows(arm: Arm) -> list[Measured]:
    """Return how often the classifiers tell what a picture should show: each attribute, and garment with background.

    A picture that was never made shows nothing.
    """
    names = list(dict.fromkeys(name for wanted in arm.wanted for name in wanted))
    told = [name for name in names if any(name in said for said in arm.looks.told)]
    rows = []
    for name in told:
        right = [said.get(name, _NOTHING) == wanted[name] for said, wanted in _pairs(arm)]
        rows.append(measured_mean(f"{arm.name}.fidelity.{name}", _by_person(arm, right)))
    together = [name for name in SAID if name in told]
    if together:
        every = [all(said.get(name, _NOTHING) == wanted[name] for name in together) for said, wanted in _pairs(arm)]
        rows.append(measured_mean(f"{arm.name}.fidelity.{'+'.join(together)}", _by_person(arm, every)))
    return rows


_NOTHING = object()


def _pairs(arm: Arm) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return list(zip(arm.looks.told, arm.wanted, strict=True))


def _by_person(arm: Arm, values: Sequence[bool]) -> list[float]:
    return [float(np.mean([values[row] for row in arm.of(person)])) for person in dict.fromkeys(arm.people)]


def diversity_rows(arm: Arm) -> list[Measured]:
    """Return how much pictures of one person that differ in nothing but the noise differ: faces found only."""
    vectors, pixels = [], []
    for person in dict.fromkeys(arm.people):
        mine = arm.looks.rows(arm.of(person))
        if mine.found.sum() > 1:
            vectors.append(spread(mine.vectors[INDEPENDENT][mine.found]))
            pixels.append(pixel_spread(mine.crops[mine.found]))
    return [
        measured_mean(f"{arm.name}.diversity.{INDEPENDENT}", vectors),
        measured_mean(f"{arm.name}.diversity.pixels", pixels),
    ]


def chance_rows(references: References) -> list[Measured]:
    """Return what guessing reaches in rank-1: a matter of the galleries' sizes alone."""
    everyone = references.people()
    matched = [references.galleries[number].chance for _, number in everyone]
    exact = [(MATCHED, float(np.mean(matched))), (EVERYONE, 1 / len(everyone))]
    return [Measured(f"chance.rank1.{which}", value, value, value, len(everyone)) for which, value in exact]
