"""Prompts made from columns: `{garment}`, or Jinja2 where a template has double braces."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from face0_worker.contract.errors import BadInput
from producer.lists.signs import same_look

_LONGEST = 10_000  # characters of a template, and of what any of its filters makes
_ADVICE = "write columns as {garment}, or as {{ garment }} with filters and conditions"
_FILTERS = ("capitalize", "default", "first", "join", "last", "length", "lower", "replace", "title", "trim", "upper")
# no loops, no calls, no assignments: a template ends, and what it makes is about as long as its line
_KNOWN = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getitem, nodes.If),
    *(nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Keyword, nodes.Compare, nodes.Operand, nodes.And, nodes.Or),
    *(nodes.Not, nodes.Concat, nodes.List, nodes.Tuple),
)


class EmptyColumn(Exception):
    """A line has no value in a column that the template writes out."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


class UnfitLine(Exception):
    """The template can't be filled with a line's values; the text says why."""


@dataclass(frozen=True)
class Template:
    """A prompt with columns in it. `columns`: those that it names, so that a list without one is refused."""

    columns: tuple[str, ...]
    _fill: Callable[[Mapping[str, str]], str] = field(repr=False)

    @classmethod
    def parse(cls, written: str) -> Template:
        """Read a template: with `{{` or `{%` in it it is Jinja2, else its columns stand in single braces.

        Raises: BadInput: it names no column, can't be read, or does what a template may not.
        """
        if len(written) > _LONGEST:
            raise BadInput(f"the template has {len(written):,} characters; expected at most {_LONGEST:,}")
        return _of_jinja(written) if "{{" in written or "{%" in written else _of_braces(written)

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the prompt for one line's values. Raises: EmptyColumn, UnfitLine."""
        return self._fill(values)


def _of_braces(written: str) -> Template:
    try:
        found = list(string.Formatter().parse(written))
    except ValueError as error:
        raise BadInput(f"the template can't be read ({error}); {_ADVICE}") from error
    for _, name, form, turn in found:
        if name is not None and (not name.strip() or form or turn or any(sign in name for sign in ".[]")):
            raise BadInput(f"the template's {{{name}}} is not a column name; {_ADVICE}")
    parts = tuple((text, None if name is None else same_look(name)) for text, name, _, _ in found)
    columns = tuple(dict.fromkeys(name for _, name in parts if name is not None))
    _require_columns(columns)

    def fill(values: Mapping[str, str]) -> str:
        for name in columns:
            if not values.get(name):
                raise EmptyColumn(name)
        return "".join(text + (values[name] if name is not None else "") for text, name in parts)

    return Template(columns, fill)


def _of_jinja(written: str) -> Template:
    environment = _environment()
    try:
        tree = environment.parse(written)
        compiled = environment.from_string(written)
    except jinja2.TemplateError as error:
        raise BadInput(f"the template can't be read ({error}); {_ADVICE}") from error
    except RecursionError as error:
        raise BadInput("the template is nested too deeply") from error
    _refuse_other_nodes(tree)
    names = meta.find_undeclared_variables(tree) - {"row"}
    looked_up = {
        str(node.arg.value)
        for node in tree.find_all(nodes.Getitem)
        if _is_row(node.node) and isinstance(node.arg, nodes.Const)
    }
    columns = tuple(sorted({same_look(name) for name in names | looked_up}))
    _require_columns(columns)

    def fill(values: Mapping[str, str]) -> str:
        cells = {name: values.get(name) or _Empty(name=name) for name in columns}
        told = {name: cells[same_look(name)] for name in names}
        row = {name: cells[same_look(name)] for name in looked_up}
        try:
            return compiled.render({**told, "row": row})
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UnfitLine(str(error).partition("\n")[0]) from error

    return Template(columns, fill)


def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
    made.globals.clear()
    made.filters = {
        **{name: _bounded(made.filters[name]) for name in _FILTERS},
        "split": _bounded(lambda text, sign=",": [part.strip() for part in str(text).split(sign)]),
    }
    return made


def _bounded(made: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(made)
    def checked(*arguments: Any, **options: Any) -> Any:
        result = made(*arguments, **options)
        if isinstance(result, str) and len(result) > _LONGEST:
            raise jinja2.TemplateRuntimeError(f"a filter made more than {_LONGEST:,} characters")
        return result

    return checked


def _refuse_other_nodes(tree: nodes.Template) -> None:
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Operand | nodes.Keyword) or type(node) in _KNOWN:
            if isinstance(node, nodes.TemplateData) and any(sign in node.data for sign in "{}"):
                said = "has single braces beside {{ }}; write every column as {{ garment }} then"
                raise BadInput(f"the template {said}")
            if isinstance(node, nodes.Getitem) and not (_is_row(node.node) and isinstance(node.arg, nodes.Const)):
                raise BadInput('the template takes parts of a value; only row["column name"] is known')
            if isinstance(node, nodes.Name) and node.name == "row" and not _is_looked_into(tree, node):
                raise BadInput('the template writes row itself; write row["column name"]')
            continue
        what = "a dot, which reaches into a value" if isinstance(node, nodes.Getattr) else type(node).__name__.lower()
        raise BadInput(f"the template uses {what}; known are columns, {', '.join(_FILTERS)}, split, and if")


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "row"


def _is_looked_into(tree: nodes.Template, name: nodes.Name) -> bool:
    return any(node.node is name for node in tree.find_all(nodes.Getitem))


def _require_columns(columns: tuple[str, ...]) -> None:
    if not columns:
        raise BadInput(f"the template names no column, so every picture would be the same; {_ADVICE}")


class _Empty(jinja2.Undefined):
    """An empty cell: false in conditions, replaced by `default`, and an error where it would be written out."""

    def _empty(self, *_: Any, **__: Any) -> NoReturn:
        raise EmptyColumn(str(self._undefined_name))

    __str__ = __iter__ = __len__ = __add__ = __radd__ = __getitem__ = _empty

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other == "" or isinstance(other, _Empty)

    __hash__ = jinja2.Undefined.__hash__
