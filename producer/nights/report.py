"""What became of a night: compared with what the catalogue showed before, counted, and told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from face0_worker.records.catalogue_pointer import Entry, Pointer
from face0_worker.records.catalogue_runs import Run
from producer.nights.outcome import Results


@dataclass(frozen=True)
class Difference:
    """How one list of pictures differs from another, by SKU and variant."""

    added: int
    changed: int
    kept: int
    removed: int


class Listed(Protocol):
    """A picture as a list names it."""

    @property
    def sku(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def item_key(self) -> str: ...


def compare(before: Iterable[Listed], after: Iterable[Listed]) -> Difference:
    """Say what was added, changed, kept and removed. Pure.

    A SKU may have several pictures: those with equal keys are kept, of the rest as many are changed as both have.
    """
    old, new = _by_name(before), _by_name(after)
    added = changed = kept = removed = 0
    for name in old.keys() | new.keys():
        was, now = old.get(name, Counter()), new.get(name, Counter())
        same = (was & now).total()
        gone, come = was.total() - same, now.total() - same
        both = min(gone, come)
        kept, changed, removed, added = kept + same, changed + both, removed + gone - both, added + come - both
    return Difference(added, changed, kept, removed)


def _by_name(listed: Iterable[Listed]) -> dict[tuple[str, str], Counter[str]]:
    named: dict[tuple[str, str], Counter[str]] = {}
    for one in listed:
        named.setdefault((one.sku, one.variant), Counter())[one.item_key] += 1
    return named


@dataclass(frozen=True)
class Counts:
    """The numbers of a report; docs/nightly.md says what each means."""

    items: int = 0
    done: int = 0
    added: int = 0
    changed: int = 0
    kept: int = 0
    removed: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    stale: int = 0
    rendered: int = 0
    verified: int = 0


def count(before: Sequence[Entry], results: Results, shown: Sequence[Entry], *, refused: int) -> Counts:
    """Count a night. `shown` are those of its pictures that its consents still allow; `refused` items had no job."""
    stale = sum(entry.stale for entry in shown)
    done = len(shown) - stale
    difference = compare(before, shown)
    ended = results.failed + results.cancelled
    return Counts(
        items=results.total + refused,
        done=done,
        added=difference.added,
        changed=difference.changed,
        # a stale picture is the one of before, but not the one that was asked for
        kept=difference.kept - stale,
        removed=difference.removed,
        failed=results.failed,
        refused=results.total + refused - done - ended,
        cancelled=results.cancelled,
        stale=stale,
        rendered=results.rendered,
        verified=results.verified,
    )


@dataclass(frozen=True)
class Night:
    """How a run ended: its row in the ledger, its numbers, the pointer that stands now, and what went wrong."""

    run: Run
    counts: Counts
    pointer: Pointer | None
    pictures: tuple[Entry, ...] = field(default=(), repr=False)
    problems: tuple[str, ...] = ()
    wall_s: float = 0.0

    @property
    def exit_code(self) -> int:
        """0: all is shown as asked. 1: something failed or was cancelled, or the pointer stayed. 3: only refusals."""
        if self.counts.failed or self.counts.cancelled:
            return 1
        if self.counts.refused:
            return 3
        return 1 if self.run.state == "withheld" else 0


def report(night: Night) -> dict[str, Any]:
    """Return report.json: design.md's form and what is a night's own. A picture's `file` is its key in the storage."""
    pictures = [{"sku": one.sku, "file": one.picture_key, "sha256": one.picture_sha256} for one in night.pictures]
    run = night.run
    return {
        **vars(night.counts),
        "wall_s": round(night.wall_s, 3),
        "pictures": pictures,
        "catalogue": run.catalogue,
        "run": run.id,
        "state": run.state,
        "jobs": list(run.jobs),
        "deadline": run.deadline.isoformat() if run.deadline else None,
        "serial": night.pointer.serial if night.pointer else 0,
        "manifest": night.pointer.manifest.key if night.pointer else "",
        "problems": list(night.problems),
    }


def sentences(night: Night) -> list[str]:
    """Return what a person should read of a night."""
    counts, run = night.counts, night.run
    differs = (f"{getattr(counts, name)} {name}" for name in ("added", "changed", "kept", "removed"))
    said = [f"{run.catalogue}: {', '.join(differs)}"]
    bad = [f"{number} {name}" for name in ("failed", "refused", "cancelled") if (number := getattr(counts, name))]
    if bad:
        stale = f"; {counts.stale} of them show the picture of before" if counts.stale else ""
        said.append(f"  {', '.join(bad)} of {counts.items}{stale}")
    if counts.rendered:
        said.append(f"  {counts.rendered} rendered, {counts.verified} read back and verified, in {night.wall_s:.0f} s")
    return [*said, f"  {outcome_sentence(run.state, night.pointer)}"]


def outcome_sentence(state: str, pointer: Pointer | None) -> str:
    """Return one sentence about where the pointer stands."""
    shown = "nothing is shown"
    if pointer is not None:
        shown = f"catalogues/{pointer.catalogue}/latest.json shows {pointer.total} pictures"
    return {
        "published": f"Published: {shown}.",
        "unchanged": f"Nothing changed: {shown}, as before.",
        "withheld": f"Not published, too little is complete; {shown}, as before. The next night goes on from here.",
    }.get(state, f"{state.capitalize()}: {shown}.")


def first_sentences(problems: Sequence[str], most: int = 10) -> tuple[str, ...]:
    """Return the first problems and how many more there are."""
    more = len(problems) - most
    return (*problems[:most], f"... and {more} more") if more > 0 else tuple(problems)
