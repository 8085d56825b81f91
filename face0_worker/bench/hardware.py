"""What the hardware gives and takes while a side runs: memory at its peak, and how fast it multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from face0_worker.bench.report import name_cpu

GIB = 2**30
_PEAK_ROUNDS = 10


def gpu_name(device: torch.device) -> str:
    """Return the GPU's name and the torch that drives it."""
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"


def device_name(device: torch.device) -> str:
    """Return what numbers of this device are filed under: the GPU's name, or the processor's and its cores."""
    return gpu_name(device) if device.type == "cuda" else name_cpu()


def wait(device: torch.device) -> None:
    """Return when the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large square matrix product in `dtype`: the median of several, on random numbers."""
    side = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    times = []
    for _ in range(3 + _PEAK_ROUNDS):
        wait(device)
        begun = time.perf_counter()
        torch.mm(one, other)
        wait(device)
        times.append(time.perf_counter() - begun)
    return float(2 * side**3 / sorted(times[3:])[_PEAK_ROUNDS // 2])


def count_flops(call: Callable[[], Any]) -> int:
    """Return the floating-point operations of the matrix products and convolutions in `call`, two a multiply-add.

    Attention is counted as its two products, in whatever kernel it runs otherwise.
    """
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel([SDPBackend.MATH]), counter:
        call()
    return int(counter.get_total_flops())


def peak_memory(device: torch.device, call: Callable[[], Any]) -> float:
    """Return the most GiB in use while `call` runs, weights included: on the GPU, else of this whole process."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) / GIB
    # Linux: 5 resets the peak of this process (man 5 proc, clear_refs)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    call()
    status = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(peak) * 1024 / GIB
