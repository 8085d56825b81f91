"""Somebody who runs the nights of a catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from face0_worker.contract.job import RenderItem
from face0_worker.records.catalogue_pointer import Entry, Pointer, read_entries, read_pointer
from face0_worker.records.progress import JobStatus
from producer.demo import PERSON
from producer.nightly import Order, run_night
from producer.nights.outcome import check_entries
from producer.nights.plan import Share
from producer.nights.report import Night
from producer.services import Services
from producer.sources import Source, photo_files
from tests.integration.producer.plain_worker import render_everything


def item(sku: str, prompt: str = "a red shirt", **fields: Any) -> RenderItem:
    """One line of a list; its seed is its SKU's number."""
    return RenderItem(sku, prompt, seed=int(sku[1:] or 0), width=64, height=64, steps=4, **fields)


def some(*numbers: int, prompt: str = "a red shirt") -> tuple[RenderItem, ...]:
    """Lines of SKUs with these numbers."""
    return tuple(item(f"s{number}", prompt) for number in numbers)


def open_photo() -> Source:
    """The sample person's photo."""
    return photo_files([PERSON])


class Shop:
    """Somebody who runs nights; a worker renders while they wait."""

    def __init__(self, services: Services, worker: Services) -> None:
        """`worker`: the same installation as another process sees it."""
        self.services, self.worker = services, worker
        self.rendered = 0

    def order(self, *lists: tuple[str, Sequence[RenderItem]], **more: Any) -> Order:
        """An order for (consent id, items) pairs."""
        shares = tuple(Share(consent_id, tuple(items), open_photo) for consent_id, items in lists)
        return Order("autumn", shares, **more)

    def night(self, *lists: tuple[str, Sequence[RenderItem]], fail: str = "", **more: Any) -> Night:
        """Run one night to its end; the item of SKU `fail` fails."""
        self.rendered = 0

        def work(_: Sequence[JobStatus]) -> None:
            self.rendered += render_everything(self.worker, fail=fail)

        return run_night(self.services, self.order(*lists, **more), work, poll_s=0.01)

    def work(self, _: Sequence[JobStatus]) -> None:
        """Render what waits: what a night of somebody's own waits with."""
        render_everything(self.worker)

    def pointer(self) -> Pointer | None:
        """What the pointer says."""
        return read_pointer(self.services.storage, self.services.signer.public_key, "autumn")

    def shown(self) -> list[Entry]:
        """The entries of the published manifest, every picture of it verified."""
        pointer = self.pointer()
        if pointer is None:
            return []
        entries = list(read_entries(self.services.storage, self.services.signer.public_key, pointer.manifest))
        assert [str(problem) for _, problem in check_entries(self.services, entries) if problem] == []
        assert pointer.total == len(entries)
        return entries

    def skus(self) -> list[str]:
        """The published SKUs in the order of the manifest."""
        return [entry.sku for entry in self.shown()]
