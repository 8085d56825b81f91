"""An evaluation as files: evaluation.json, evaluation.md, a sheet of pictures and the sweep's plot."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from face0_worker.contract.errors import BadInput
from face0_worker.learn.evaluate import Evaluation
from face0_worker.learn.looks import CONDITIONING, INDEPENDENT
from face0_worker.learn.measures import EVERYONE
from face0_worker.learn.measures import MATCHED as MATCHED_GALLERY
from face0_worker.learn.scores import Measured
from face0_worker.learn.shots import Shot
from face0_worker.learn.sweep import Point, best

JSON, MARKDOWN, SHEET, PLOT = "evaluation.json", "evaluation.md", "evaluation_sheet.png", "evaluation_sweep.png"
# in the order of the table: the name in the rows, and what a reader is told
_ARMS = {
    "model": "model",
    "text_only": "text only",
    "photos": "photos (ceiling)",
    "photos_decoded": "photos after the VAE",
    "photo_unchanged": "photo unchanged",
}
_MEASURES = {
    f"rank1.{MATCHED_GALLERY}.{INDEPENDENT}": "rank-1, matched galleries",
    f"rank1.{EVERYONE}.{INDEPENDENT}": "rank-1, everyone",
    f"auc.{MATCHED_GALLERY}.{INDEPENDENT}": "AUC same / different, matched",
    f"auc.{EVERYONE}.{INDEPENDENT}": "AUC same / different, everyone",
    f"likeness.{INDEPENDENT}": "cosine to the own photo",
    f"likeness_of_others.{INDEPENDENT}": "cosine to others' photos",
    "no_face": "no face found",
    f"rank1.{MATCHED_GALLERY}.{CONDITIONING}": "rank-1, matched (conditioning recogniser)",
    f"auc.{MATCHED_GALLERY}.{CONDITIONING}": "AUC, matched (conditioning recogniser)",
    f"likeness.{CONDITIONING}": "cosine to the own photo (conditioning recogniser)",
    f"l2.{CONDITIONING}": "L2 to the own photo, faces found (conditioning recogniser)",
}


def write_report(
    out: Path, evaluation: Evaluation, points: Sequence[Point], facts: Mapping[str, Any], *, sheet_people: int = 12
) -> list[Path]:
    """Write everything under `out` and return the files. `facts` are told as they are: model, judges, data, device.

    Raises: BadInput: `out` can't be written.
    """
    told = {
        **facts,
        "rows": [_clean(asdict(row)) for row in evaluation.rows],
        "sweep": [_clean(point.to_json()) for point in points],
        "chosen": _clean(best(points).to_json()) if points else None,
    }
    files = [out / JSON, out / MARKDOWN, out / SHEET]
    try:
        out.mkdir(parents=True, exist_ok=True)
        files[0].write_text(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        files[1].write_text(markdown(evaluation, points, facts), "utf-8")
        sheet(evaluation, sheet_people).save(files[2])
        if points:
            files.append(out / PLOT)
            plot(points, files[-1])
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}") from error
    return files


def _clean(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, Mapping):
        return {name: _clean(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(evaluation: Evaluation, points: Sequence[Point], facts: Mapping[str, Any]) -> str:
    """Return the report as Markdown: identity, fidelity, diversity, and the sweep where there is one."""
    rows = {row.name: row for row in evaluation.rows}
    galleries = evaluation.references.galleries
    lines = [f"# Evaluation of {facts['model']}", ""]
    lines += [
        f"- {name}: {value}" for name, value in facts.items() if name != "galleries" and not isinstance(value, list)
    ]
    lines += [f"- refused photos, left out: {evaluation.left_out}", ""]
    lines += ["People are matched in: " + "; ".join(_named(gallery.key, len(gallery.sitters)) for gallery in galleries)]
    lines += ["", "Values with their 95% intervals over people (bootstrap).", "", "## Identity", ""]
    arms = [arm for arm in _ARMS if f"{arm}.no_face" in rows]
    lines += _table(rows, arms, _MEASURES, chance=True)
    attributes = dict.fromkeys(name.split(".fidelity.")[1] for name in rows if ".fidelity." in name)
    lines += ["", "## What the prompt says", ""]
    lines += _table(rows, arms, {f"fidelity.{name}": name.replace("+", " and ") for name in attributes})
    varied = [row for row in evaluation.rows if ".diversity." in row.name]
    if varied:
        lines += ["", "## Diversity: one person, one prompt, other noise", "", "| between | distance |", "|---|---|"]
        lines += [f"| {row.name.split('.diversity.')[1]} | {_text(row)} |" for row in varied]
    if points:
        lines += ["", *_sweep_lines(points)]
    return "\n".join([*lines, ""])


def _named(key: Sequence[tuple[str, Any]], count: int) -> str:
    return f"{count} people ({', '.join(f'{name} {value}' for name, value in key)})"


def _table(
    rows: Mapping[str, Measured], arms: Sequence[str], measures: Mapping[str, str], *, chance: bool = False
) -> list[str]:
    head = ["", *(_ARMS[arm] for arm in arms), *(["chance"] if chance else [])]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, told in measures.items():
        cells = [_text(rows.get(f"{arm}.{name}")) for arm in arms]
        guess = rows.get(f"chance.{name.rpartition('.')[0]}")
        cells += [f"{guess.value:.3f}" if guess else ""] if chance else []
        lines.append(f"| {told} | {' | '.join(cells)} |")
    return lines


def _text(row: Measured | None) -> str:
    if row is None or not math.isfinite(row.value):
        return ""
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"


def _sweep_lines(points: Sequence[Point]) -> list[str]:
    lines = ["## Sweep", "", f"![identity against fidelity]({PLOT})", ""]
    lines += ["| changed | setting | evaluations | rank-1 matched | AUC matched | fidelity | no face |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for point in points:
        auc, none = point.value(f"auc.{MATCHED_GALLERY}.{INDEPENDENT}"), point.value("no_face")
        told = " | ".join(f"{value:.3f}" for value in (point.identity, auc, point.fidelity, none))
        lines.append(f"| {point.group} | {point.setting} | {point.evaluations} | {told} |")
    return [*lines, "", f"Highest harmonic mean of identity and fidelity: {best(points).setting}."]


def plot(points: Sequence[Point], file: Path) -> None:
    """Draw every setting as a point, identity upwards, a line per thing changed: fidelity to the right in one half, in
    the other what a picture costs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    own, chosen = next(point for point in points if point.group == "own"), best(points)
    halves: tuple[tuple[str, Callable[[Point], float]], ...] = (
        ("garment, its colour and background right (share of pictures)", lambda point: point.fidelity),
        ("evaluations of the denoiser a picture", lambda point: point.evaluations),
    )
    every = figure.subplots(1, len(halves), sharey=True)
    for axes, (said, across) in zip(every, halves, strict=True):
        for group in dict.fromkeys(point.group for point in points):
            mine = [point for point in points if point.group == group]
            style = {"marker": "*", "markersize": 16} if group == "own" else {"marker": "o"}
            axes.plot([across(p) for p in mine], [p.identity for p in mine], label=group, alpha=0.8, **style)
        # names of points on one line would hide each other
        for point in points if len({across(point) for point in points}) > 1 else ():
            axes.annotate(_short(point), (across(point), point.identity), (5, 4), textcoords="offset points", size=7)
        axes.scatter(
            [across(chosen)], [chosen.identity], s=220, facecolors="none", edgecolors="black", label="best of both"
        )
        axes.axhline(own.identity, color="grey", lw=0.5)
        axes.set_xlabel(said)
        axes.grid(alpha=0.3)
    every[0].set_ylabel("rank-1 in matched galleries, independent recogniser")
    every[0].legend(title="changed")
    figure.savefig(file)


def _short(point: Point) -> str:
    g = point.setting.guidance
    told = {
        "w": f"w {g.w:g}",
        "c, a": f"c {g.c:g}, a {g.a:g}",
        "interval": f"[{g.start:g}, {g.stop:g})",
        "steps": f"{point.setting.steps} steps",
        "sampler": point.setting.sampler,
    }
    return told.get(point.group, f"w {g.w:g}, {point.setting.steps} steps")


def sheet(evaluation: Evaluation, people: int) -> Image.Image:
    """Return rows of people: the photo, then their pictures by prompt. A picture that was never made stays empty."""
    side, gap, head = 160, 6, 64
    font = ImageFont.load_default(11)
    rows: dict[str, list[Shot]] = {}
    for shot in evaluation.shown:
        if shot.repeat == 0:
            rows.setdefault(shot.sitter.person, []).append(shot)
    galleries = [[one.person for one in gallery.sitters] for gallery in evaluation.references.galleries]
    shown = _in_turn(galleries, people)
    columns = 1 + max(len(rows[person]) for person in shown)
    numbers = {person: number for number, names in enumerate(galleries) for person in names}
    blocks = [number for number in range(len(galleries)) if any(numbers[person] == number for person in shown)]
    tall = len(shown) * (side + gap) + len(blocks) * head + gap
    page = Image.new("RGB", (columns * (side + gap) + gap, tall), "white")
    draw, top = ImageDraw.Draw(page), gap
    for number in blocks:
        mine = [person for person in shown if numbers[person] == number]
        for column, shot in enumerate(rows[mine[0]], 1):
            draw.multiline_text((gap + column * (side + gap), top), _broken(shot.prompt.text, 30), "black", font)
        draw.text((gap, top), "photo", "black", font)
        top += head
        for person in mine:
            cells = [rows[person][0].sitter.condition.open(), *(evaluation.shown[shot] for shot in rows[person])]
            for column, picture in enumerate(cells):
                if picture is not None:
                    fit = picture.resize((side, side), Image.Resampling.LANCZOS)
                    page.paste(fit, (gap + column * (side + gap), top))
            top += side + gap
    return page


def _in_turn(galleries: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return `count` people, from each gallery in turn."""
    longest = max(len(names) for names in galleries)
    return [names[place] for place in range(longest) for names in galleries if place < len(names)][:count]


def _broken(text: str, width: int) -> str:
    """Break a prompt into at most four lines of about `width` letters."""
    lines = [""]
    for word in text.removeprefix("a portrait of ").split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:4])
