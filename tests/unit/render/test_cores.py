"""Rows side by side: who computes which, and that nobody can tell from the result."""

from __future__ import annotations

import gc
import multiprocessing
import threading
import time
import weakref
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
        time.sleep(0.2)  # long after the other has failed
        ended.set()
        return torch.zeros(1)

    with pytest.raises(RuntimeError, match="no more memory"):
        side_by_side(2, compute)
    assert ended.is_set()


def test_what_failed_is_let_go_with_its_error(two_cores: None) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def fail() -> None:
        latents = torch.zeros(2)
        held.append(weakref.ref(latents))

        def compute(part: slice) -> torch.Tensor:
            raise torch.OutOfMemoryError(f"no memory for {latents[part]}")

        side_by_side(2, compute)

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError):
            fail()
        # the smaller batch that comes next needs this memory now, not when circles are looked for
        assert held[0]() is None
    finally:
        gc.enable()


def test_a_batch_under_way_ends_with_pictures_while_the_interpreter_ends(
    two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
    assert side_by_side(4, lambda part: torch.arange(4)[part]).tolist() == [0, 1, 2, 3]


def in_a_child(answers: multiprocessing.queues.SimpleQueue[list[int]]) -> None:
    """Compute with threads of this process's own."""
    answers.put(side_by_side(4, lambda part: torch.arange(4)[part]).tolist())


def test_a_forked_process_has_threads_of_its_own(two_cores: None) -> None:
    side_by_side(2, lambda part: torch.arange(2)[part])
    forking = multiprocessing.get_context("fork")
    answers = forking.SimpleQueue()
    child = forking.Process(target=in_a_child, args=(answers,))
    child.start()
    child.join(60)
    ended = child.exitcode
    child.kill()
    assert ended == 0, "it would wait for ever for its parent's threads"
    assert answers.get() == [0, 1, 2, 3]


def test_pictures_do_not_depend_on_the_number_of_cores(tiny: Pipeline, two_cores: None) -> None:
    item = RenderItem("a", "red", width=64, height=64, steps=3, guidance=Guidance(w=3.0))
    requests = [RenderRequest(replace(item, seed=seed), tiny_embedding(seed)) for seed in range(3)]
    calls: list[int] = []
    hook = tiny.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    told: list[threading.Thread] = []
    by_two = make_pictures(tiny, requests, lambda step, steps: told.append(threading.current_thread()))[0]
    assert told == [threading.current_thread()] * 3, "a step is told where the batch is rendered, once"
    assert calls == [3] * 6, "two calls a step, each with three of the six rows"
    hook.remove()
    torch.set_num_threads(1)
    by_one = make_pictures(tiny, requests, lambda step, steps: None)[0]
    np.testing.assert_allclose(by_two, by_one, atol=MAX_DIFFERENCE)


def test_all_cores_together_decode_no_more_pixels_at_once_than_fit(
    tiny: Pipeline, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.randn(7, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    whole = tiny.decode(latents)
    monkeypatch.setattr("face0_worker.render.pipeline.DECODED_PX", 4 * 64 * 64)
    calls: list[int] = []
    hook = tiny.vae.decoder.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    np.testing.assert_allclose(tiny.decode(latents), whole, atol=MAX_DIFFERENCE)
    hook.remove()
    # three and four pictures, at most two at a time by each of two cores
    assert sorted(calls) == [1, 2, 2, 2]
