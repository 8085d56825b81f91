"""Rows side by side: who computes which, and that nobody can tell from the result."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.cores import shares, side_by_side
from face0_worker.render.pipeline import Pipeline
from tests.fakes import tiny_embedding

MAX_DIFFERENCE = 1e-4  # promise P10, of [0, 1], float32


@pytest.fixture
def two_cores(one_core: None) -> Iterator[None]:
    """Let torch think that there are two cores, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@given(st.integers(1, 200), st.integers(1, 64))
def test_shares_hold_each_row_once_and_differ_by_one_at_most(rows: int, cores: int) -> None:
    parts = shares(rows, cores)
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    sizes = [len(range(rows)[part]) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == (cores if rows >= cores else 1)


def test_each_core_computes_its_share_with_itself_alone(two_cores: None) -> None:
    seen: dict[str, tuple[slice, int]] = {}
    together = threading.Barrier(2, timeout=60)

    def compute(part: slice) -> torch.Tensor:
        together.wait()  # both at once
        seen[threading.current_thread().name] = part, torch.get_num_threads()
        return torch.arange(5)[part]

    assert side_by_side(5, compute).tolist() == [0, 1, 2, 3, 4]
    assert sorted((part.start, part.stop, threads) for part, threads in seen.values()) == [(0, 2, 1), (2, 5, 1)]
    assert torch.get_num_threads() == 2, "the calling thread keeps its own number"


def test_a_share_that_fails_fails_the_call_after_the_others_have_ended(two_cores: None) -> None:
    ended = threading.Event()
    failing = threading.Event()

    def compute(part: slice) -> torch.Tensor:
        if part.start == 0:
            failing.set()
            raise RuntimeError("no more memory")
        failing.wait(60)
        ended.set()
        return torch.zeros(1)

    with pytest.raises(RuntimeError, match="no more memory"):
        side_by_side(2, compute)
    assert ended.is_set()


def test_pictures_do_not_depend_on_the_number_of_cores(tiny: Pipeline, two_cores: None) -> None:
    item = RenderItem("a", "red", width=64, height=64, steps=3, guidance=Guidance(w=3.0))
    requests = [RenderRequest(replace(item, seed=seed), tiny_embedding(seed)) for seed in range(3)]
    calls: list[int] = []
    hook = tiny.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    by_two = make_pictures(tiny, requests, lambda step, steps: None)[0]
    assert calls == [3] * 6, "two calls a step, each with three of the six rows"
    hook.remove()
    torch.set_num_threads(1)
    by_one = make_pictures(tiny, requests, lambda step, steps: None)[0]
    np.testing.assert_allclose(by_two, by_one, atol=MAX_DIFFERENCE)
