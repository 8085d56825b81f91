"""Rows side by side on a CPU: each core computes its own, instead of all cores sharing each operation.

torch shares every convolution between all cores and waits at its end for the slowest. A core that another thread or
process needs for a moment then stops all others too, and they burn their time waiting. Rows don't depend on each
other, so each core takes its part of them through the whole network, and nobody waits until the end.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier

import torch
from torch import Tensor


def shares(rows: int, cores: int) -> list[slice]:
    """Return which rows each core takes, as evenly as can be; one share where there are fewer rows than cores. Pure."""
    if rows < cores or cores < 2:
        return [slice(0, rows)]
    ends = [rows * number // cores for number in range(cores + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(ends)]


def side_by_side(rows: int, compute: Callable[[slice], Tensor]) -> Tensor:
    """Return what `compute` gives for all `rows` rows, in their order, each core computing its share of them.

    `compute` gets a share and returns a tensor of as many rows; it is called in several threads at once. What it
    raises is raised here.
    """
    cores = torch.get_num_threads()
    parts = shares(rows, cores)
    if len(parts) == 1:
        return compute(parts[0])

    def alone(part: slice) -> Tensor:
        # a thread's own state, like the number of threads
        with torch.inference_mode():
            return compute(part)

    try:
        asked = [_threads(cores).submit(alone, part) for part in parts]
    except RuntimeError:
        # the interpreter is ending and its pools take no more work: a batch under way still ends with pictures
        return compute(slice(0, rows))
    # all of them, also when one failed: whoever tries again finds the cores free
    wait(asked)
    try:
        return torch.cat(list(map(Future.result, asked)))
    finally:
        # an error holds its frames, this one among them: still holding the error, it would keep the batch's tensors
        del asked


@cache
def _threads(cores: int) -> ThreadPoolExecutor:
    """Return as many threads as there are cores, in which torch uses one core each."""
    started = Barrier(cores, timeout=60)

    def on_one_core() -> None:
        torch.get_num_threads()  # torch sets a thread's number at its first use, and would set it back later
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(cores, thread_name_prefix="core")
    for done in [pool.submit(on_one_core) for _ in range(cores)]:
        done.result()
    # what was set is also the number for threads to come; the calling thread kept its own
    torch.set_num_threads(cores)
    return pool


# a forked process has none of these threads, and would wait for them for ever
os.register_at_fork(after_in_child=_threads.cache_clear)
