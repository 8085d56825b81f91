"""The cells of one line of a product list, read as what they should be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from face0_worker.contract.job import CROP, Guidance
from producer.lists.frames import FITS, LEAST_PX, MOST_PX, Frame, is_fit
from producer.lists.product_list import Line, Problems
from producer.lists.signs import JOINERS, LINE_SIGNS, hidden_sign, plain_number, same_look

MAX_SKU, MAX_PROMPT = 200, 2000
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
# a comma before one or two digits is a decimal comma; before three it may separate thousands, so it is refused
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,40}(?:,[0-9]{1,2})?|[0-9]{0,40}\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")


class Cells:
    """The cells of one line, read as what they should be; what they are not is added to the problems."""

    def __init__(self, line: Line, problems: Problems) -> None:
        self._line, self._problems = line, problems

    def given(self, column: str) -> bool:
        """Whether the line says anything there."""
        return bool(self._line.cells.get(column, ""))

    def wrong(self, column: str, sentence: str) -> None:
        self._problems.add(self._line.number, column, sentence)

    def text(
        self, column: str, longest: int, meaning: str, *, required: bool = False, allowed: str = LINE_SIGNS + JOINERS
    ) -> str:
        """Return a cell exactly as it is; `allowed`: the invisible characters that it may hold."""
        value = self._line.cells.get(column, "")
        if required and not value:
            self.wrong(column, f"is empty; expected {meaning}")
        elif len(value) > longest:
            self.wrong(column, f"has {len(value):,} characters; {at_most(longest)}")
        elif sign := hidden_sign(value, allowed):
            self.wrong(column, f"holds the character {sign}; remove it")
        else:
            return value
        return ""

    def whole(self, column: str, default: int, least: int, most: int) -> int:
        value = self._line.cells.get(column, "")
        if not value:
            return default
        plain = plain_number(value)
        number = int(plain) if _WHOLE.fullmatch(plain) else least - 1
        if not least <= number <= most:
            self.wrong(column, f"{quoted(value)} is not a whole number from {least} to {most}")
            return default
        return number

    def size(self, column: str, default: int) -> int:
        number = self.whole(column, default, 64, 2048)
        if number % 8:
            self.wrong(column, f"{number} is not a multiple of 8; expected pixels, as in 512")
        return number

    def one_of(self, column: str, known: Sequence[str], default: str) -> str:
        value = self._line.cells.get(column, "")
        if value and value not in known:
            self.wrong(column, f"{quoted(value)} is not known; expected one of {', '.join(known)}")
        return value if value in known else default

    def number(self, column: str, default: float, least: float, most: float, example: str) -> float:
        value = self._line.cells.get(column, "")
        if not value:
            return default
        plain = plain_number(value)
        number = float(plain.replace(",", ".")) if _DECIMAL.fullmatch(plain) else least - 1
        if not least <= number <= most:
            self.wrong(column, f"{quoted(value)} is not a number from {least:g} to {most:g}; expected {example}")
            return default
        return number

    def output(self, frames: Mapping[str, Frame]) -> Frame | None:
        """Read the exact size that the picture is brought to: a frame's, or one of its own; None: as rendered."""
        named = self._line.cells.get("frame", "")
        frame = frames.get(same_look(named))
        if named and frame is None:
            self.wrong("frame", f"{quoted(named)} is not known; expected one of {', '.join(frames)}")
        width = self.whole("output_width", frame.width if frame else 0, LEAST_PX, MOST_PX)
        height = self.whole("output_height", frame.height if frame else 0, LEAST_PX, MOST_PX)
        fit = self._line.cells.get("fit", "") or (frame.fit if frame else CROP)
        if not is_fit(fit):
            self.wrong("fit", f"{quoted(fit)} is not known; expected {FITS}")
        if bool(width) != bool(height):
            self.wrong("output_width", "and output_height go together; give both, or a frame")
        elif self.given("fit") and not width:
            self.wrong("fit", "says how a picture gets to its output size; give a frame, or output_width and _height")
        return Frame(width, height, fit) if width and height else None

    def guidance(self, default: Guidance) -> Guidance:
        """Read the paper's w, c and a, and the part of the steps in which they count."""
        made = Guidance(
            w=self.number("guidance", default.w, 0, 50, "the strength, as in 7.5"),
            c=self.number("guidance_c", default.c, 0, 2, "how much of face and prompt together, as in 1"),
            a=self.number("guidance_a", default.a, 0, 1, "how the rest splits between face and prompt, as in 0"),
            start=self.number("guidance_start", default.start, 0, 1, "a share of the steps, as in 0.2"),
            stop=self.number("guidance_stop", default.stop, 0, 1, "a share of the steps, as in 0.8"),
        )
        if made.start >= made.stop:
            self.wrong("guidance_start", "is not before guidance_stop; expected shares of the steps, as in 0.2 and 0.8")
            return default
        return made


def at_most(longest: int) -> str:
    """Return what is said of a text that is too long."""
    return f"expected at most {longest:,}"


def quoted(value: str) -> str:
    """Return a cell in quotes, shortened."""
    return repr(value if len(value) <= 40 else value[:37] + "...")
