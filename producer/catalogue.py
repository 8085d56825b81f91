"""Read a product list (CSV or JSONL) as render items, one at a time, or say everything that is wrong with it."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import SAMPLERS, Guidance, RenderItem
from producer.list_file import ListFile
from producer.product_list import JSONL, Line, Problems, open_list, read_lines
from producer.signs import JOINERS, LINE_SIGNS, hidden_sign, plain_number, same_look

_MAX_SKU, _MAX_PROMPT = 200, 2000
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
# a comma before one or two digits is a decimal comma; before three it may separate thousands, so it is refused
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,40}(?:,[0-9]{1,2})?|[0-9]{0,40}\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")
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


@dataclass(frozen=True)
class Template:
    """A prompt with columns in it: `parts` are (text before it, column or None at the end)."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, written: str) -> Template:
        """Read "a person wearing {garment}". Raises: BadInput: it names no column, or something else than columns."""
        try:
            found = list(string.Formatter().parse(written))
        except ValueError as error:
            raise BadInput(f"the template can't be read ({error}); write columns as {{garment}}") from error
        for _, name, form, turn in found:
            if name is not None and (not name.strip() or form or turn or any(sign in name for sign in ".[]")):
                raise BadInput(f"the template's {{{name}}} is not a column name; write columns as {{garment}}")
        if all(name is None for _, name, _, _ in found):
            said = "names no column, so every picture would be the same; write columns as {garment}"
            raise BadInput(f"the template {said}")
        return cls(tuple((text, None if name is None else same_look(name)) for text, name, _, _ in found))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it needs."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the prompt for one line's values."""
        return "".join(text + (values[name] if name is not None else "") for text, name in self.parts)


@dataclass(frozen=True)
class ProductList:
    """The items of a list file, in its order; all valid, or none. The file is read anew each time, line by line.

    Iterating holds one line in memory. Where a line is wrong no item after it is given, but the rest is read for
    what else is wrong, and BadInput is raised at the end: take nothing as done before the end.
    """

    file: ListFile
    template: Template | None
    defaults: ItemDefaults

    def __iter__(self) -> Iterator[RenderItem]:
        """Raises: BadInput: every problem with its line and column (the first 20 in words); the file has changed."""
        problems, empty = Problems(), True
        for line in read_lines(self.file, problems):
            if empty:
                _check_columns(line, self.template, self.file)
            empty = False
            item = _item(line, self.template, self.defaults, problems)
            if item is not None and not problems.count:
                yield item
            if problems.too_many:
                break
        if problems.count:
            raise BadInput(problems.said(self.file.name))
        if empty:
            raise BadInput(f"{self.file.name} holds no products: there is no line under the column names")


def read_items(path: Path, template: str | None = None, defaults: ItemDefaults | None = None) -> ProductList:
    """Return the items of a CSV or JSONL list, to be iterated as often as needed.

    `template` makes the prompt from any columns: "a portrait of a person wearing {garment}".
    A line without a seed gets one made from its SKU, so the same list gives the same pictures.
    Raises: BadInput: no product list, unreadable, in no known encoding, or the template is wrong; what is wrong with
    single lines is told when the items are iterated.
    """
    parsed = Template.parse(template) if template is not None else None
    return ProductList(open_list(path), parsed, defaults or ItemDefaults())


def read_captions(path: Path) -> dict[str, str]:
    """Return the product names of a list by SKU (column `name`, `title` or 商品名), for captions; {} without one."""
    found: dict[str, str] = {}
    for line in read_lines(open_list(path), Problems()):
        name = next((line.cells[column] for column in _CAPTIONS if line.cells.get(column)), "")
        if name and line.cells.get("sku"):
            found.setdefault(line.cells["sku"], name)
    return found


def stable_seed(sku: str) -> int:
    """Return the seed of a SKU that names none: the first 63 bits of its sha256."""
    return int.from_bytes(hashlib.sha256(sku.encode()).digest()[:8], "big") >> 1


def _check_columns(first: Line, template: Template | None, file: ListFile) -> None:
    needed = ("sku", *template.columns) if template else ("sku", "prompt")
    missing = [name for name in needed if name not in first.cells]
    # objects may each have other names, so there the line is told that lacks one
    if missing and file.path.suffix.lower() not in JSONL:
        there = ", ".join(name for name in first.cells if name) or "none"
        hint = "" if template or "prompt" not in missing else "; or make prompts from other columns with --template"
        raise BadInput(f"{file.name}: column {', '.join(missing)} is missing; the columns are {there[:500]}{hint}")


def _item(line: Line, template: Template | None, defaults: ItemDefaults, problems: Problems) -> RenderItem | None:
    cell, before = _Cells(line, problems), problems.count
    sku = cell.text("sku", _MAX_SKU, "the product's own number or code", required=True, allowed="")
    if template is None:
        prompt = cell.text("prompt", _MAX_PROMPT, "what the picture shows", required=True)
    else:
        expected = "a value for the template"
        prompt = template.fill(
            {name: cell.text(name, _MAX_PROMPT, expected, required=True) for name in template.columns}
        )
        if len(prompt) > _MAX_PROMPT:
            problems.add(line.number, "", f"makes a prompt of {len(prompt):,} characters; {_at_most(_MAX_PROMPT)}")
    item = RenderItem(
        sku=sku,
        prompt=prompt,
        negative_prompt=cell.text("negative_prompt", _MAX_PROMPT, "what the picture must not show"),
        seed=cell.whole("seed", stable_seed(sku), 0, 2**63 - 1),
        width=cell.size("width", defaults.width),
        height=cell.size("height", defaults.height),
        steps=cell.whole("steps", defaults.steps, 1, 500),
        sampler=cell.one_of("sampler", SAMPLERS, RenderItem.sampler),
        guidance=cell.guidance(defaults.guidance),
        precision=defaults.precision,
    )
    return item if problems.count == before else None


class _Cells:
    """The cells of one line, read as what they should be; what they are not is added to the problems."""

    def __init__(self, line: Line, problems: Problems) -> None:
        self._line, self._problems = line, problems

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
            self.wrong(column, f"has {len(value):,} characters; {_at_most(longest)}")
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
            self.wrong(column, f"{_quoted(value)} is not a whole number from {least} to {most}")
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
            self.wrong(column, f"{_quoted(value)} is not known; expected one of {', '.join(known)}")
        return value if value in known else default

    def number(self, column: str, default: float, least: float, most: float, example: str) -> float:
        value = self._line.cells.get(column, "")
        if not value:
            return default
        plain = plain_number(value)
        number = float(plain.replace(",", ".")) if _DECIMAL.fullmatch(plain) else least - 1
        if not least <= number <= most:
            self.wrong(column, f"{_quoted(value)} is not a number from {least:g} to {most:g}; expected {example}")
            return default
        return number

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


def _at_most(longest: int) -> str:
    return f"expected at most {longest:,}"


def _quoted(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:37] + "...")
