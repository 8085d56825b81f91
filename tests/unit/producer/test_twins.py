"""What no list may hold twice, found without holding the list."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance, RenderItem
from producer.lists import twins
from producer.lists.twins import count_items

ITEMS = [RenderItem(sku=f"A{n}", prompt="red", seed=n) for n in range(100)]


def refusal(items: list[RenderItem]) -> str:
    with pytest.raises(BadInput) as raised:
        count_items(items)
    return str(raised.value)


def test_a_good_list_is_counted() -> None:
    assert count_items(ITEMS) == 100
    # one product may have several pictures
    assert count_items([*ITEMS, replace(ITEMS[0], prompt="blue")]) == 101


def test_the_first_two_items_that_ask_for_the_same_picture_are_named() -> None:
    said = refusal([*ITEMS, replace(ITEMS[7], sku="twin"), replace(ITEMS[3], sku="later twin")])
    assert said.startswith("SKU twin asks for the same picture as SKU A7 (items 101 and 8 of the list: ")
    assert said.endswith("Nothing was enqueued")


def test_hashes_that_are_equal_by_chance_are_no_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "hash", lambda text: 7, raising=False)
    assert count_items(ITEMS) == 100
    assert "SKU twin" in refusal([*ITEMS, replace(ITEMS[7], sku="twin")])


@pytest.mark.parametrize(
    ("one", "other"),
    [("A1", "Ａ１"), ("ｶﾞｳﾝ", "ガウン"), ("caf\u00e9", "cafe\u0301"), ("A-1", "A－1"), ("A 1", "A\u30001")],
)
def test_skus_that_look_the_same_are_named(one: str, other: str) -> None:
    items = [RenderItem("x", "red"), RenderItem(one, "red", seed=1), RenderItem(other, "red", seed=2)]
    said = refusal(items)
    assert f"SKU {other} and SKU {one} (items 3 and 2 of the list) differ only in the width or composition" in said


@pytest.mark.parametrize(("one", "other"), [("A1", "a1"), ("A①", "A1"), ("A²", "A2"), ("髙", "高"), ("ハ", "バ")])
def test_skus_that_people_can_tell_apart_are_two_products(one: str, other: str) -> None:
    assert count_items([RenderItem(one, "red", seed=1), RenderItem(other, "red", seed=2)]) == 2


def test_no_items_and_items_that_no_ledger_can_hold_are_refused() -> None:
    assert refusal([]) == "the list has no items; nothing was enqueued"
    assert refusal([ITEMS[0], replace(ITEMS[1], guidance=Guidance(w=float("nan")))]).startswith("item 2: not a number")
    assert refusal([replace(ITEMS[1], sku=chr(0xD800))]).startswith("item 1: ")


@dataclass(frozen=True)
class Made:
    """Items that exist only while they are looked at."""

    count: int

    def __iter__(self) -> Iterator[RenderItem]:
        return (replace(ITEMS[0], sku=f"B{n}", seed=n) for n in range(self.count))


def test_a_list_costs_a_few_bytes_an_item() -> None:
    tracemalloc.start()
    try:
        assert count_items(Made(5_000)) == 5_000
        assert tracemalloc.get_traced_memory()[1] < 100 * 5_000
    finally:
        tracemalloc.stop()
