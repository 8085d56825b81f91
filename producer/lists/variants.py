"""Variants of every product: axes (background x season x format ...), rules for what is made, and how many it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput
from producer.lists.list_file import shown_name
from producer.lists.product_list import KNOWN_COLUMNS, column_name
from producer.lists.signs import hidden_sign, same_look
from producer.lists.yaml_file import read_yaml

MOST_VARIANTS = 10_000  # of one product, before the rules
_LONGEST_NAME, _LONGEST_VARIANT = 60, 200
_FORM = "expected axes and perhaps include and exclude"


@dataclass(frozen=True)
class Variant:
    """One combination: its name, its value on each axis by name, and the cells that it adds to a product's line."""

    name: str
    values: Mapping[str, str]
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Rule:
    """What a combination of a product must be like: on each axis, or in each column, one of these texts."""

    wanted: Mapping[str, frozenset[str]]

    def matches(self, values: Mapping[str, str]) -> bool:
        """Whether all of it is so."""
        return all(same_look(values.get(name, "")) in texts for name, texts in self.wanted.items())


@dataclass(frozen=True)
class Variants:
    """What an axes file says. `every`: all combinations, in the order of the axes, before any rule."""

    file: str
    axes: tuple[str, ...]
    every: tuple[Variant, ...]
    include: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()

    @property
    def columns(self) -> frozenset[str]:
        """The columns that variants add to a line."""
        return frozenset(name for variant in self.every for name in variant.cells)

    @property
    def asked(self) -> frozenset[str]:
        """The columns of the list that the rules look at."""
        named = {name for rule in (*self.include, *self.exclude) for name in rule.wanted}
        return frozenset(named - set(self.axes))

    def of(self, cells: Mapping[str, str]) -> Iterator[Variant]:
        """Yield the variants of a line with these cells: included (all, without such a rule) and not excluded."""
        for variant in self.every:
            values = {**cells, **variant.values}
            if self.include and not any(rule.matches(values) for rule in self.include):
                continue
            if not any(rule.matches(values) for rule in self.exclude):
                yield variant

    def check(self, columns: Collection[str], file: str, *, used: Collection[str] = (), all_known: bool = True) -> None:
        """Check that axes and list fit together. `used`: the template's columns; `all_known`: every line has all.

        Raises: BadInput: a column stands in both, is set and used by nothing, or a rule names what is neither an axis
        nor a column.
        """
        idle = sorted(self.columns - {*self.axes, *KNOWN_COLUMNS, *used})
        if idle:
            raise BadInput(f"{self.file} sets {', '.join(idle)}, which is no column that a list has, nor the template")
        both = sorted(self.columns & set(columns))
        if both:
            raise BadInput(f"column {', '.join(both)} stands in {file} and in {self.file}; rename or remove one")
        lost = sorted(self.asked - set(columns)) if all_known else []
        if lost:
            raise BadInput(
                f"{self.file}: a rule names {', '.join(lost)}, which is no axis ({', '.join(self.axes)}) and no column "
                f"of {file} ({', '.join(columns)[:500]})"
            )

    def count(self, names: Iterable[str]) -> dict[str, dict[str, int]]:
        """Return how many of the items with these variant names have each value, by axis; 0 where none has."""
        made = Counter(names)
        counts: dict[str, dict[str, int]] = {axis: {} for axis in self.axes}
        for variant in self.every:
            for axis, value in variant.values.items():
                counts[axis][value] = counts[axis].get(value, 0) + made[variant.name]
        return counts


def read_variants(path: Path) -> Variants:
    """Read an axes file (docs/product_lists.md). Raises: BadInput: anything in it that is not as it should be."""
    file, said = shown_name(path), read_yaml(path)
    unknown = sorted(set(said) - {"axes", "include", "exclude"})
    if unknown or not isinstance(said.get("axes"), dict) or not said["axes"]:
        raise BadInput(
            f"{file}: {f'{unknown[0]} is not known' if unknown else 'axes is missing or no mapping'}; {_FORM}"
        )
    axes = {
        column_name(_name(axis, file, "axis")): _values(file, axis, values) for axis, values in said["axes"].items()
    }
    if len(axes) < len(said["axes"]):
        raise BadInput(f"{file}: two axes differ only in the width of their characters; rename one")
    many = math.prod(len(values) for values in axes.values())
    if many > MOST_VARIANTS:
        sizes = " x ".join(f"{len(values)} {axis}" for axis, values in axes.items())
        raise BadInput(f"{file}: {sizes} are {many:,} variants of each product; expected at most {MOST_VARIANTS:,}")
    every = tuple(_variant(axes, names, file) for names in product(*axes.values()))
    twice = [name for name, times in Counter(variant.name for variant in every).items() if times > 1]
    if twice:
        raise BadInput(f"{file}: two combinations are both called {twice[0]}; rename a value that has a - in it")
    rules = {kind: _rules(file, kind, said.get(kind) or [], axes) for kind in ("include", "exclude")}
    return Variants(file, tuple(axes), every, rules["include"], rules["exclude"])


Values = Mapping[str, Mapping[str, str]]  # value's name -> the cells that it adds


def _values(file: str, axis: str, said: Any) -> Values:
    named = {one: one for one in said if isinstance(one, str)} if isinstance(said, list) else said
    if not isinstance(named, dict) or not named or len(named) != len(said):
        raise BadInput(f"{file}: axis {axis} needs values: a list of different words, or `name: text for the prompt`")
    found = {}
    for name, value in named.items():
        where = f"{file}: axis {axis}, value {name}"
        cells = dict(value) if isinstance(value, dict) else {"text": value or name}
        if not all(isinstance(cell, str) for cell in cells.values()):
            raise BadInput(f"{where}: expected a text, or columns as in {{frame: square}}")
        text = cells.pop("text", name)
        for column in cells:
            _name(column, file, "column")
        if axis in cells:
            raise BadInput(f"{where}: write its text as `text:`, not as `{axis}:`")
        key = _name(name, file, f"axis {axis}, value")
        if key in found:
            raise BadInput(f"{where} is there twice, in another width; remove one")
        found[key] = {column_name(axis): text, **{column_name(column): cell for column, cell in cells.items()}}
    return found


def _name(written: str, file: str, what: str) -> str:
    name = same_look(written).strip()
    if not name or len(name) > _LONGEST_NAME:
        raise BadInput(f"{file}: {what} {name[:40]!r}: a name has 1 to {_LONGEST_NAME} characters")
    if sign := hidden_sign(name):
        raise BadInput(f"{file}: {what}: the name holds the character {sign}; remove it")
    return name


def _variant(axes: Mapping[str, Values], names: tuple[str, ...], file: str) -> Variant:
    name, cells = "-".join(names), {}
    if len(name) > _LONGEST_VARIANT:
        raise BadInput(
            f"{file}: variant {name[:60]}... has {len(name)} characters; expected at most {_LONGEST_VARIANT}"
        )
    for axis, value in zip(axes, names, strict=True):
        for column, cell in axes[axis][value].items():
            if column in cells:
                raise BadInput(f"{file}: {column} is set by two axes in variant {name}; set it on one of them")
            cells[column] = cell
    return Variant(name, dict(zip(axes, names, strict=True)), cells)


def _rules(file: str, kind: str, said: Any, axes: Mapping[str, Values]) -> tuple[Rule, ...]:
    if not isinstance(said, list) or not all(isinstance(rule, dict) and rule for rule in said):
        raise BadInput(f"{file}: {kind} is a list of rules, as in - {{season: autumn, background: [beach, park]}}")
    return tuple(
        Rule({column_name(name): _wanted(file, kind, name, texts, axes) for name, texts in rule.items()})
        for rule in said
    )


def _wanted(file: str, kind: str, name: str, said: Any, axes: Mapping[str, Values]) -> frozenset[str]:
    texts = [said] if isinstance(said, str) else said
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadInput(f"{file}: {kind}: {name} needs one text or a list of texts")
    wanted = frozenset(map(same_look, texts))
    unknown = sorted(wanted - set(axes.get(column_name(name), wanted)))
    if unknown:
        there = ", ".join(axes[column_name(name)])
        raise BadInput(f"{file}: {kind}: axis {name} has no value {unknown[0]}; its values are {there}")
    return wanted
