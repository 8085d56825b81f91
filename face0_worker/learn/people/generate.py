"""Render many people into a folder: pictures, captions and the truth about each, resumable."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from face0_worker.contract.errors import BadInput
from face0_worker.learn.people.body import load_body
from face0_worker.learn.people.person import draw_person
from face0_worker.learn.people.portrait import render
from face0_worker.learn.people.view import caption, draw_view, truth

GENERATOR = 1  # raised when the same seed no longer gives the same pictures
WEBP_QUALITY = 92


@dataclass(frozen=True)
class PeoplePlan:
    """What to render: people `first` to `first + count - 1` of a seed, `views` pictures each, of `size` pixels."""

    count: int
    size: int
    seed: int
    views: int = 3
    first: int = 0


def render_people(
    plan: PeoplePlan, out: Path, *, processes: int | None = None, say: Callable[[str], None] = print
) -> int:
    """Render what the folder `out` still lacks of the plan; return how many pictures were rendered now.

    Writes `people.jsonl` (one object a picture, people in order), `images/` and `card.json`. Whoever is in people.jsonl
    has all pictures on disk, so a killed run goes on behind the last whole person.
    Raises: BadInput: the folder holds another plan. ModelMissing: the body data are not installed.
    """
    if plan.count < 1 or plan.views < 1 or not 32 <= plan.size <= 1024:
        raise BadInput(
            f"{plan.count} people with {plan.views} views of {plan.size} px: at least 1, 1 and 32 to 1024 are needed"
        )
    load_body()  # what is missing is said here, not in every process
    out.mkdir(parents=True, exist_ok=True)
    _card(plan, out)
    index = out / "people.jsonl"
    finished = _finished(index, plan.views)
    numbers = [n for n in range(plan.first, plan.first + plan.count) if f"p{n:06d}" not in finished]
    if finished:
        say(f"{len(finished)} people are there already")
    made = 0
    with index.open("a", encoding="utf-8") as lines:
        for rows in _rendered(plan, out, numbers, processes or os.cpu_count() or 1):
            lines.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            lines.flush()
            made += len(rows)
            if made % (100 * plan.views) == 0:
                say(f"{made} of {len(numbers) * plan.views} pictures")
    return made


def _rendered(plan: PeoplePlan, out: Path, numbers: list[int], processes: int) -> Iterator[list[dict[str, Any]]]:
    tasks = [(plan, out, number) for number in numbers]
    if processes == 1 or len(tasks) < 2:
        yield from map(_render_person, tasks)
        return
    # started anew: a copied process would inherit the caller's threads half-way through what they do
    with multiprocessing.get_context("spawn").Pool(min(processes, len(tasks))) as pool:
        yield from pool.imap(_render_person, tasks)


def _render_person(task: tuple[PeoplePlan, Path, int]) -> list[dict[str, Any]]:
    plan, out, number = task
    body = load_body()
    person = draw_person(number, plan.seed, body)
    rows = []
    for k in range(plan.views):
        view = draw_view(person, k, plan.seed)
        file = Path("images") / f"{number // 1000:03d}" / f"{person.name}_{k}.webp"
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(render(person, view, plan.size, body))
        partial = (out / file).with_suffix(".part")
        picture.save(partial, "WEBP", quality=WEBP_QUALITY, method=4)
        partial.replace(out / file)
        rows.append(
            {
                "file": file.as_posix(),
                "person": person.name,
                "view": k,
                "caption": caption(person, view),
                "truth": truth(person, view),
            }
        )
    return rows


def _card(plan: PeoplePlan, out: Path) -> None:
    """Write what the folder holds, or check that it holds the same."""
    said = {
        "licence": "CC0-1.0",
        "people": "rendered; none of them exists",
        "generator": GENERATOR,
        **{name: value for name, value in asdict(plan).items() if name in ("size", "seed", "views")},
    }
    path = out / "card.json"
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in said if there.get(name) != said[name]]
        if different:
            told = ", ".join(f"{name} {there.get(name)} instead of {said[name]}" for name in different)
            raise BadInput(f"{out} holds other people ({told}); name another folder")
    path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _finished(index: Path, views: int) -> set[str]:
    """Return the people whose pictures are all named, and cut off what a killed run left behind them."""
    if not index.is_file():
        return set()
    kept: dict[str, list[str]] = {}
    for line in index.read_text(encoding="utf-8").splitlines():
        try:
            kept.setdefault(json.loads(line)["person"], []).append(line)
        except ValueError:
            continue  # the last line of a run that was killed while writing it
    whole = {person: lines for person, lines in kept.items() if len(lines) == views}
    index.write_text("".join(f"{line}\n" for lines in whole.values() for line in lines), encoding="utf-8")
    return set(whole)
