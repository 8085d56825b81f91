"""The denoiser's calls: sizes from a fixed set, padding that nobody sees, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.denoiser import ROW_COUNTS, Denoiser, Tally, fill_up, split_rows
from face0_worker.render.pipeline import Pipeline
from tests.fakes import tiny_embedding

CPU = torch.device("cpu")
ITEM = RenderItem("a", "red", width=64, height=64, steps=2, guidance=Guidance(w=3.0))
MAX_DIFFERENCE = 1e-4  # promise P10, of [0, 1], float32


def pictures(pipeline: Pipeline, seeds: list[int]) -> np.ndarray:
    """Render one item per seed, each with a face of its own."""
    requests = [RenderRequest(replace(ITEM, seed=seed), tiny_embedding(seed)) for seed in seeds]
    return make_pictures(pipeline, requests, lambda step, steps: None)[0]


@given(st.integers(1, 500))
def test_calls_hold_all_rows_and_only_the_last_is_padded(rows: int) -> None:
    calls = split_rows(rows)
    assert sum(size - padded for size, padded in calls) == rows
    assert {size for size, _ in calls} <= set(ROW_COUNTS)
    assert all(padded == 0 for _, padded in calls[:-1])
    # a third at most: three rows in a call of four, five in one of six, nine in one of twelve
    assert calls[-1][1] <= calls[-1][0] / 3


@pytest.mark.parametrize("seeds", [[1], [1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9]], ids=len)
def test_padded_calls_give_the_same_pictures(tiny: Pipeline, seeds: list[int]) -> None:
    whole = pictures(tiny, seeds)
    tiny.denoiser = Denoiser(tiny.unet, torch.float32, CPU, counts=(4, 5))
    np.testing.assert_allclose(pictures(tiny, seeds), whole, atol=MAX_DIFFERENCE)


def test_padded_rows_are_counted_apart_from_evaluations(tiny: Pipeline) -> None:
    tiny.denoiser = Denoiser(tiny.unet, torch.float32, CPU, counts=(4,))
    pictures(tiny, [1, 2, 3])
    # three items under two branches in two steps; six rows go as four and as two with two more
    assert tiny.denoiser.tally == Tally(calls=4, evaluations=12, padded=4)


def test_a_broken_row_does_not_reach_its_neighbours_through_the_padding(tiny: Pipeline) -> None:
    tiny.denoiser = Denoiser(tiny.unet, torch.float32, CPU, counts=(4,))
    context = tiny.condition([ITEM], [None]).texts[:1].expand(3, -1, -1)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    latents[2] = torch.nan  # the row that is repeated
    told = type("Told", (), {"told": lambda self: (context,)})()
    out = tiny.denoiser(latents, torch.tensor(10), told)
    assert out[2].isnan().all()
    assert out[:2].isfinite().all()


def test_what_one_call_said_outlives_the_next_that_writes_to_the_same_memory() -> None:
    memory = torch.empty(2, 1, 1, 1)

    def unet(latents: torch.Tensor, *told: object, **more: object) -> tuple[torch.Tensor]:
        return (memory.copy_(latents),)

    denoiser = Denoiser(unet, torch.float32, CPU, counts=(2,))
    told = type("Told", (), {"told": lambda self: (torch.zeros(4, 1, 1),)})()
    said = denoiser(torch.arange(4.0).reshape(4, 1, 1, 1), torch.tensor(1), told)
    assert said.flatten().tolist() == [0, 1, 2, 3]


def test_filling_up_repeats_the_last_row_and_keeps_channels_last() -> None:
    rows = torch.randn(3, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    filled = fill_up(rows, 5)
    assert filled.shape == (5, 4, 8, 8)
    assert torch.equal(filled[3], rows[2])
    assert torch.equal(filled[4], rows[2])
    assert filled.is_contiguous(memory_format=torch.channels_last)
    assert fill_up(rows, 3) is rows


def test_compiling_for_a_cpu_is_refused(tiny: Pipeline) -> None:
    with pytest.raises(BadInput, match="needs CUDA"):
        tiny.compile()
