"""Sizes by the place where a picture is shown: exact pixels, how it gets to them, and what the model renders for it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import CROP, PAD
from producer.lists.list_file import shown_name
from producer.lists.signs import hidden_sign, plain_number, same_look
from producer.lists.yaml_file import read_yaml

LEAST_PX, MOST_PX = 16, 8192
_FIT = re.compile(rf"{CROP}|{PAD}( #[0-9a-fA-F]{{6}})?")
FITS = f'{CROP}, {PAD} or a colour, as in "{PAD} #ffffff"'


@dataclass(frozen=True)
class Frame:
    """A place where pictures are shown: exact size in pixels, and how a rendered picture gets to it."""

    width: int
    height: int
    fit: str = CROP


_SQUARE, _PORTRAIT, _STORY, _WIDE = Frame(1080, 1080), Frame(1080, 1350), Frame(1080, 1920), Frame(1920, 1080)
PRESETS: Mapping[str, Frame] = {
    "square": _SQUARE,
    "1:1": _SQUARE,
    "portrait": _PORTRAIT,
    "4:5": _PORTRAIT,
    "story": _STORY,
    "9:16": _STORY,
    "wide": _WIDE,
    "16:9": _WIDE,
    "banner": Frame(1200, 628),
    "thumbnail": Frame(400, 400),
}


def read_frames(path: Path | None) -> Mapping[str, Frame]:
    """Return the frames by name: the built-in ones, and those of a YAML file, which win.

    The file holds `name: {width: 1200, height: 628, fit: pad}`. Raises: BadInput.
    """
    if path is None:
        return PRESETS
    return {**PRESETS, **{name: _frame(path, name, said) for name, said in read_yaml(path).items()}}


def is_fit(text: str) -> bool:
    """Whether a text says how a picture gets to its output size."""
    return _FIT.fullmatch(text) is not None


def _frame(path: Path, name: str, said: object) -> Frame:
    where = f"{shown_name(path)}: frame {name}"
    if hidden_sign(name) or same_look(name) != name or not name.strip():
        raise BadInput(f"{where}: the name holds a character that can't be typed again; use plain letters")
    if not isinstance(said, dict) or not {"width", "height"} <= set(said) <= {"width", "height", "fit"}:
        raise BadInput(f"{where}: expected width, height and perhaps fit, as in {{width: 1200, height: 628, fit: pad}}")
    sides = [plain_number(str(said[side])) for side in ("width", "height")]
    if not all(re.fullmatch("[0-9]{1,6}", side) and LEAST_PX <= int(side) <= MOST_PX for side in sides):
        raise BadInput(f"{where}: width and height are whole pixels from {LEAST_PX} to {MOST_PX}")
    fit = str(said.get("fit", CROP))
    if not is_fit(fit):
        raise BadInput(f"{where}: fit is {fit!r}; expected {FITS}")
    return Frame(int(sides[0]), int(sides[1]), fit)


@lru_cache(maxsize=1000)
def render_size(width: int, height: int, native: int, longest: float) -> tuple[int, int]:
    """Return the size in pixels that is rendered for an output of width x height by a model of `native` x `native`.

    `longest`: the long side by the short one, beyond which the model was not trained: a model of squares draws two
    people beside each other, or one with a neck of three. Within it the shape is near the output's, the area near the
    model's own, and the sides are multiples of what its levels divide by: 64 px, less for a model under 512 px.
    """
    if longest <= 1:
        return native, native
    step = min(64, max(8, 1 << (max(native // 8, 1).bit_length() - 1)))
    ratio = min(longest, max(1 / longest, width / height))
    sides = range(step, 2 * native + 1, step)

    def far(size: tuple[int, int]) -> float:
        shape = abs(math.log(size[0] / size[1] / ratio))
        return shape + abs(math.log(size[0] * size[1] / native**2)) / 2

    possible = [one for one in product(sides, sides) if 1 / longest <= one[0] / one[1] <= longest]
    return min(possible, key=far) if possible else (native, native)
