"""How a training shows itself: a bar on a terminal, plain lines elsewhere, and TensorBoard's event files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from face0_worker.contract.errors import ModelMissing


class Screen(Protocol):
    """What a person sees of a training."""

    def say(self, line: str) -> None:
        """Show a sentence."""

    def at(self, step: int, steps: int | None) -> None:
        """Show how far it is; called after every step."""

    def told(self, line: str) -> None:
        """Show the numbers of the last steps."""


@dataclass(frozen=True)
class Lines:
    """Everything as plain lines, for files and other programs."""

    say: Callable[[str], None] = print

    def at(self, step: int, steps: int | None) -> None:
        """Say nothing: the numbers come every few steps."""

    def told(self, line: str) -> None:
        """Say them as a line."""
        self.say(line)


class Bar:
    """A live bar at the bottom of a terminal, with the numbers of the last steps; sentences pass above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("steps", total=None, visible=False, note="")

    def say(self, line: str) -> None:
        """Print a sentence above the bar."""
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def at(self, step: int, steps: int | None) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step, total=steps, visible=True)

    def told(self, line: str) -> None:
        """Put the numbers behind the bar."""
        self._progress.update(self._task, note=f"loss {line.partition(' loss ')[2]}")


@contextmanager
def screen_on(console: Console, say: Callable[[str], None]) -> Iterator[Screen]:
    """Lend a bar where the console is a terminal, plain lines by `say` elsewhere."""
    if not console.is_terminal:
        yield Lines(say)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(progress)


class Events:
    """TensorBoard's event files in a folder; each sitting adds one, once there is something to tell."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder))

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers by their names."""
        for name, value in numbers.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        self._writer.flush()

    def picture(self, step: int, picture: Image.Image) -> None:
        """Write a sheet of samples."""
        self._writer.add_image("samples", np.asarray(picture), step, dataformats="HWC")
        self._writer.flush()


def events_in(folder: Path, wanted: bool | None) -> Events | None:
    """Return where events go; None where they are not wanted, or (`wanted` None) TensorBoard is not installed.

    Raises: ModelMissing: they are wanted and it is not installed.
    """
    there = importlib.util.find_spec("tensorboard") is not None
    if wanted and not there:
        raise ModelMissing("--tensorboard needs the package tensorboard: pip install 'face0[learn]'")
    return Events(folder) if there and wanted is not False else None


@dataclass(frozen=True)
class Watch:
    """Where a training tells of itself."""

    screen: Screen = Lines()
    events: Events | None = None

    def say(self, line: str) -> None:
        """Tell a person a sentence."""
        self.screen.say(line)

    def told(self, line: str, step: int, numbers: Mapping[str, float]) -> None:
        """Tell the numbers of the last steps."""
        self.screen.told(line)
        if self.events is not None:
            self.events.numbers(step, numbers)

    def picture(self, step: int, picture: Image.Image) -> None:
        """Show a sheet of samples to whoever looks at the events."""
        if self.events is not None:
            self.events.picture(step, picture)
