"""Read a product list (CSV or JSONL) into render items, or say everything that is wrong with it."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance, RenderItem
from producer.product_list import Line, Problem, read_lines

SHOWN = 20
_MAX_SKU, _MAX_PROMPT = 200, 2000
_CAPTIONS = ("name", "title", "商品名")


@dataclass(frozen=True)
class ItemDefaults:
    """What an item gets where its line says nothing: usually what the model was trained for. Sizes in pixels."""

    width: int = 128
    height: int = 128
    steps: int = 20
    guidance: Guidance = field(default_factory=Guidance)
    precision: str = "float32"

    @classmethod
    def of_model(cls, facts: Mapping[str, object]) -> ItemDefaults:
        """Read the defaults from the facts that a worker offers with its model."""
        plain = cls()
        size, guidance = facts.get("size"), facts.get("guidance")
        return cls(
            width=int(str(size)) if size else plain.width,
            height=int(str(size)) if size else plain.height,
            steps=int(str(facts.get("steps") or plain.steps)),
            guidance=Guidance(**guidance) if isinstance(guidance, dict) else plain.guidance,
            precision=str(facts.get("precision") or plain.precision),
        )


def read_items(path: Path, template: str | None = None, defaults: ItemDefaults | None = None) -> tuple[RenderItem, ...]:
    """Return the items of a CSV or JSONL list, in its order; all valid, or none.

    `template` makes the prompt from any columns: "a portrait of a person wearing {garment}".
    A line without a seed gets one made from its SKU, so the same list gives the same pictures.
    Raises: BadInput: every problem found with its line and column (the first 20 in words).
    """
    problems: list[Problem] = []
    wanted = _template_columns(template) if template is not None else ()
    lines = list(read_lines(path, problems))
    if lines:
        _check_columns(lines[0], wanted, template is not None, path)
    elif not problems:
        raise BadInput(f"{path.name} holds no products: there is no line under the column names")
    items = [_item(line, template, wanted, defaults or ItemDefaults(), problems) for line in lines]
    if problems:
        raise BadInput(_all_of(problems, path))
    return tuple(item for item in items if item is not None)


def read_captions(path: Path) -> dict[str, str]:
    """Return the product names of a list by SKU (column `name`, `title` or 商品名), for captions; {} without one."""
    found: dict[str, str] = {}
    for line in read_lines(path, []):
        name = next((line.cells[column] for column in _CAPTIONS if line.cells.get(column)), "")
        if name and line.cells.get("sku"):
            found.setdefault(line.cells["sku"], name)
    return found


def stable_seed(sku: str) -> int:
    """Return the seed of a SKU that names none: the first 63 bits of its sha256."""
    return int.from_bytes(hashlib.sha256(sku.encode()).digest()[:8], "big") >> 1


def _all_of(problems: Sequence[Problem], path: Path) -> str:
    ordered = sorted(problems, key=lambda problem: problem.line)
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    said = [f"{path.name}: {count}; nothing was enqueued", *(f"  {problem}" for problem in ordered[:SHOWN])]
    if len(ordered) > SHOWN:
        said.append(f"  ... and {len(ordered) - SHOWN} more")
    return "\n".join(said)


def _template_columns(template: str) -> tuple[str, ...]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise BadInput(f"the template can't be read ({error}); write columns as {{garment}}") from error
    names = [(name, form, turn) for _, name, form, turn in parts if name is not None]
    for name, form, turn in names:
        if not name.strip() or form or turn or any(sign in name for sign in ".[]"):
            raise BadInput(f"the template's {{{name}}} is not a column name; write columns as {{garment}}")
    if not names:
        raise BadInput("the template names no column, so every picture would be the same; write columns as {garment}")
    return tuple(name for name, _, _ in names)


def _check_columns(first: Line, wanted: Sequence[str], templated: bool, path: Path) -> None:
    needed = ("sku", *wanted) if templated else ("sku", "prompt")
    missing = [name for name in needed if name not in first.cells]
    if missing and path.suffix.lower() != ".jsonl":
        there = ", ".join(first.cells) or "none"
        hint = "" if templated or "prompt" not in missing else "; or make prompts from other columns with --template"
        raise BadInput(f"{path.name}: column {', '.join(missing)} is missing; the columns are {there}{hint}")


def _item(
    line: Line, template: str | None, wanted: Sequence[str], defaults: ItemDefaults, problems: list[Problem]
) -> RenderItem | None:
    cell, before = _Cells(line, problems), len(problems)
    sku = cell.text("sku", _MAX_SKU, "the product's own number or code", required=True)
    if any(ord(sign) < 32 for sign in sku):
        cell.wrong("sku", "holds a line break or control character; expected one line of text")
    if template is None:
        prompt = cell.text("prompt", _MAX_PROMPT, "what the picture shows", required=True)
    else:
        values = {name: cell.text(name, _MAX_PROMPT, "a value for the template", required=True) for name in wanted}
        prompt = "".join(
            text + (values[name] if name is not None else "") for text, name, _, _ in string.Formatter().parse(template)
        )
    item = RenderItem(
        sku=sku,
        prompt=prompt,
        negative_prompt=cell.text("negative_prompt", _MAX_PROMPT, "what the picture must not show"),
        seed=cell.whole("seed", stable_seed(sku), 0, 2**63 - 1),
        width=cell.size("width", defaults.width),
        height=cell.size("height", defaults.height),
        steps=cell.whole("steps", defaults.steps, 1, 500),
        guidance=cell.guidance("guidance", defaults.guidance),
        precision=defaults.precision,
    )
    return item if len(problems) == before else None


class _Cells:
    """The cells of one line, read as what they should be; what they are not is added to the problems."""

    def __init__(self, line: Line, problems: list[Problem]) -> None:
        self._line, self._problems = line, problems

    def wrong(self, column: str, sentence: str) -> None:
        self._problems.append(Problem(self._line.number, column, sentence))

    def text(self, column: str, longest: int, meaning: str, *, required: bool = False) -> str:
        value = self._line.cells.get(column, "")
        if required and not value:
            self.wrong(column, f"is empty; expected {meaning}")
        elif len(value) > longest:
            self.wrong(column, f"has {len(value)} characters; expected at most {longest}")
        elif "\0" in value:
            self.wrong(column, "holds a NUL character; expected text")
        elif any(0xD800 <= ord(sign) <= 0xDFFF for sign in value):
            self.wrong(column, "holds half of a surrogate pair; expected text")
        else:
            return value
        return ""

    def whole(self, column: str, default: int, least: int, most: int) -> int:
        value = self._line.cells.get(column, "")
        if not value:
            return default
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            self.wrong(column, f"{_quoted(value)} is not a whole number from {least} to {most}")
            return default
        return number

    def size(self, column: str, default: int) -> int:
        number = self.whole(column, default, 64, 2048)
        if number % 8:
            self.wrong(column, f"{number} is not a multiple of 8; expected pixels, as in 512")
        return number

    def guidance(self, column: str, default: Guidance) -> Guidance:
        value = self._line.cells.get(column, "")
        if not value:
            return default
        try:
            strength = float(value)
        except ValueError:
            strength = -1.0
        if not 0.0 <= strength <= 50.0:
            self.wrong(column, f"{_quoted(value)} is not a number from 0 to 50; expected the strength, as in 7.5")
            return default
        return Guidance(strength, default.c, default.a, default.start, default.stop)


def _quoted(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:37] + "...")
