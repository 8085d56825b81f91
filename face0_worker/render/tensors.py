"""Tensors to and from where they are computed. A load never holds more than the weights and one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.render.weight_files import Stored

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_tensors(
    wanted: Mapping[str, Stored],
    dtype: torch.dtype | None,
    what: str,
    *,
    channels_last: bool = False,
    added: Mapping[str, Callable[[Tensor], None]] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield every wanted tensor by name, floating ones in `dtype` (None: as stored). `what` names it in errors.

    Bytes are read, not mapped: mapped pages would count as memory until the whole file is let go. All are read into
    one place as large as the largest tensor, so that nothing is freed in between and the heap has no holes.
    `channels_last`: convolutions get this order of memory at once; to turn them later would hold them twice.
    `added`: by a weight's name, what adds something to it in place; it gets it in float32, and rounding comes after.
    Raises: ModelMissing: a file changed or can't be read, or a weight is not a number. BadInput: a weight is too
    large for `dtype`.
    """
    place = torch.empty(max((one.stop - one.start for one in wanted.values()), default=0), dtype=torch.uint8)
    added = added or {}
    most = max((math.prod(wanted[name].shape) for name in added), default=0)
    summed = torch.empty(most, dtype=torch.float32)
    with ExitStack() as stack:
        opened: dict[Path, BinaryIO] = {}
        # in the order of the disk
        for name, stored in sorted(wanted.items(), key=lambda pair: (str(pair[1].file), pair[1].start)):
            try:
                if stored.file not in opened:
                    # unbuffered: the bytes go straight into the tensor
                    opened[stored.file] = stack.enter_context(stored.file.open("rb", buffering=0))
                raw = _read(opened[stored.file], stored, place)
            except OSError as error:
                raise ModelMissing(f"{stored.file} can't be read ({type(error).__name__}); copy it again") from error
            kind = dtype if dtype is not None and raw.is_floating_point() else raw.dtype
            if name in added:
                raw = summed[: raw.numel()].view(raw.shape).copy_(raw)
                added[name](raw)
            _check_numbers(name, raw, kind, what)
            order = torch.channels_last if channels_last and raw.dim() == 4 else torch.contiguous_format
            yield name, torch.empty(raw.shape, dtype=kind, memory_format=order).copy_(raw)


def _read(opened: BinaryIO, stored: Stored, place: Tensor) -> Tensor:
    """Read one tensor's bytes into `place` and return them as that tensor, without a copy."""
    size = stored.stop - stored.start
    view = place.numpy().data[:size]
    opened.seek(stored.start)
    done = 0
    while done < size:
        count = opened.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise ModelMissing(f"{stored.file} can't be read: it was cut short meanwhile; copy it again")
        done += count
    return place[:size].view(DTYPES[stored.dtype]).reshape(stored.shape)


def _check_numbers(name: str, raw: Tensor, dtype: torch.dtype, what: str) -> None:
    if not raw.is_floating_point() or raw.numel() == 0:
        return
    # both are NaN where one value is; isfinite would need a second tensor
    ends = torch.stack(torch.aminmax(raw))
    if not ends.isfinite().all():
        raise ModelMissing(f"{what} is damaged: {name} holds values that are not numbers; copy the model again")
    if not ends.to(dtype).isfinite().all():
        kind = str(dtype).removeprefix("torch.")
        raise BadInput(f"{what}: {name} holds a value too large for {kind}; use bfloat16 or float32")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on the device. To a GPU it goes from pinned memory, so that nobody waits for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: Tensor) -> np.ndarray:
    """Return a tensor of any device as an array. From a GPU it comes in pinned memory, at the full rate of the bus."""
    if tensor.device.type != "cuda":
        return np.asarray(tensor.numpy())
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    # of this stream only: another thread's work is not waited for
    torch.cuda.current_stream(tensor.device).synchronize()
    return np.asarray(host.numpy())
