"""How much fits at once is learned from what did not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from face0_worker.contract.errors import OutOfMemory
from face0_worker.contract.job import Guidance
from face0_worker.render.batch import RenderRequest
from face0_worker.render.pipeline import Pipeline
from tests.fakes import tiny_embedding
from tests.unit.render.batches import ITEM, Spoiled, pixels_of, render, requests_of


def test_a_batch_too_large_for_memory_is_halved_and_finishes(tiny: Pipeline) -> None:
    requests = [RenderRequest(replace(ITEM, seed=n), tiny_embedding(n)) for n in range(5)]
    wanted = render(tiny, requests)
    tiny.unet = Spoiled(tiny.unet, most=4)
    made = render(tiny, requests)
    for one, other in zip(made, wanted, strict=True):
        assert np.abs(pixels_of(one) - pixels_of(other)).max() <= 1
    assert tiny.unet.calls[0] == 10


def test_an_item_too_large_for_memory_alone_says_so_and_may_be_tried_again(tiny: Pipeline) -> None:
    tiny.unet = Spoiled(tiny.unet, most=2)
    hungry = RenderRequest(replace(ITEM, guidance=Guidance(c=0.5)), None)
    good = RenderRequest(ITEM, None)
    first, second, third = render(tiny, [good, hungry, good])
    assert isinstance(second.error, OutOfMemory)
    assert second.error.retryable
    assert np.array_equal(pixels_of(first), pixels_of(third))


def test_the_size_that_fitted_is_remembered_and_the_next_batch_starts_there(tiny: Pipeline) -> None:
    learned: list[tuple[int, int, int]] = []
    tiny.limits.on_learned = lambda width, height, rows: learned.append((width, height, rows))
    tiny.unet = Spoiled(tiny.unet, most=4)
    made = render(tiny, requests_of(8))
    assert all(one.error is None for one in made)
    assert learned == [(64, 64, 8), (64, 64, 4)]
    tiny.unet.calls.clear()
    made = render(tiny, requests_of(8))
    assert all(one.error is None for one in made)
    assert set(tiny.unet.calls) == {4}, "nothing failed again"
    assert len(learned) == 2, "and nothing is told twice"


def test_a_limit_counts_rows_and_belongs_to_one_size(tiny: Pipeline) -> None:
    tiny.limits.did_not_fit((64, 64), 6)
    spy = Spoiled(tiny.unet)
    tiny.unet = spy
    # three rows each: two at once
    assert all(one.error is None for one in render(tiny, requests_of(4, guidance=Guidance(w=3, c=0.5, a=0.0))))
    assert set(spy.calls) == {6}
    spy.calls.clear()
    assert all(one.error is None for one in render(tiny, requests_of(4, width=96)))
    assert set(spy.calls) == {8}


def test_an_item_larger_than_the_limit_still_gets_its_try(tiny: Pipeline) -> None:
    tiny.limits.did_not_fit((64, 64), 1)
    assert [one.error for one in render(tiny, requests_of(2))] == [None, None]


def test_after_many_good_batches_a_larger_one_is_tried_once(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("face0_worker.render.limits.GROW_AFTER", 5)
    learned: list[int] = []
    tiny.limits.on_learned = lambda width, height, rows: learned.append(rows)
    spy = Spoiled(tiny.unet, most=2)
    tiny.unet = spy
    tiny.limits.did_not_fit((64, 64), 2)
    few = requests_of(8, steps=1)
    assert all(one.error is None for one in render(tiny, few))
    assert spy.calls.count(4) == 1
    assert tiny.limits.most((64, 64)) == 2
    assert learned == [2], "a vain try is no news"
    spy.most, spy.calls[:] = 10**6, []
    assert all(one.error is None for one in render(tiny, few))
    assert tiny.limits.most((64, 64)) == 4, "what had taken the memory is gone"


def test_a_failure_that_is_not_of_memory_limits_nothing(tiny: Pipeline) -> None:
    class Breaks(Spoiled):
        def forward(self, latents: torch.Tensor, *more: Any, **named: Any) -> Any:
            if len(latents) > 4:
                raise RuntimeError("cuDNN had a bad day")
            return super().forward(latents, *more, **named)

    tiny.unet = Breaks(tiny.unet)
    assert [one.error for one in render(tiny, requests_of(4))] == [None] * 4
    assert tiny.limits.most((64, 64)) is None
