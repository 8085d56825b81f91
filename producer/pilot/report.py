"""The pilot's report, as JSON and HTML: numbers with intervals, bars, why pictures are missing, people's marks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import ItemState
from producer.forecast import price
from producer.pilot.measures import Bar, Judgement, Measure, exactly, mean_over_people, share
from producer.pilot.run import Ran, Shot

MARKS = "marks.csv"
_MARKED = ("likeness", "product")
_COLUMNS = ("person", "sku", "file", *_MARKED)
_YES, _NO = (
    frozenset({"1", "y", "yes", "true", "○", "o", "はい"}),
    frozenset({"0", "n", "no", "false", "×", "x", "いいえ"}),
)

Marks = Mapping[str, Mapping[str, bool]]
"""What people said of a picture, by its file: likeness and product, each only where somebody marked it."""


@dataclass(frozen=True)
class Verdict:
    """One bar and what the measure says to it."""

    bar: Bar
    measure: Measure
    judgement: Judgement


@dataclass(frozen=True)
class Report:
    """What a pilot found. `cost`: of one picture, in words, "" where no price is set."""

    ran: Ran
    measures: tuple[Measure, ...]
    verdicts: tuple[Verdict, ...]
    cost: str

    @property
    def failed(self) -> bool:
        """Whether a bar is failed for certain, or an item ended as failed."""
        broken = any(status.counts[ItemState.FAILED] for status in self.ran.jobs.values())
        return broken or any(verdict.judgement is Judgement.FAILED for verdict in self.verdicts)


def measure(ran: Ran, bars: Sequence[Bar], marks: Marks, hour_price: str) -> Report:
    """Return the numbers of a pilot, judged."""
    done = len(ran.shots)
    rejected = sum(status.counts[ItemState.REJECTED] for status in ran.jobs.values())
    first = sum(shot.picture.receipt.verdict.tries <= 1 for shot in ran.shots)
    likeness: dict[str, list[float]] = {}
    for shot in ran.shots:
        if shot.picture.receipt.verdict.identity is not None:
            likeness.setdefault(shot.person, []).append(shot.picture.receipt.verdict.identity)
    worker_s = ran.seconds * ran.workers / done if done else None
    said = price(hour_price, worker_s) if worker_s is not None else ""
    measures = (
        share("acceptance", done, done + rejected),
        share("first_try", first, done + rejected),
        mean_over_people("identity", likeness),
        share("rank_1", sum(shot.nearest == shot.person for shot in ran.shots), done if len(ran.jobs) > 1 else 0),
        *(_marked(name, marks) for name in _MARKED),
        exactly("seconds", ran.seconds / done if done else None, done),
        exactly("cost", float(said.split()[0]) if said else None, done if said else 0),
    )
    by_name = {one.name: one for one in measures}
    verdicts = [Verdict(bar, by_name[bar.measure], bar.judge(by_name[bar.measure])) for bar in bars]
    return Report(ran, measures, tuple(verdicts), said)


def _marked(name: str, marks: Marks) -> Measure:
    said = [mark[name] for mark in marks.values() if name in mark]
    return share(name, sum(said), len(said))


def as_json(report: Report) -> dict[str, Any]:
    """Return report.json: design.md's form, and the pilot's own numbers beside it."""
    ran = report.ran
    counts = [status.counts for status in ran.jobs.values()]
    ended = (ItemState.REJECTED, ItemState.CANCELLED, ItemState.PURGED)
    turned_away = (len(ran.order.people) - len(ran.jobs)) * len(ran.order.items)
    return {
        "items": len(ran.order.people) * len(ran.order.items),
        "done": sum(one[ItemState.DONE] for one in counts),
        "failed": sum(one[ItemState.FAILED] for one in counts),
        "refused": turned_away + sum(one[state] for one in counts for state in ended),
        "kept": sum(status.kept for status in ran.jobs.values()),
        "verified": ran.verified,
        "wall_s": round(ran.seconds, 3),
        "pictures": [
            {"sku": shot.picture.sku, "file": place(ran, shot), "sha256": shot.picture.receipt.picture_sha256}
            for shot in ran.shots
        ],
        "pilot": {
            "people": len(ran.order.people),
            "products": len({item.sku for item in ran.order.items}),
            "workers": ran.workers,
            "model": ran.order.offer.name,
            "model_digest": ran.order.offer.digest,
            "measures": [asdict(one) for one in report.measures],
            "bars": [
                {"measure": one.bar.measure, "limit": one.bar.limit, "judgement": str(one.judgement)}
                for one in report.verdicts
            ],
            "failed": report.failed,
            "cost_per_picture": report.cost,
            "missing": [{"why": why, "pictures": number} for why, number in ran.refused.most_common()],
        },
    }


def place(ran: Ran, shot: Shot) -> str:
    """Return a picture's file relative to the pilot's folder."""
    return shot.file.relative_to(ran.order.out).as_posix()


def write(report: Report, marks: Marks) -> list[Path]:
    """Write report.json, report.html and the sheet for marks; return their places. Raises: BadInput: it can't."""
    out = report.ran.order.out
    page = _environment().get_template("pilot.html").render(report=report, rows=_rows(report, marks), place=place)
    files = {
        "report.json": json.dumps(as_json(report), ensure_ascii=False, indent=2) + "\n",
        "report.html": page,
        MARKS: _sheet(report.ran, marks),
    }
    try:
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8-sig" if name == MARKS else "utf-8")
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}; choose another folder with --out") from error
    return [out / name for name in files]


def _environment() -> Environment:
    return Environment(loader=PackageLoader("producer"), autoescape=select_autoescape(), trim_blocks=True)


def _rows(report: Report, marks: Marks) -> list[tuple[str, list[tuple[Shot, Mapping[str, bool]]]]]:
    rows: dict[str, list[tuple[Shot, Mapping[str, bool]]]] = {name: [] for name in report.ran.order.people}
    for shot in report.ran.shots:
        rows[shot.person].append((shot, marks.get(place(report.ran, shot), {})))
    return list(rows.items())


def _sheet(ran: Ran, marks: Marks) -> str:
    """Return the sheet that people fill in: 1 or 0 for each picture; what was marked already stays."""
    text = io.StringIO()
    sheet = csv.writer(text)
    sheet.writerow(_COLUMNS)
    for shot in ran.shots:
        said = marks.get(place(ran, shot), {})
        known = [str(int(said[name])) if name in said else "" for name in _MARKED]
        sheet.writerow([shot.person, shot.picture.sku, place(ran, shot), *known])
    return text.getvalue()


def read_marks(path: Path) -> dict[str, dict[str, bool]]:
    """Read what people marked; an empty cell says nothing.

    Raises: BadInput: it can't be read, a column is missing, or a mark is neither 1 nor 0; the message names the line.
    """
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}; `face0 pilot` writes {MARKS}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8; save it as CSV in UTF-8") from error
    missing = sorted(set(_COLUMNS) - set(lines[0] if lines else _COLUMNS))
    if missing:
        raise BadInput(f"{path} has no column {', '.join(missing)}; take the {MARKS} that `face0 pilot` wrote")
    return {line["file"]: _line(line, f"{path.name}, line {number}") for number, line in enumerate(lines, start=2)}


def _line(line: Mapping[str, str], where: str) -> dict[str, bool]:
    said = {}
    for name in _MARKED:
        mark = (line[name] or "").strip().lower()
        if mark in _YES | _NO:
            said[name] = mark in _YES
        elif mark:
            raise BadInput(f"{where}, column {name}: {mark!r} is neither 1 nor 0")
    return said


def sentences(report: Report) -> Iterable[str]:
    """Yield the report in lines for a terminal."""
    ran, numbers = report.ran, as_json(report)
    yield f"{numbers['done']} of {numbers['items']} pictures, {ran.verified} verified, {numbers['refused']} refused"
    for one in report.measures:
        if one.value is not None and one.low is not None and one.high is not None:
            around = f" [{one.low:.3g}, {one.high:.3g}]" if one.low != one.high else ""
            yield f"  {one.name}: {one.value:.3g}{around}, n {one.n}"
    for verdict in report.verdicts:
        way = "at least" if verdict.bar.least else "at most"
        why = "" if verdict.measure.n else f" (fill in {MARKS} and repeat with --marks)"
        yield f"  bar {verdict.bar.measure} {way} {verdict.bar.limit:g}: {verdict.judgement}{why}"
    for why, number in ran.refused.most_common(10):
        yield f"  {number} without a picture: {why}"
