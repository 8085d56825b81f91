"""Paces: batches that suit every worker, and times told from what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.guidance import evaluations
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.contract.pace import Estimate, Pace, best_batches, estimate, read_paces

SMALL = Pace(256, 256, 8, fixed_s=0.5, row_s=0.01)
ITEM = RenderItem("sku", "a red shirt", width=256, height=256, steps=20, guidance=Guidance(w=5.0))


def test_an_item_takes_its_fixed_part_and_its_evaluations() -> None:
    assert SMALL.seconds(ITEM) == pytest.approx(0.5 + 40 * 0.01)
    limited = replace(ITEM, guidance=Guidance(w=5.0, start=0.2, stop=0.7))
    assert SMALL.seconds(limited) == pytest.approx(0.5 + 30 * 0.01)


@pytest.mark.parametrize(
    ("guidance", "each"), [(Guidance(), 2), (Guidance(c=0.6), 3), (Guidance(c=0.6, a=0.5), 4), (Guidance(w=1.0), 1)]
)
def test_evaluations_count_the_branches_that_matter(guidance: Guidance, each: int) -> None:
    assert evaluations(guidance, 10) == 10 * each


def test_a_batch_is_no_larger_than_the_smallest_of_those_that_the_workers_found_best() -> None:
    other = (replace(SMALL, batch=4), replace(SMALL, width=512, batch=2))
    assert best_batches([(SMALL,), other, ()]) == {(256, 256): 4, (512, 256): 2}


@given(st.integers(1, 40), st.integers(1, 12))
def test_a_list_takes_as_many_batches_as_its_shapes_fill(count: int, batch: int) -> None:
    items = [replace(ITEM, steps=20 if number % 3 else 30) for number in range(count)]
    shapes = [sum(1 for item in items if item.steps == steps) for steps in (20, 30)]
    found = estimate(items, [(replace(SMALL, batch=batch),)], usual=99)
    assert found.batches == sum(-(-shape // batch) for shape in shapes)
    assert found.worker_s == pytest.approx(sum(SMALL.seconds(item) for item in items))


def test_a_size_that_one_worker_has_not_measured_has_no_time() -> None:
    items = [ITEM, replace(ITEM, width=512)]
    assert estimate(items, [(SMALL,)], usual=8) == Estimate(2, 2, None)
    assert estimate(items[:1], [(SMALL,), ()], usual=8).worker_s is None
    assert estimate(items[:1], [], usual=8) == Estimate(1, 1, None)


def test_paces_survive_the_way_through_the_ledger_and_strangers_are_left_out() -> None:
    assert read_paces({"paces": [SMALL.to_json(), {"width": 1}, "what", None]}) == (SMALL,)
    assert read_paces({}) == read_paces({"paces": None}) == ()
