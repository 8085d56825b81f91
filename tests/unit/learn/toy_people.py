"""Seven real faces from two packages' sample photos, dressed up as rendered people: quick, and every face is found."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import insightface
import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from face0_worker.learn.dataset import is_held_out

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 190)}
SIX = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
# where faces lie, in pixels: their middles; left, top, right, bottom
_MIDDLES = ((110, 333), (323, 212), (521, 343), (795, 410), (955, 129), (1175, 335))
_REACH = 105
_ASTRONAUT = (110, 0, 350, 240)
SIDE = 128
VIEWS = 3


def toy_faces() -> list[Image.Image]:
    """Return the seven portraits, RGB, SIDE px."""
    with Image.open(SIX) as opened:
        six = opened.convert("RGB")
    cut = [six.crop((x - _REACH, y - _REACH, x + _REACH, y + _REACH)) for x, y in _MIDDLES]
    cut.append(Image.fromarray(data.astronaut()).crop(_ASTRONAUT))
    return [one.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for one in cut]


def write_toy_people(folder: Path) -> Path:
    """Write a folder as `face0-worker people` does: three people to learn from and four who are held out.

    Each has three views in other light, framed in the colours of garment (below) and background (above).
    """
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, (name, face) in enumerate(zip(_names(), toy_faces(), strict=True)):
        for view in range(VIEWS):
            garment, background = (list(COLOURS)[(number + k * view) % 3] for k in (1, 2))
            file = f"images/{name}_{view}.png"
            _dressed(face, COLOURS[garment], COLOURS[background], 0.85 + 0.15 * view).save(folder / file)
            told = f"a portrait of a person wearing a {garment} turtleneck, {background} background"
            truth = {
                "garment": "turtleneck",
                "garment_colour": garment,
                "background": background,
                "yaw_deg": 5.0 * view,
            }
            truth["glasses"] = False
            row = {"file": file, "person": name, "view": view, "caption": told, "truth": truth}
            lines.append(json.dumps(row) + "\n")
    (folder / "people.jsonl").write_text("".join(lines))
    return folder


def _names() -> list[str]:
    every = [f"toy{number:03}" for number in range(400)]
    held = [name for name in every if is_held_out(name)][:4]
    return [*itertools.islice((name for name in every if not is_held_out(name)), 3), *held]


def _dressed(face: Image.Image, below: tuple[int, ...], above: tuple[int, ...], light: float) -> Image.Image:
    lit = Image.fromarray((np.asarray(face, np.float64) * light).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(lit)
    draw.rectangle((0, SIDE - 12, SIDE, SIDE), fill=below)
    draw.rectangle((0, 0, SIDE, 8), fill=above)
    return lit
