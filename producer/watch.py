"""Follow a job until it ends: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from face0_worker.contract.job import OPEN_STATES, ItemState
from face0_worker.records.ledger import Ledger
from face0_worker.records.progress import JobStatus, job_items, job_status
from producer.forecast import duration

_EVERY_S = 0.3
_LINE_EVERY_S = 1.0
_LOOK_BACK_S, _SHORTEST_S = 300.0, 3.0
# what decide() in contract/consent.py may answer: an item cancelled with one of these was refused, not given up
CONSENT_CODES = frozenset({"unknown", "revoked", "not_yet_valid", "expired", "wrong_purpose"})


def follow(ledger: Ledger, job_id: str, console: Console) -> JobStatus:
    """Show a job's progress until its last item ends; return where it stands then. Raises: BadInput, LedgerDown."""
    if console.is_terminal:
        return _bar(ledger, job_id, console)
    return _lines(ledger, job_id, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))


def _bar(ledger: Ledger, job_id: str, console: Console) -> JobStatus:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[pace]}"),
        TextColumn("{task.fields[note]}", style="yellow"),
    )
    pulse = Pulse()
    with Progress(*columns, console=console) as progress:
        status = job_status(ledger, job_id)
        task = progress.add_task("pictures", total=status.total, note="", pace="")
        while True:
            pulse.saw(ended(status), time.monotonic())
            progress.update(task, completed=ended(status), note=note(status), pace=pulse.said(status))
            if status.ended:
                return status
            time.sleep(_EVERY_S)
            status = job_status(ledger, job_id)


def _lines(ledger: Ledger, job_id: str, say: Callable[[str], None]) -> JobStatus:
    last, told, pulse = "", 0.0, Pulse()
    while True:
        status = job_status(ledger, job_id)
        line, now = summary(status), time.monotonic()
        pulse.saw(ended(status), now)
        if line != last and (status.ended or now - told >= _LINE_EVERY_S):
            pace = pulse.said(status)
            say(f"{line}; {pace}" if pace else line)
            last, told = line, now
        if status.ended:
            return status
        time.sleep(_EVERY_S)


class Pulse:
    """How fast a job gets on, from what was seen of it in the last minutes.

    The pictures of a batch end within a moment of each other, so a rate between two of them would say nothing: it is
    taken from the beginning of what was seen to the last change.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, count: int, at_s: float) -> None:
        """Note how many items have ended at a moment of a clock that only runs on."""
        if not self._seen or count != self._seen[-1][1]:
            self._seen.append((at_s, count))
        while len(self._seen) > 2 and at_s - self._seen[1][0] > _LOOK_BACK_S:
            self._seen.popleft()

    def rate(self) -> float | None:
        """Return items a second; None until something has ended, and within the first seconds."""
        if len(self._seen) < 2:
            return None
        (begun, before), (until, after) = self._seen[0], self._seen[-1]
        return (after - before) / (until - begun) if until - begun >= _SHORTEST_S else None

    def said(self, status: JobStatus) -> str:
        """Return rate and time left in words; "" while they are not known or nothing is in motion."""
        rate, left = self.rate(), status.total - ended(status)
        if not rate or not left or note(status):
            return ""
        often = f"{rate:.3g} a second" if rate >= 1 else f"{rate * 60:.3g} a minute"
        return f"{often}, about {duration(left / rate)} left"


def ended(status: JobStatus) -> int:
    """Return how many items will not change any more."""
    return status.total - sum(status.counts[state] for state in OPEN_STATES)


def summary(status: JobStatus) -> str:
    """Return one line: how many are done, and every other state that is not empty."""
    parts = [f"{status.counts[ItemState.DONE]} of {status.total} done"]
    if status.kept:
        parts[0] += f" ({status.kept} kept)"
    others = [state for state in ItemState if state is not ItemState.DONE and status.counts[state]]
    parts += [f"{status.counts[state]} {state}" for state in others]
    said = note(status)
    return f"{status.id}: {', '.join(parts)}" + (f"; {said}" if said else "")


def gate_lines(status: JobStatus) -> list[str]:
    """Return what second chances cost and where rejected pictures wait; nothing where all is well."""
    each = status.renders_per_picture
    lines = [] if each is None or each <= 1 else [f"{each:.2f} pictures were made for each accepted one"]
    if rejected := status.counts[ItemState.REJECTED]:
        lines.append(f"{rejected} rejected: `face0 review list --job {status.id}` shows those that wait for you")
    return lines


def note(status: JobStatus) -> str:
    """Return why a job makes no progress, "" when nothing is in its way."""
    if status.ended:
        return ""
    if status.state == "paused":
        return f"paused: `face0 resume {status.id}` lets it go on"
    if not status.model_live:
        model = f"model {status.model_name} (digest {status.model_digest[:12]})"
        return f"waits for a worker with {model}: start one with `face0 up` or `face0-worker run`"
    return ""


def outcome(ledger: Ledger, status: JobStatus) -> int:
    """Return the exit code of an ended job: 0 all done, 3 the consent refused, 1 otherwise."""
    if status.counts[ItemState.DONE] == status.total:
        return 0
    if status.counts[ItemState.FAILED] or status.counts[ItemState.REJECTED]:
        return 1
    if status.counts[ItemState.PURGED]:
        return 3
    cancelled = job_items(ledger, status.id, {ItemState.CANCELLED})
    return 3 if any(row.error_code in CONSENT_CODES for row in cancelled) else 1


def why_not_done(ledger: Ledger, status: JobStatus, most: int = 10) -> list[str]:
    """Return a sentence for each of the first items that ended without a picture."""
    without = {ItemState.FAILED, ItemState.REJECTED, ItemState.CANCELLED, ItemState.PURGED}
    rows = list(islice(job_items(ledger, status.id, without), most))
    return [f"SKU {row.sku}: {row.state}: {row.error or 'its consent was revoked'}" for row in rows]
