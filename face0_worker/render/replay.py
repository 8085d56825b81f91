"""CUDA graphs: one evaluation of the denoiser captured per shape, and replayed without the CPU's work for it.

Everything in here needs a GPU. What a graph can't hold is run as it is, and `about` says so.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from face0_worker.render.denoiser import Forward

# each holds its own inputs; all share one pool of memory for what lies between
MOST_GRAPHS = 16
WARM_UPS = 2
_FUSED = {
    SDPBackend.FLASH_ATTENTION: can_use_flash_attention,
    SDPBackend.CUDNN_ATTENTION: can_use_cudnn_attention,
}
_ANY_ATTENTION = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


@dataclass(frozen=True)
class _Captured:
    """A graph with the tensors that it reads and the one that it writes."""

    graph: Any
    inputs: tuple[Tensor, ...]
    output: Tensor


class Replays:
    """A forward of fixed shapes as CUDA graphs, captured when a shape comes for the first time.

    The result is the graph's own memory: read it before the next call. One thread at a time. With `compiled` the
    forward goes through torch.compile first, once for each shape that comes before `settle`; its cache is on disk
    (TORCHINDUCTOR_CACHE_DIR).
    """

    def __init__(self, forward: Forward, *, compiled: bool) -> None:
        self._plain = self._forward = forward
        self._compiled, self._not_compiled = compiled, ""
        # the shapes that may be compiled; None: any
        self._only: frozenset[tuple[Any, ...]] | None = None
        if compiled:
            # one code object, many shapes: torch gives up after 8, which `fullgraph` turns into an error
            torch._dynamo.config.cache_size_limit = 64
            self._forward = torch.compile(forward, fullgraph=True, dynamic=False)
        self._graphs: OrderedDict[tuple[Any, ...], _Captured] = OrderedDict()
        self._pool: Any = None
        self._attention: SDPBackend | None = None
        self._without = ""

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the forward's result for these inputs, whose first is the latents."""
        key = tuple((tuple(one.shape), one.dtype) for one in inputs)
        captured = self._graphs.get(key)
        if captured is None:
            if self._attention is None:
                self._attention = fastest_attention(inputs[0])
            captured = None if self._without else self._captured(key, inputs)
        if captured is None:
            with self._preferred(inputs[0].dtype is not torch.float32):
                return self._forward_for(key)(*inputs)
        self._graphs.move_to_end(key)
        for place, value in zip(captured.inputs, inputs, strict=True):
            place.copy_(value, non_blocking=True)
        captured.graph.replay()
        return captured.output

    @property
    def forward(self) -> Forward:
        """The forward as it is captured: compiled where that was asked for and went well."""
        return self._forward

    @property
    def compiled(self) -> bool:
        """Whether shapes are, or were, compiled, and that went well."""
        return self._compiled

    def settle(self) -> None:
        """Compile nothing more: shapes that have no graph yet run as they are, from now on."""
        self._only = frozenset(self._graphs)

    def _forward_for(self, key: tuple[Any, ...]) -> Forward:
        return self._forward if self._only is None or key in self._only else self._plain

    def release(self) -> None:
        """Let go of all graphs and their memory."""
        self._graphs.clear()
        self._pool = None

    def about(self) -> str:
        """Return in words how the forward runs, and why not from graphs where that failed."""
        how = "compiled" if self._compiled else "eager"
        if self._not_compiled:
            how = f"not compiled ({self._not_compiled})"
        attention = self._attention.name.lower() if self._attention is not None else "not yet chosen attention"
        graphs = f"no CUDA graphs ({self._without})" if self._without else f"{len(self._graphs)} CUDA graphs"
        return f"{how}, {graphs}, {attention}"

    @contextmanager
    def _preferred(self, half: bool) -> Iterator[None]:
        """Run with the attention that was found fastest, and with the convolutions that cuDNN finds fastest.

        In float32 the latter are left alone: some are less exact than others, and how many rows there are would tell
        in the picture (promise P10).
        """
        first = self._attention or SDPBackend.FLASH_ATTENTION
        rest = [one for one in (*_FUSED, *_ANY_ATTENTION) if one is not first]
        benchmark = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = half
        try:
            with sdpa_kernel([first, *rest], set_priority=True):
                yield
        finally:
            torch.backends.cudnn.benchmark = benchmark

    def _captured(self, key: tuple[Any, ...], inputs: tuple[Tensor, ...]) -> _Captured | None:
        """Capture a graph for these shapes, or return None and remember why there is none.

        Raises: torch.OutOfMemoryError: as anywhere; a smaller batch may fit.
        """
        try:
            captured = self._capture(self._forward_for(key), tuple(one.clone() for one in inputs))
        except RuntimeError as error:
            if _short_of_memory(error):
                raise torch.OutOfMemoryError("no memory for a graph") from error
            why = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            if self._forward_for(key) is not self._plain:
                # the compiler or what it made: the plain forward may still be captured
                self._forward, self._compiled, self._not_compiled = self._plain, False, why
                return self._captured(key, inputs)
            self._without = why
            return None
        self._graphs[key] = captured
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)
        return captured

    def _capture(self, forward: Forward, inputs: tuple[Tensor, ...]) -> _Captured:
        # libraries choose their algorithms and make their handles in the first calls, which no graph may hold
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        half = inputs[0].dtype is not torch.float32
        with torch.cuda.stream(side), self._preferred(half):
            for _ in range(WARM_UPS):
                forward(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # other threads may be writing pictures, so only this thread's calls count as captured
        with (
            # a capture that ends in an error would leave its own stream behind
            torch.cuda.stream(torch.cuda.current_stream()),
            self._preferred(half),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            output = forward(*inputs)
        return _Captured(graph, inputs, output)


def fastest_attention(like: Tensor, heads: int = 8, width: int = 40, tokens: int = 4096) -> SDPBackend:
    """Return the attention kernel that is fastest here, timed on SD 1.5's largest attention in `like`'s precision."""
    query, key, value = torch.randn(3, 8, heads, tokens, width, device=like.device, dtype=like.dtype)
    # float32 has neither; asking says so quietly, trying would warn
    asked = SDPAParams(query, key, value, None, 0.0, False, False)
    able = [backend for backend, can_use in _FUSED.items() if can_use(asked)]
    times = {backend: _time_attention(backend, query, key, value) for backend in able}
    fastest = min(times, key=lambda one: times[one], default=SDPBackend.EFFICIENT_ATTENTION)
    return fastest if times.get(fastest, math.inf) < math.inf else SDPBackend.EFFICIENT_ATTENTION


def _time_attention(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> float:
    """Return how long five attentions take, in ms; infinity where the device refuses what it said it can."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    try:
        with sdpa_kernel([backend]):
            for _ in range(2):
                torch.nn.functional.scaled_dot_product_attention(query, key, value)
            begin.record()
            for _ in range(5):
                torch.nn.functional.scaled_dot_product_attention(query, key, value)
            end.record()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return math.inf
    end.synchronize()
    return float(begin.elapsed_time(end))


def _short_of_memory(error: BaseException) -> bool:
    """Tell whether memory was behind an error: the end of a capture that ran out of it may hide that by its own."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, torch.OutOfMemoryError) or "out of memory" in str(behind):
            return True
        behind = behind.__context__
    return False
