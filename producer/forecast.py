"""What a list will take before anything is spent: batches, time and money, from what the workers have measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from face0_worker.contract.job import RenderItem
from face0_worker.contract.pace import USUAL_BATCH, estimate
from face0_worker.records.offers import live_paces, live_workers
from producer.services import Services

_PRICE = re.compile(r"(\d+(?:\.\d+)?)\s*(\S+)")


@dataclass(frozen=True)
class Forecast:
    """What rendering takes: `batches`, and `seconds` on the `workers` that live now.

    `seconds` is None where no worker has measured its pace; `cost` is "" there, or where no price is set.
    """

    pictures: int
    batches: int
    workers: int
    seconds: float | None
    cost: str

    def sentence(self) -> str:
        """Return it in words, for the end of a sentence."""
        batches = f"{self.batches} batch{'es' * (self.batches != 1)}"
        if not self.pictures:
            return "nothing to render"
        if not self.workers:
            return f"{batches}; how long it takes is not known: no worker offers the model now"
        if self.seconds is None:
            return f"{batches}; how long it takes is not known: run `face0-worker bench --calibrate` on the worker"
        crew = f"{self.workers} worker{'s' * (self.workers != 1)}"
        return f"{batches}, about {duration(self.seconds)} on {crew}" + (f", {self.cost}" if self.cost else "")


def forecast(services: Services, digest: str, items: Iterable[RenderItem]) -> Forecast:
    """Return what rendering these items, read once, takes on the live workers of the model with this digest."""
    workers = live_workers(services.ledger).get(digest, 0)
    measured = [paces for paces in live_paces(services.ledger).get(digest, []) if paces]
    found = estimate(items, measured, services.settings.batch or USUAL_BATCH)
    if found.worker_s is None or not workers:
        return Forecast(found.pictures, found.batches, workers, None, "")
    cost = price(services.settings.hour_price, found.worker_s)
    return Forecast(found.pictures, found.batches, workers, found.worker_s / workers, cost)


def price(an_hour: str, worker_s: float) -> str:
    """Return what so many seconds of one worker cost, as in "0.34 EUR"; "" where no price of an hour is set."""
    said = _PRICE.fullmatch(an_hour.strip())
    if not said:
        return ""
    cost = float(said[1]) * worker_s / 3600
    # two decimals, and where that is nothing two figures: a picture may cost a hundredth of a cent
    decimals = 2 if cost >= 0.1 or not cost else 1 - math.floor(math.log10(cost))
    return f"{cost:.{decimals}f} {said[2]}"


def duration(seconds: float) -> str:
    """Return a time in words, coarse enough to be honest: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(round(minutes / 10) * 10, 60)
    return f"{hours} h" + (f" {rest} min" if rest else "")
