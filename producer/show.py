"""How commands speak: JSON for programs, tables and sentences for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

T = TypeVar("T")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def console(*, stderr: bool = False) -> Console:
    """Return the console; where there is no terminal, long lines are not broken."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=10_000)


def say(sentence: str) -> None:
    """Print one sentence."""
    click.echo(sentence)


def quiet(sentence: str) -> None:
    """Print nothing: what a command with --json says while it works."""


def print_json(value: object) -> None:
    """Print a value, a dataclass or a list of them as JSON; times are ISO 8601."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))


def plain(value: Any) -> Any:
    """Return a value as plain JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, IntEnum):
        return value.name.lower()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(plain(key)): plain(part) for key, part in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(part) for part in value)
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Give a function that counts one more; a bar on stderr where that is a terminal, nothing elsewhere."""
    shown = Console(stderr=True)
    if not shown.is_terminal:
        yield lambda: None
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=shown) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


class Told(Generic[T]):
    """Something long that is iterated more than once; on a terminal, stderr says how far the iteration is."""

    def __init__(self, long: Iterable[T], what: str) -> None:
        self._long, self._what = long, what

    def __iter__(self) -> Iterator[T]:
        shown = Console(stderr=True)
        if not shown.is_terminal:
            yield from self._long
            return
        with shown.status(f"{self._what} ...") as status:
            for number, one in enumerate(self._long, start=1):
                if number % 5000 == 0:
                    status.update(f"{self._what}: {number:,}")
                yield one


def local(when: datetime) -> str:
    """Return a time as the reader's clock shows it, to the minute, with its zone."""
    return f"{when.astimezone():%Y-%m-%d %H:%M %Z}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under column names; plain columns where there is no terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)
