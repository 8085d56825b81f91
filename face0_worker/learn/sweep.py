"""Identity against fidelity: the same people and prompts under other guidance, intervals and steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from face0_worker.contract.guidance import evaluations
from face0_worker.learn.evaluate import Studio
from face0_worker.learn.looks import INDEPENDENT
from face0_worker.learn.measures import MATCHED, References, fidelity_rows, identity_rows
from face0_worker.learn.scores import Measured
from face0_worker.learn.shots import Setting, plan_shots

# what is changed, one group at a time, from the model's own defaults
STRENGTHS = (1.0, 2.0, 3.0, 5.0, 7.5)
# joint share c and face share a: the paper's regimes for photographs (c = 1), stylised and very unreal pictures, shares
# of the face alone, which take from the text, and above one of text alone, which exaggerate what the face adds to it
SHARES = ((1.0, 0.0), (0.7, 0.0), (0.7, 1.0), (0.5, 1.0), (1.4, 1.0), (1.5, 0.0))
INTERVALS = ((0.0, 1.0), (0.0, 0.7), (0.2, 1.0), (0.3, 1.0), (0.4, 1.0), (0.3, 0.8))
STEPS = (8, 12, 20, 40)
WAYS = ("ddim", "dpmpp_2m", "euler_ancestral")


@dataclass(frozen=True)
class SweepPlan:
    """How many people and prompts each setting is asked."""

    people: int = 16
    prompts: int = 4


@dataclass(frozen=True)
class Point:
    """One setting with what it reached; `group` says what was changed."""

    group: str
    setting: Setting
    rows: tuple[Measured, ...]

    def value(self, name: str) -> float:
        """Return a row's value, by its name without the arm; not a number where it was not measured."""
        return next((row.value for row in self.rows if row.name == f"sweep.{name}"), float("nan"))

    @property
    def identity(self) -> float:
        """Rank-1 in matched galleries by the independent recogniser."""
        return self.value(f"rank1.{MATCHED}.{INDEPENDENT}")

    @property
    def evaluations(self) -> int:
        """How often the denoiser is evaluated for one picture."""
        return evaluations(self.setting.guidance, self.setting.steps)

    @property
    def fidelity(self) -> float:
        """The share of pictures with garment, its colour and background all as the prompt says."""
        return next((row.value for row in self.rows if row.name.startswith("sweep.fidelity.") and "+" in row.name), 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the point as plain JSON values."""
        told = {"group": self.group, "guidance": asdict(self.setting.guidance), "steps": self.setting.steps}
        return {**told, "sampler": self.setting.sampler, "rows": [asdict(row) for row in self.rows]}


def settings_around(own: Setting) -> tuple[tuple[str, Setting], ...]:
    """Return the settings of a sweep with the name of what each changes; the model's own comes first."""
    told: list[tuple[str, Setting]] = [("own", own)]
    told += [("w", replace(own, guidance=replace(own.guidance, w=w))) for w in STRENGTHS]
    told += [("c, a", replace(own, guidance=replace(own.guidance, c=c, a=a))) for c, a in SHARES]
    told += [("interval", replace(own, guidance=replace(own.guidance, start=s, stop=e))) for s, e in INTERVALS]
    told += [("steps", replace(own, steps=steps)) for steps in STEPS]
    told += [("sampler", replace(own, sampler=sampler)) for sampler in WAYS]
    different: dict[Setting, str] = {}
    for group, setting in told:
        different.setdefault(setting, group)
    return tuple((group, setting) for setting, group in different.items())


def sweep(studio: Studio, references: References, plan: SweepPlan) -> tuple[Point, ...]:
    """Measure every setting on the same people, prompts and seeds."""
    points = []
    settings = settings_around(studio.setting)
    shots = plan_shots(references.galleries, prompts=plan.prompts, people=plan.people)
    for number, (group, setting) in enumerate(settings, 1):
        studio.say(f"sweep {number} of {len(settings)}: {setting}")
        arm = studio.arm("sweep", shots, studio.shoot(shots, setting))
        points.append(Point(group, setting, (*identity_rows(arm, references), *fidelity_rows(arm))))
    return tuple(points)


def best(points: Sequence[Point]) -> Point:
    """Return the point that serves both: the highest harmonic mean of identity and fidelity, cheapest on a tie."""
    return max(points, key=lambda point: (_both(point), -point.evaluations))


def _both(point: Point) -> float:
    whole = point.identity + point.fidelity
    return 2 * point.identity * point.fidelity / whole if whole > 0 else 0.0
