"""CUDA graphs, as far as a machine without a GPU can tell: what is kept, copied and said, over a pretended device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from face0_worker.render import replay
from face0_worker.render.replay import MOST_GRAPHS, WARM_UPS, Replays, fastest_attention


class Device:
    """A pretended CUDA device: a graph replayed does again what was called while it was captured."""

    def __init__(self) -> None:
        self.calls = 0
        self.last: tuple[tuple[Tensor, ...], Tensor] | None = None
        self.fails = ""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Double the latents, add the sum of what is told."""
        self.calls += 1
        out = 2 * inputs[0] + sum(one.sum() for one in inputs[1:])
        self.last = inputs, out
        return out

    @contextmanager
    def graph(self, graph: Any, pool: object, capture_error_mode: str) -> Iterator[None]:
        """Stand in for torch.cuda.graph."""
        assert capture_error_mode == "thread_local"
        if self.fails:
            raise RuntimeError(self.fails)
        yield
        assert self.last is not None
        graph.inputs, graph.output = self.last


class Graph:
    """Stands in for torch.cuda.CUDAGraph."""

    inputs: tuple[Tensor, ...]
    output: Tensor

    def replay(self) -> None:
        """Write the result for what the inputs hold now."""
        self.output.copy_(2 * self.inputs[0] + sum(one.sum() for one in self.inputs[1:]))


class Stream:
    """Stands in for a stream: everything has happened already."""

    def wait_stream(self, other: object) -> None:
        """Do nothing."""


class Event:
    """Stands in for a timing event; each one takes a millisecond less than the one before."""

    made = 0

    def __init__(self, enable_timing: bool) -> None:
        Event.made += 1
        self.at = 100.0 - Event.made

    def record(self) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing."""

    def elapsed_time(self, end: Event) -> float:
        """Return a time that gets shorter with every pair."""
        return self.at


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Let torch.cuda be the pretended device."""
    made = Device()
    for name, value in {
        "graph": made.graph,
        "CUDAGraph": Graph,
        "Stream": Stream,
        "Event": Event,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "graph_pool_handle": object,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    # of SD 1.5's size, which takes a CPU seconds
    monkeypatch.setattr(replay, "fastest_attention", lambda like: SDPBackend.FLASH_ATTENTION)
    return made


def inputs(rows: int, fill: float) -> tuple[Tensor, ...]:
    """Return latents, timestep and tokens."""
    return torch.full((rows, 4, 8, 8), fill), torch.tensor(fill), torch.full((rows, 3, 2), fill)


def test_a_shape_is_captured_once_and_replayed_with_what_is_asked_now(device: Device) -> None:
    replays = Replays(device.forward, compiled=False)
    for fill in (1.0, 2.0, 3.0):
        asked = inputs(2, fill)
        torch.testing.assert_close(replays(*asked), 2 * asked[0] + fill + 12 * fill)
        assert device.calls == WARM_UPS + 1
    assert replays.about().startswith("eager, 1 CUDA graphs")


def test_each_shape_has_a_graph_of_its_own_and_the_longest_unused_goes(device: Device) -> None:
    replays = Replays(device.forward, compiled=False)
    for rows in range(1, MOST_GRAPHS + 2):
        replays(*inputs(rows, 1.0))
    assert f"{MOST_GRAPHS} CUDA graphs" in replays.about()
    calls = device.calls
    replays(*inputs(2, 1.0))
    assert device.calls == calls, "two rows are still there"
    replays(*inputs(1, 1.0))
    assert device.calls > calls, "one row was the first to go"


def test_released_graphs_are_captured_again(device: Device) -> None:
    replays = Replays(device.forward, compiled=False)
    replays(*inputs(2, 1.0))
    replays.release()
    calls = device.calls
    replays(*inputs(2, 1.0))
    assert device.calls == calls + WARM_UPS + 1


def test_what_can_not_be_captured_runs_as_it_is_and_is_said(device: Device) -> None:
    device.fails = "operation not permitted when stream is capturing\nand more"
    replays = Replays(device.forward, compiled=False)
    for fill in (1.0, 2.0):
        asked = inputs(2, fill)
        torch.testing.assert_close(replays(*asked), 2 * asked[0] + 13 * fill)
    assert "no CUDA graphs (RuntimeError: operation not permitted when stream is capturing)" in replays.about()


def test_too_little_memory_for_a_graph_is_the_batchs_to_know(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*asked: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        Replays(full, compiled=False)(*inputs(2, 1.0))


def test_a_compiler_that_fails_is_done_without_and_said(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(forward: object, **options: object) -> object:
        def broken(*asked: Tensor) -> Tensor:
            raise RuntimeError("no triton")

        return broken

    monkeypatch.setattr(torch, "compile", no_compiler)
    replays = Replays(device.forward, compiled=True)
    asked = inputs(2, 1.0)
    torch.testing.assert_close(replays(*asked), 2 * asked[0] + 13)
    assert replays.about().startswith("not compiled (RuntimeError: no triton), 1 CUDA graphs")
    assert replays.forward == device.forward


def test_memory_that_ended_a_capture_is_told_also_where_the_captures_own_end_hides_it(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def invalidated(graph: Any, pool: object, capture_error_mode: str) -> Iterator[None]:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
        yield

    working = torch.cuda.graph
    monkeypatch.setattr(torch.cuda, "graph", invalidated)
    replays = Replays(device.forward, compiled=False)
    with pytest.raises(torch.OutOfMemoryError):
        replays(*inputs(2, 1.0))
    monkeypatch.setattr(torch.cuda, "graph", working)
    replays(*inputs(1, 1.0))
    assert replays.about().startswith("eager, 1 CUDA graphs"), "a smaller batch has its graph"


def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the device say that it can do both fused attentions."""
    monkeypatch.setattr(replay, "_FUSED", dict.fromkeys(replay._FUSED, lambda asked: True))


def refuse(*asked: Tensor) -> Tensor:
    """Stand in for an attention that has no kernel."""
    raise RuntimeError("No available kernel. Aborting execution.")


def test_the_attention_that_was_faster_is_taken(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch)
    monkeypatch.setattr(replay, "sdpa_kernel", lambda backends, set_priority=False: nullcontext())
    assert fastest_attention(torch.zeros(1), tokens=8) is SDPBackend.CUDNN_ATTENTION


def test_a_fused_attention_that_is_not_there_is_not_tried(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *asked: tried.append(asked))
    assert fastest_attention(torch.zeros(1), tokens=8) is SDPBackend.EFFICIENT_ATTENTION
    assert not tried, "trying warns, asking does not"


def test_where_both_fused_attentions_refuse_after_all_the_next_best_is_taken(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    able(monkeypatch)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refuse)
    assert fastest_attention(torch.zeros(1), tokens=8) is SDPBackend.EFFICIENT_ATTENTION


def test_shapes_that_come_after_settling_are_not_compiled(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def compiler(forward: Any, **options: object) -> object:
        def faster(*asked: Tensor) -> Any:
            compiled.append(len(asked[0]))
            return forward(*asked)

        return faster

    monkeypatch.setattr(torch, "compile", compiler)
    replays = Replays(device.forward, compiled=True)
    replays(*inputs(2, 1.0))
    replays.settle()
    for rows in (2, 3):
        asked = inputs(rows, 1.0)
        torch.testing.assert_close(replays(*asked), 2 * asked[0] + 1 + 6 * rows)
    assert set(compiled) == {2}
    replays.release()
    compiled.clear()
    replays(*inputs(2, 1.0))
    assert set(compiled) == {2}, "what was compiled stays so when its graph had to go"
    assert replays.compiled
