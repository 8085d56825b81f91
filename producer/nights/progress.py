"""How far a night is: a live bar on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from face0_worker.contract.job import OPEN_STATES
from face0_worker.records.progress import JobStatus
from producer.nightly import OnProgress
from producer.watch import note

_LINE_EVERY_S = 10.0


@contextmanager
def telling(catalogue: str) -> Iterator[OnProgress]:
    """Give a function that is told where the jobs of a run stand, and shows it."""
    shown = Console(stderr=True)
    if not shown.is_terminal:
        yield _Lines(catalogue)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="yellow"),
    )
    with Progress(*columns, console=shown) as progress:
        task = progress.add_task(catalogue, total=None, note="")

        def tell(standing: Sequence[JobStatus]) -> None:
            ended, total = _counted(standing)
            progress.update(task, total=total, completed=ended, note=_first_note(standing))

        yield tell


class _Lines:
    def __init__(self, catalogue: str) -> None:
        self._catalogue, self._last, self._told = catalogue, "", float("-inf")

    def __call__(self, standing: Sequence[JobStatus]) -> None:
        ended, total = _counted(standing)
        said = _first_note(standing)
        line = f"{self._catalogue}: {ended} of {total} rendered" + (f"; {said}" if said else "")
        if total and line != self._last and time.monotonic() - self._told >= _LINE_EVERY_S:
            click.echo(line, err=True)
            self._last, self._told = line, time.monotonic()


def _counted(standing: Sequence[JobStatus]) -> tuple[int, int]:
    """Return how many items that are not kept have ended, and how many there are."""
    still_open = sum(job.counts[state] for job in standing for state in OPEN_STATES)
    to_render = sum(job.total - job.kept for job in standing)
    return to_render - still_open, to_render


def _first_note(standing: Sequence[JobStatus]) -> str:
    return next((said for job in standing if (said := note(job))), "")
