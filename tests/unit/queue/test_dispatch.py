"""plan_batches by example; tests/properties has what holds for every list."""

from __future__ import annotations

from dataclasses import replace

from face0_worker.queue.dispatch import WaitingItem, plan_batches

ITEM = WaitingItem(1, "job-1", "m" * 64, 128, 128, 20, "ddim", "float32")


def ids(batches: list[tuple[WaitingItem, ...]]) -> list[list[int]]:
    """Return the item ids of each batch."""
    return [[item.item_id for item in batch] for batch in batches]


def plan(*items: WaitingItem, batch_size: int = 2) -> list[list[int]]:
    """Plan the items, numbered from 0, and return their numbers by batch."""
    numbered = [replace(item, item_id=number) for number, item in enumerate(items)]
    return ids([batch.items for batch in plan_batches(numbered, batch_size)])


def test_different_jobs_share_a_batch() -> None:
    assert plan(ITEM, replace(ITEM, job_id="job-2")) == [[0, 1]]


def test_each_part_of_the_shape_separates() -> None:
    for other in (
        replace(ITEM, model_digest="n" * 64),
        replace(ITEM, width=64),
        replace(ITEM, height=64),
        replace(ITEM, steps=10),
        replace(ITEM, sampler="euler"),
        replace(ITEM, precision="bfloat16"),
    ):
        assert plan(ITEM, other) == [[0], [1]]


def test_a_full_batch_is_closed_and_a_solo_item_neither_joins_nor_ends_one() -> None:
    assert plan(ITEM, replace(ITEM, solo=True), ITEM, ITEM) == [[0, 2], [1], [3]]


def test_nothing_waiting_is_no_batch() -> None:
    assert plan() == []
