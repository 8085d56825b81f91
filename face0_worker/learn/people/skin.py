"""The colour of skin: what is painted on everybody's rest shape, and how one person's paint looks.

Positions are of the rest shape, in the head's coordinates (see hair.py), so that paint follows features when sliders
move them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from face0_worker.learn.people.body import Body
from face0_worker.learn.people.noise import value_noise
from face0_worker.learn.people.person import HAIR_COLOURS, TONES, Person

REST_EYES = np.array([0.0, 7.285, 1.25])  # between the eyes of the rest shape


@dataclass(frozen=True)
class Paint:
    """Masks (n,) in [0, 1] on the fine skin, and its rest positions (n, 3)."""

    rest: np.ndarray
    lips: np.ndarray
    lids: np.ndarray
    ears: np.ndarray
    mouth: np.ndarray
    cheeks: np.ndarray
    nose: np.ndarray
    under_eyes: np.ndarray
    beard: np.ndarray
    moustache: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray
    spots: np.ndarray

    def brows(self, person: Person) -> np.ndarray:
        """Return where this person's eyebrows are (n,) in [0, 1]: an arc over each eye, thin outside."""
        return _brow_mask(self.rest, person.brow[1], person.brow[2])


@functools.lru_cache(maxsize=1)
def paint_of(body: Body) -> Paint:
    """Work out everybody's masks once."""
    smooth = body.skin.smooth
    rest = smooth @ (body.rest - REST_EYES)
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]

    def blob(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> np.ndarray:
        return np.asarray(np.exp(-(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2)))

    lips = smooth @ body.lips
    front = 1 / (1 + np.exp(-(z + 0.55) * 9))
    # below a line from the sideburn over the cheek to the upper lip; above one under the jaw
    line = -0.28 - 0.42 * np.clip((z + 0.7) / 0.95, 0, 1) ** 1.3
    jaw = 1 / (1 + np.exp((y - line) * 26)) / (1 + np.exp(-(y + 1.32 + 0.25 * (z + 0.2)) * 16))
    lip_region = blob(0, -0.72, 0.35, 0.36, 0.16, 0.5)
    moustache = np.clip(1.6 * blob(0, -0.505, 0.38, 0.30, 0.075, 0.4) * (z > 0.0), 0, 1)
    bare_chin = np.clip(1 - 1.2 * lip_region, 0, 1)
    soft = rest.astype(np.float32)
    return Paint(
        rest=rest,
        lips=np.clip(lips * 1.3, 0, 1),
        lids=smooth @ body.lids,
        ears=smooth @ body.ears,
        mouth=np.clip((smooth @ body.mouth - 0.3) * 2, 0, 1),
        cheeks=blob(0.42, -0.38, 0.1, 0.24, 0.2, 0.5),
        nose=blob(0, -0.42, 0.45, 0.16, 0.14, 0.3),
        under_eyes=blob(0.31, -0.15, 0.1, 0.17, 0.06, 0.3),
        beard=np.clip(front * jaw * bare_chin + moustache, 0, 1) * (1 - np.clip(lips * 1.6, 0, 1)),
        moustache=moustache * (1 - np.clip(lips * 1.6, 0, 1)),
        fine=value_noise(soft, 22.0, 1),
        coarse=value_noise(soft, 4.5, 2),
        spots=value_noise(soft, 17.0, 3),
    )


def albedo(person: Person, paint: Paint, brows: np.ndarray, scalp: np.ndarray, bald: bool) -> np.ndarray:
    """Return the colour of the skin (n, 3) in linear light; `brows` and `scalp` (n,) in [0, 1] are where
    hair covers it."""
    k = int(min(person.tone, 4.999))
    tone = TONES[k] * (1 - (person.tone - k)) + TONES[k + 1] * (person.tone - k)
    tone = tone * np.array([1 + 0.03 * person.undertone, 1.0, 1 - 0.06 * person.undertone])
    skin = np.tile(tone, (len(paint.rest), 1))
    skin *= (1 + 0.035 * paint.fine + 0.05 * paint.coarse)[:, None]
    light_skin = 1 - person.tone / 6

    def towards(mask: np.ndarray, colour: np.ndarray) -> None:
        skin[:] = skin * (1 - mask[:, None]) + mask[:, None] * colour

    red = tone * np.array([1.05, 0.68, 0.62])
    towards(0.55 * person.blush * light_skin * paint.cheeks, red)
    towards(0.45 * light_skin * paint.nose, red)
    towards(0.30 * paint.ears * light_skin, red)
    towards((0.22 + 0.25 * person.age) * paint.under_eyes, tone * np.array([0.70, 0.60, 0.62]))
    towards(0.35 * paint.lids, tone * np.array([0.80, 0.68, 0.66]))
    if person.freckles:
        towards(
            person.freckles * 0.5 * np.clip(paint.spots * 2.4 - 0.7, 0, 1) * np.clip(paint.cheeks + paint.nose, 0, 1),
            tone * 0.5,
        )
    lip = tone * np.array([0.85, 0.50, 0.50]) * (1 - 0.2 * person.lips) + np.array([0.10, 0.0, 0.005]) * light_skin
    towards(np.clip(paint.lips * (0.55 + 0.5 * person.lips), 0, 0.95), lip)
    towards(paint.mouth, np.array([0.16, 0.035, 0.03]))
    hair = np.array(HAIR_COLOURS[person.hair_colour]) * person.hair_shade
    shadow = tone * 0.55 + hair * 0.25
    if person.beard != "none":
        share = {"stubble": 0.5, "beard": 0.85, "moustache": 0.8}[person.beard]
        mask = paint.moustache if person.beard == "moustache" else paint.beard
        grain = 0.75 + 0.5 * np.clip(value_noise(paint.rest.astype(np.float32), 40.0, 5), -1, 1)
        towards(np.clip(share * mask * grain, 0, 1), shadow if person.beard == "stubble" else hair * 1.2)
    towards(np.clip(0.75 * person.brow[0] * brows, 0, 0.9), np.minimum(hair * 0.75, 0.13))
    if not bald:
        towards(np.clip(scalp, 0, 1), hair * 0.5 + 0.1 * tone)
    return np.asarray(np.clip(skin, 0.003, 0.95))


def _brow_mask(rest: np.ndarray, arch: float, thick: float) -> np.ndarray:
    mask = np.zeros(len(rest))
    near = (np.abs(rest[:, 1] - 0.22) < 0.3) & (rest[:, 2] > -0.5)
    x, y = np.abs(rest[near, 0]), rest[near, 1]
    along = np.clip((x - 0.11) / 0.47, 0, 1)
    centre = 0.225 + (0.048 + 0.022 * arch) * np.sin(np.pi * np.clip(along * 0.85, 0, 1)) - 0.055 * along**3
    width = 0.044 * thick * (1.0 - 0.62 * along**1.5)
    inside = np.exp(-(((y - centre) / width) ** 4))
    ends = 1 / (1 + np.exp(-(x - 0.10) * 50)) / (1 + np.exp((x - 0.585) * 45))
    mask[near] = inside * ends
    return mask
