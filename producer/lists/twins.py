"""What no list may hold twice: the same picture, and SKUs that people can't tell apart. In a few bytes an item."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import RenderItem, Subject, item_key
from producer.lists.signs import same_look

# all items of a list share their subject, so keys under any one subject are equal exactly when the pictures are
_ANYBODY = Subject("", "", "", "")
_BITS = (1 << 64) - 1


def count_items(items: Iterable[RenderItem]) -> int:
    """Return how many items there are; iterates once, and again to name two that must not be in one list.

    Raises: BadInput: there are none; two ask for the same picture; two SKUs differ only in the width or composition
    of their characters. And whatever iterating raises.
    """
    pictures, skus, looks = array("Q"), array("Q"), array("Q")
    for place, item in enumerate(items):
        _refuse_what_no_ledger_can_hold(item, place)
        pictures.append(hash(_pixels(item)) & _BITS)
        skus.append(hash(item.sku) & _BITS)
        looks.append(hash(same_look(item.sku)) & _BITS)
    if not pictures:
        raise BadInput("the list has no items; nothing was enqueued")
    _refuse_equal_pictures(items, np.frombuffer(pictures, np.uint64))
    _refuse_lookalikes(items, np.frombuffer(skus, np.uint64), np.frombuffer(looks, np.uint64))
    return len(pictures)


def _refuse_equal_pictures(items: Iterable[RenderItem], pictures: np.ndarray) -> None:
    ordered = np.sort(pictures)
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    seen: dict[str, tuple[int, RenderItem]] = {}
    # a hash may be equal by chance, so that the pictures themselves decide
    for place, item in _at(items, np.flatnonzero(np.isin(pictures, suspects))):
        first, twin = seen.setdefault(item_key(_ANYBODY, item), (place, item))
        if first != place:
            raise BadInput(
                f"SKU {_named(item)} asks for the same picture as SKU {_named(twin)} (items {place + 1:,} and "
                f"{first + 1:,} of the list: same prompt, seed and size); remove one, or give it another seed. Nothing "
                "was enqueued"
            )


def _named(item: RenderItem) -> str:
    return f"{item.sku} (variant {item.variant})" if item.variant else item.sku


def _refuse_lookalikes(items: Iterable[RenderItem], skus: np.ndarray, looks: np.ndarray) -> None:
    order = np.lexsort((skus, looks))
    together = looks[order[1:]] == looks[order[:-1]]
    suspects = np.unique(looks[order[1:]][together & (skus[order[1:]] != skus[order[:-1]])])
    seen: dict[str, tuple[int, str]] = {}
    for place, item in _at(items, np.flatnonzero(np.isin(looks, suspects))):
        first, sku = seen.setdefault(same_look(item.sku), (place, item.sku))
        if sku != item.sku:
            raise BadInput(
                f"SKU {item.sku} and SKU {sku} (items {place + 1:,} and {first + 1:,} of the list) differ only in the "
                "width or composition of their characters; write the same product's SKU the same way, or give another "
                "product another SKU. Nothing was enqueued"
            )


def _pixels(item: RenderItem) -> tuple[object, ...]:
    """Return what item_key is made of, which is equal whenever the keys are and takes a tenth of the time."""
    return tuple(value for name, value in vars(item).items() if name not in ("sku", "variant"))


def _refuse_what_no_ledger_can_hold(item: RenderItem, place: int) -> None:
    try:
        (item.sku + item.variant + item.prompt + item.negative_prompt).encode()
        if math.isfinite(sum(vars(item.guidance).values())):
            return
    except ValueError:
        pass
    raise BadInput(f"item {place + 1:,}: not a number, or broken Unicode in a text")


def _at(items: Iterable[RenderItem], places: np.ndarray) -> Iterator[tuple[int, RenderItem]]:
    """Yield the items at these places (rising), reading the list only when there are any."""
    wanted = iter(places)
    nearest = next(wanted, None)
    if nearest is None:
        return
    for place, item in enumerate(items):
        if place == nearest:
            yield place, item
            nearest = next(wanted, None)
            if nearest is None:
                return
