"""How much of what is wrong the quality gate catches, and how often it is wrong itself: counted on planted pictures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from face0_worker.contract.bars import Bars, Calibration, judge
from face0_worker.contract.errors import BadInput
from face0_worker.contract.receipt import Verdict
from face0_worker.faces.embed import Embedder
from face0_worker.faces.skin import drift
from face0_worker.learn.planted import GOOD, KINDS, Planted, Sitter, plant_all
from face0_worker.learn.scores import Measured
from face0_worker.learn.truth import Picture
from face0_worker.render.quality import gate

JSON, MARKDOWN, SHEET = "gate.json", "gate.md", "gate_sheet.png"
FEWEST = 4
SET_BARS = 60  # so many people at most, and half of those there are, set the bars of photos; the rest are judged
_Z = 1.959964  # of a 95% interval


@dataclass(frozen=True)
class Looked:
    """One picture of a kind, what was measured on it, and how long that took in seconds."""

    kind: str
    verdict: Verdict
    seconds: float


def find_sitters(pictures: Sequence[Picture], embedder: Embedder, say: Callable[[str], None]) -> list[Sitter]:
    """Return those who are on two pictures or more with a face that is found. Raises: BadInput: too few."""
    by_person: dict[str, list[Picture]] = {}
    for picture in pictures:
        by_person.setdefault(picture.person, []).append(picture)
    sitters, missed = [], 0
    for name, theirs in by_person.items():
        if len(theirs) < 2:
            continue
        photo, shown = theirs[0].open(), theirs[1].open()
        faces = embedder.find(photo), embedder.find(shown)
        if faces[0] and faces[1]:
            sitters.append(Sitter(name, photo, shown, faces[0][0], faces[1][0]))
        else:
            missed += 1
    say(f"{len(sitters)} people with two pictures; in {missed} more no face was found")
    if len(sitters) < FEWEST:
        raise BadInput(f"{len(sitters)} people have two pictures with a face; at least {FEWEST} are needed")
    return sitters


def look_at(planted: Iterable[Planted], embedder: Embedder) -> list[Looked]:
    """Measure each picture as a worker does."""
    measure, looked = gate(embedder), []
    for one in planted:
        begun = time.perf_counter()
        measured = measure(one.pixels, embedder.normalise(one.sitter.face.embedding))
        apart = drift(one.sitter.face.skin, measured.skin)
        seconds = time.perf_counter() - begun
        looked.append(Looked(one.kind, replace(measured.verdict, skin_drift=apart), seconds))
    return looked


def calibrate(verdicts: Sequence[Verdict], share: float) -> Calibration:
    """Return bars beyond each of which `share` of these good pictures lies. Raises: BadInput: too few have a face."""
    whole = [one for one in verdicts if one.identity is not None and one.sharpness is not None]
    if len(whole) < 2:
        raise BadInput(f"a face was found on {len(whole)} of {len(verdicts)} pictures; no bar can be set by that")
    drifts = [one.skin_drift for one in whole if one.skin_drift is not None]
    identity = np.quantile([one.identity or 0.0 for one in whole], share)
    sharpness = np.quantile([one.sharpness or 0.0 for one in whole], share)
    skin = round(float(np.quantile(drifts, 1 - share)), 2) if len(drifts) > 1 else None
    return Calibration(round(float(identity), 3), round(float(sharpness), 3), skin, len(whole), share)


def rate(name: str, hits: int, of: int) -> Measured:
    """Return a share with its 95% interval (Wilson 1927); not a number of nothing."""
    if not of:
        return Measured(name, math.nan, math.nan, math.nan, 0)
    share, spread = hits / of, _Z * _Z / of
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return Measured(name, share, max(0.0, middle - half), min(1.0, middle + half), of)


def count(looked: Sequence[Looked], bars: Bars, name: str) -> list[Measured]:
    """Return, for these bars, the share of good pictures rejected and of each kind of bad ones caught."""
    rows = []
    for kind in (GOOD, *KINDS):
        judged = [judge(one.verdict, bars) for one in looked if one.kind == kind]
        what = "false_alarm" if kind == GOOD else f"caught.{kind}"
        rows.append(rate(f"{name}.{what}", sum(not one.accepted for one in judged), len(judged)))
    bad = [judge(one.verdict, bars) for one in looked if one.kind != GOOD]
    return [*rows, rate(f"{name}.caught.all", sum(not one.accepted for one in bad), len(bad))]


def report(
    sitters: Sequence[Sitter],
    embedder: Embedder,
    own: Calibration | None,
    *,
    share: float,
    seed: int = 0,
    each: int | None = None,
) -> dict[str, Any]:
    """Return everything that is counted, as plain JSON values.

    The first sitters set bars of photos ("photos": what a model gets that keeps a person as another photo does); the
    others are judged, by these and by a model's `own`. `each`: kinds of faults a sitter. Cost is in ms a picture.
    """
    setting, judged = split(sitters)
    good = [Planted(GOOD, one, np.asarray(one.picture)) for one in setting]
    photos = calibrate([one.verdict for one in look_at(good, embedder)], share)
    looked = look_at(plant_all(judged, seed, each), embedder)
    bars = {"photos": photos.bars()} | ({"model": own.bars()} if own else {})
    rows = [row for name, one in bars.items() for row in count(looked, one, name)]
    return {
        "people": len(judged),
        "set_by": len(setting),
        "planted": sum(one.kind != GOOD for one in looked),
        "good": sum(one.kind == GOOD for one in looked),
        "bars": {name: one.to_json() for name, one in bars.items()},
        "gate_ms": 1000 * float(np.median([one.seconds for one in looked if one.kind == GOOD])),
        "rows": [asdict(row) for row in rows],
    }


def split(sitters: Sequence[Sitter]) -> tuple[Sequence[Sitter], Sequence[Sitter]]:
    """Return who sets the bars and who is judged."""
    first = min(SET_BARS, len(sitters) // 2)
    return sitters[:first], sitters[first:]


def write_report(out: Path, told: Mapping[str, Any], sitters: Sequence[Sitter], seed: int = 0) -> list[Path]:
    """Write numbers, tables and a sheet of the planted pictures. Raises: BadInput: `out` can't be written."""
    files = [out / JSON, out / MARKDOWN, out / SHEET]
    try:
        out.mkdir(parents=True, exist_ok=True)
        files[0].write_text(json.dumps(_clean(told), indent=2) + "\n", encoding="utf-8")
        files[1].write_text(tables(told), encoding="utf-8")
        _sheet(split(sitters)[1][:8], seed).save(files[2])
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}; choose another folder with --out") from error
    return files


def tables(told: Mapping[str, Any]) -> str:
    """Return the counts as Markdown, one column for each set of bars."""
    names = list(told["bars"])
    rows = {row["name"]: row for row in told["rows"]}
    lines = [f"| pictures | n | {' | '.join(f'rejected by {name} bars' for name in names)} |"]
    lines.append("|---|---|" + "---|" * len(names))
    for kind in ("false_alarm", *(f"caught.{one}" for one in KINDS), "caught.all"):
        cells = [rows[f"{name}.{kind}"] for name in names]
        if not cells[0]["n"]:
            continue
        title = "good (false alarms)" if kind == "false_alarm" else kind.removeprefix("caught.").replace("_", " ")
        shares = [f"{100 * one['value']:.1f}% ({100 * one['low']:.1f} to {100 * one['high']:.1f})" for one in cells]
        lines.append(f"| {title} | {cells[0]['n']} | {' | '.join(shares)} |")
    bars = [f"{name}: {json.dumps(told['bars'][name])}" for name in names]
    return "\n".join([*lines, "", *bars, "", f"The gate takes {told['gate_ms']:.0f} ms a picture.", ""])


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _sheet(sitters: Sequence[Sitter], seed: int, side: int = 128) -> Image.Image:
    """Return a row for each kind, the good one first, and a column for each sitter."""
    kinds = (GOOD, *KINDS)
    sheet = Image.new("RGB", (side * len(sitters), side * len(kinds)))
    for number, one in enumerate(plant_all(sitters, seed)):
        place = (side * (number // len(kinds)), side * kinds.index(one.kind))
        sheet.paste(Image.fromarray(one.pixels).resize((side, side)), place)
    return sheet
