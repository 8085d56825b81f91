"""Read a product list (CSV, JSONL or XLSX) as render items, one at a time, or say everything that is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import ITEM_FORM, SAMPLERS, Guidance, RenderItem
from producer.lists.cells import MAX_PROMPT, MAX_SKU, Cells, at_most, quoted
from producer.lists.frames import PRESETS, Frame, read_frames, render_size
from producer.lists.glossary import Glossary, UnknownWords, read_glossary
from producer.lists.list_file import ListFile
from producer.lists.product_list import JSONL, Line, Problems, open_list, read_lines
from producer.lists.prompt_template import EmptyColumn, Template, UnfitLine
from producer.lists.signs import same_look
from producer.lists.variants import Variant, Variants, read_variants
from producer.lists.workbook import Workbook

MOST_PICTURES = 100_000
_CAPTIONS = ("name", "title", "商品名")


@dataclass(frozen=True)
class ItemDefaults:
    """What an item gets where its line says nothing: usually what the model was trained for. Sizes in pixels.

    `aspect`: how long pictures may be, long side by short side. `output_sizes`: whether the workers that offer the
    model can bring pictures to an output size.
    """

    width: int = 128
    height: int = 128
    steps: int = 20
    sampler: str = RenderItem.sampler
    guidance: Guidance = field(default_factory=Guidance)
    precision: str = "float32"
    aspect: float = 1.0
    output_sizes: bool = True

    @classmethod
    def of_model(cls, facts: Mapping[str, object]) -> ItemDefaults:
        """Read the defaults from the facts that a worker offers with its model."""
        plain = cls()
        size, guidance = facts.get("size"), facts.get("guidance")
        return cls(
            width=int(str(size)) if size else plain.width,
            height=int(str(size)) if size else plain.height,
            steps=int(str(facts.get("steps") or plain.steps)),
            sampler=str(facts.get("sampler") or plain.sampler),
            guidance=Guidance(**guidance) if isinstance(guidance, dict) else plain.guidance,
            precision=str(facts.get("precision") or plain.precision),
            aspect=float(str(facts.get("aspect") or plain.aspect)),
            output_sizes=int(str(facts.get("item_form") or 1)) >= ITEM_FORM,
        )


@dataclass(frozen=True)
class ListOptions:
    """How a list becomes items, beyond its template: the files are read when the list is opened.

    `sheet`: of a workbook, "" for the first. `most`: pictures that variants may make. docs/product_lists.md has the
    forms of the files.
    """

    sheet: str = ""
    variants: Path | None = None
    frames: Path | None = None
    glossary: Path | None = None
    strict_glossary: bool = False
    most: int = MOST_PICTURES


@dataclass(frozen=True)
class ProductList:
    """The items of a list file, in its order; all valid, or none. The file is read anew each time, line by line.

    Iterating holds one line in memory. Where a line is wrong no item after it is given, but the rest is read for
    what else is wrong, and BadInput is raised at the end: take nothing as done before the end.
    `unknown` are the Japanese words that the last iteration found without an entry in the glossary.
    """

    file: ListFile | Workbook
    template: Template | None
    defaults: ItemDefaults
    variants: Variants | None = None
    frames: Mapping[str, Frame] = field(default_factory=lambda: PRESETS)
    glossary: Glossary | None = None
    strict_glossary: bool = False
    most: int = MOST_PICTURES
    unknown: UnknownWords = field(default_factory=UnknownWords)

    def __iter__(self) -> Iterator[RenderItem]:
        """Raises: BadInput: every problem with its line and column (the first 20 in words); the file has changed."""
        problems, made, columns = Problems(), 0, dict[str, None]()
        self.unknown.clear()
        for line in read_lines(self.file, problems):
            if not columns:
                self._check_columns(line)
            columns.update(dict.fromkeys(line.cells))
            for variant in self.variants.of(line.cells) if self.variants else (None,):
                before = problems.count
                item = self._item(line, variant, problems)
                made += 1
                if self.variants and made > self.most:
                    raise BadInput(self._too_many())
                if not problems.count:
                    yield item
                if problems.count > before:
                    break  # the line's other variants are wrong in the same way
            if problems.too_many:
                break
        if problems.count:
            raise BadInput(problems.said(self.file.name))
        if not columns:
            raise BadInput(f"{self.file.name} holds no products: there is no line under the column names")
        self._refuse_unknown_columns(columns)

    def _item(self, line: Line, variant: Variant | None, problems: Problems) -> RenderItem:
        """Return the item of a line; without meaning once there is a problem."""
        whole = line if variant is None else Line(line.number, {**line.cells, **variant.cells})
        cell = Cells(whole, problems)
        sku = cell.text("sku", MAX_SKU, "the product's own number or code", required=True, allowed="")
        prompt = self._in_prompt_words(_prompt(cell, whole, self.template, problems), "prompt", line, problems)
        if len(prompt) > MAX_PROMPT:
            problems.add(line.number, "", f"makes a prompt of {len(prompt):,} characters; {at_most(MAX_PROMPT)}")
        negative = cell.text("negative_prompt", MAX_PROMPT, "what the picture must not show")
        output = cell.output(self.frames)
        defaults = self.defaults
        width, height = defaults.width, defaults.height
        if output is not None:
            if not defaults.output_sizes:
                raise BadInput("the worker that offers this model is too old to make output sizes; update it first")
            width, height = render_size(output.width, output.height, defaults.width, defaults.aspect)
        return RenderItem(
            sku=sku,
            prompt=prompt,
            negative_prompt=self._in_prompt_words(negative, "negative_prompt", line, problems),
            # a product's pictures for several frames get file names that tell them apart
            variant=variant.name if variant else same_look(line.cells.get("frame", "")),
            seed=cell.whole("seed", stable_seed(sku), 0, 2**63 - 1),
            width=cell.size("width", width),
            height=cell.size("height", height),
            steps=cell.whole("steps", defaults.steps, 1, 500),
            sampler=cell.one_of("sampler", SAMPLERS, defaults.sampler),
            guidance=cell.guidance(defaults.guidance),
            precision=defaults.precision,
            output_width=output.width if output else 0,
            output_height=output.height if output else 0,
            fit=output.fit if output else "",
        )

    def _in_prompt_words(self, text: str, column: str, line: Line, problems: Problems) -> str:
        if self.glossary is None:
            return text
        translated, unknown = self.glossary.translate(text)
        for word in unknown:
            self.unknown.add(word, line.number)
            if self.strict_glossary:
                problems.add(line.number, column, f"{quoted(word)} has no entry in the glossary")
        return translated

    def _check_columns(self, first: Line) -> None:
        alike = self.file.path.suffix.lower() not in JSONL  # objects may each have other names
        if self.variants:
            used = self.template.columns if self.template else ()
            self.variants.check(list(first.cells), self.file.name, used=used, all_known=alike)
        if alike:
            self._require(first.cells)

    def _refuse_unknown_columns(self, columns: Mapping[str, None]) -> None:
        """Refuse a template or rule with a name that no object has; rows were checked at the first line."""
        if self.variants:
            self.variants.check(list(columns), self.file.name, used=self.template.columns if self.template else ())
        self._require(columns)

    def _require(self, columns: Collection[str]) -> None:
        there = [name for name in columns if name] + sorted(self.variants.columns if self.variants else ())
        needed = ("sku", *self.template.columns) if self.template else ("sku", "prompt")
        missing = [name for name in needed if name not in there]
        if missing:
            hint = (
                ""
                if self.template or "prompt" not in missing
                else "; or make prompts from other columns with --template"
            )
            said = f"column {', '.join(missing)} is missing; the columns are {', '.join(there)[:500] or 'none'}{hint}"
            raise BadInput(f"{self.file.name}: {said}")

    def _too_many(self) -> str:
        made_by = f"{self.variants.file} ({len(self.variants.every):,} combinations a product)" if self.variants else ""
        return (
            f"{self.file.name} with {made_by} makes more than {self.most:,} pictures; exclude some, or allow more "
            "with --max-pictures. Nothing was enqueued"
        )


def _prompt(cell: Cells, line: Line, template: Template | None, problems: Problems) -> str:
    if template is None:
        return cell.text("prompt", MAX_PROMPT, "what the picture shows", required=True)
    values = {name: cell.text(name, MAX_PROMPT, "a value for the template") for name in template.columns}
    try:
        return template.fill(values)
    except EmptyColumn as empty:
        if not line.cells.get(empty.column):  # else it is told already what is wrong with it
            problems.add(line.number, empty.column, "is empty; expected a value for the template")
    except UnfitLine as error:
        problems.add(line.number, "", f"does not fit the template: {error}")
    return ""


def read_items(
    path: Path, template: str | None = None, defaults: ItemDefaults | None = None, options: ListOptions | None = None
) -> ProductList:
    """Return the items of a CSV, JSONL or XLSX list, to be iterated as often as needed.

    `template` makes the prompt from any columns: "a portrait of a person wearing {garment}".
    A line without a seed gets one made from its SKU, so the same list gives the same pictures.
    Raises: BadInput: no product list, unreadable, in no known encoding, or the template or a file of the options is
    wrong; what is wrong with single lines is told when the items are iterated.
    """
    how = options or ListOptions()
    return ProductList(
        open_list(path, how.sheet),
        Template.parse(template) if template is not None else None,
        defaults or ItemDefaults(),
        read_variants(how.variants) if how.variants else None,
        read_frames(how.frames),
        read_glossary(how.glossary) if how.glossary else None,
        how.strict_glossary,
        how.most,
    )


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
