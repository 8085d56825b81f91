"""The bars of the quality gate: what a picture must measure to be accepted, and the pure rule that decides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from face0_worker.contract.errors import BadInput
from face0_worker.contract.receipt import Verdict

DEFAULT_RETRIES = 2
MOST_RETRIES = 20
# of what a picture may be: unlike the rest of the gate these need no bar and always hold
ALWAYS = frozenset({"not_a_number", "black", "flat"})


@dataclass(frozen=True)
class Bars:
    """What a job's pictures must measure. None: that is measured and written, and nobody is rejected for it.

    `face`: a face must be found. `second_face`: the widest that a second face may be, relative to the first.
    `identity`: the least cosine to the person's face. `sharpness`: the least, in [0, 1]. `skin_drift`: the largest
    distance of the face's colour from the photo's, in CIELAB. `retries`: how often a rejected picture is made again.
    Raises: BadInput: a bar that can't be meant.
    """

    face: bool = False
    second_face: float | None = None
    identity: float | None = None
    sharpness: float | None = None
    skin_drift: float | None = None
    retries: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # refuses what is not a number, too
                raise BadInput(f"{name} is {value}; a bar from {low:g} to {high:g} is possible, or off")
        if not 0 <= self.retries <= MOST_RETRIES:
            raise BadInput(f"retries is {self.retries}; 0 to {MOST_RETRIES} are possible")

    def to_json(self) -> dict[str, Any]:
        """Return what differs from no bars at all, as plain JSON values; `from_json` reads it back exactly."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Bars:
        """Read bars written by `to_json`; names of a later version are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


_RANGES = {"second_face": (0.0, 1.0), "identity": (-1.0, 1.0), "sharpness": (0.0, 1.0), "skin_drift": (0.0, 200.0)}
# a second face under this share of the first is somebody in the background, or a pattern
SECOND_FACE = 0.4


@dataclass(frozen=True)
class Calibration:
    """A model's own bars, as `face0-worker model calibrate-gate` measured them on `pictures` pictures.

    `share` of the model's good pictures lies beyond each bar, and so would be rejected for it.
    """

    identity: float
    sharpness: float
    skin_drift: float | None
    pictures: int
    share: float

    def bars(self, retries: int = DEFAULT_RETRIES) -> Bars:
        """Return the bars that a job has where nobody says otherwise."""
        return Bars(True, SECOND_FACE, self.identity, self.sharpness, self.skin_drift, retries)


def of_model(facts: Mapping[str, Any]) -> Bars:
    """Return the default bars for the model that a worker offers with these facts: none where it was not calibrated."""
    gate = facts.get("gate")
    return Calibration(**gate).bars() if gate else Bars()


def judge(verdict: Verdict, bars: Bars) -> Verdict:
    """Return the verdict on what was measured: accepted, or the first reason against it. Pure and total.

    A number that was not measured (on a picture of before it was) speaks against nobody. What a human accepted stays
    accepted.
    """
    if verdict.accepted_by or verdict.reason in ALWAYS:
        return verdict
    reason = _against(verdict, bars)
    return replace(verdict, accepted=reason == "ok", reason=reason)


def _against(verdict: Verdict, bars: Bars) -> str:
    if not verdict.faces and (bars.face or bars.identity is not None):
        return "no_face"
    if bars.second_face is not None and verdict.second_face > bars.second_face:
        return "two_people"
    if _beyond(bars.identity, verdict.identity):
        return "wrong_person"
    if _beyond(bars.sharpness, verdict.sharpness):
        return "blurred"
    if bars.skin_drift is not None and verdict.skin_drift is not None and verdict.skin_drift > bars.skin_drift:
        return "skin_drift"
    return "ok"


def _beyond(least: float | None, measured: float | None) -> bool:
    return least is not None and measured is not None and not measured >= least


def told(verdict: Verdict, bars: Bars) -> str:
    """Return in one sentence why a picture was rejected, with the number and the bar."""
    sentences = {
        "not_a_number": "a value of the picture is not a number",
        "black": "the picture is black",
        "flat": "nothing is on the picture",
        "no_face": "no face was found on it",
        "two_people": f"a second face is {_number(verdict.second_face)} as wide as the first, "
        f"{_number(bars.second_face)} at most",
        "wrong_person": f"the likeness to the photo is {_number(verdict.identity)}, {_number(bars.identity)} needed",
        "blurred": f"its sharpness is {_number(verdict.sharpness)}, {_number(bars.sharpness)} needed",
        "skin_drift": f"the skin's colour is {_number(verdict.skin_drift)} away from the photo's, "
        f"{_number(bars.skin_drift)} at most",
    }
    return sentences.get(verdict.reason, verdict.reason)


def _number(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:.2f}"


def retry_seed(seed: int, turn: int) -> int:
    """Return the seed of the `turn`-th time (from 1) that the picture of base seed `seed` is made again."""
    drawn = hashlib.sha256(f"face0/second chance/1/{seed}/{turn}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") >> 1
