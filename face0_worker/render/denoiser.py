"""The denoiser as the loop calls it: any number of rows, in calls whose sizes a GPU has seen before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.render.conditioning import Context
from face0_worker.render.cores import side_by_side

# every size costs a captured graph, and compiled code, of its own; more rows than the last make no call faster
ROW_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)

Forward = Callable[..., Tensor]
"""(latents (rows, c, h, w) in the model's precision, timestep () float32, *Context.told()) -> (rows, c, h, w)."""


@dataclass
class Tally:
    """What a denoiser has done so far: `evaluations` are rows that somebody asked for, `padded` those that fill up."""

    calls: int = 0
    evaluations: int = 0
    padded: int = 0

    def since(self, before: Tally) -> Tally:
        """Return what was done after `before`, a copy made then."""
        return Tally(self.calls - before.calls, self.evaluations - before.evaluations, self.padded - before.padded)


def split_rows(rows: int, counts: Sequence[int] = ROW_COUNTS) -> list[tuple[int, int]]:
    """Return the calls that evaluate `rows` rows, each as (rows, of which padded); `counts` ascend. Pure.

    As many calls of the largest count as fit, then one of the smallest count that holds the rest.
    """
    whole, rest = divmod(rows, counts[-1])
    calls = [(counts[-1], 0)] * whole
    if rest:
        size = next(count for count in counts if count >= rest)
        calls.append((size, size - rest))
    return calls


class Denoiser:
    """A UNet in one precision on one device: `sampler.Predict`. Its rows do not depend on each other.

    They go in calls of `counts` rows, padded with copies of the last row; what pads is thrown away and counted apart
    in `tally`. Without counts all rows go in one call, as they do on a CPU where none are named. On a GPU each call is
    replayed from a CUDA graph.
    """

    def __init__(
        self,
        unet: Any,
        dtype: torch.dtype,
        device: torch.device,
        *,
        counts: tuple[int, ...] | None = None,
        compiled: bool = False,
    ) -> None:
        self.unet, self.tally = unet, Tally()
        self._dtype, self._device = dtype, device
        self._forward: Forward = forward_of(unet)
        self._replays: Any = None
        if counts is None:
            counts = ROW_COUNTS if device.type == "cuda" else ()
        self._counts = counts
        if compiled and device.type != "cuda":
            raise BadInput("compiling the model needs CUDA; leave compile off on a CPU")
        if device.type == "cuda":
            from face0_worker.render.replay import Replays

            self._replays = self._forward = Replays(self._forward, compiled=compiled)

    def __call__(self, latents: Tensor, timestep: Tensor, context: Context) -> Tensor:
        """Return what the UNet says of latents (rows, c, h, w) at a timestep () and in a context, as float32."""
        scaled = latents.to(self._dtype).contiguous(memory_format=torch.channels_last)
        # a number becomes a tensor without a copy from host memory, for which the device would have to stop
        when = torch.full((), float(timestep), device=self._device)
        rows, told = len(scaled), context.told()
        said, start = [], 0
        for size, padded in split_rows(rows, self._counts) if self._counts else [(rows, 0)]:
            used = size - padded
            part = slice(start, start + used)
            inputs = fill_up(scaled[part], size), *(fill_up(one[part], size) for one in told)
            out = self._evaluated(when, *inputs)
            # a copy also of what is float32 already: the next replay writes where this one did
            said.append(out[:used].to(torch.float32, copy=True))
            start += used
            self.tally.calls += 1
            self.tally.evaluations += used
            self.tally.padded += padded
        return said[0] if len(said) == 1 else torch.cat(said)

    def _evaluated(self, when: Tensor, latents: Tensor, *told: Tensor) -> Tensor:
        if self._device.type != "cpu":
            return self._forward(latents, when, *told)
        return side_by_side(len(latents), lambda part: self._forward(latents[part], when, *(one[part] for one in told)))

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of rows that a call may have; empty: any."""
        return self._counts

    @property
    def compiled(self) -> bool:
        """Whether the UNet is compiled for the shapes that were seen so far."""
        return self._replays is not None and bool(self._replays.compiled)

    def settle(self) -> None:
        """Compile no shapes that come from now on."""
        if self._replays is not None:
            self._replays.settle()

    @property
    def forward(self) -> Forward:
        """The UNet as a function of tensors: compiled, where it is."""
        return self._forward if self._replays is None else self._replays.forward

    def release(self) -> None:
        """Let go of memory that is kept to be faster; it comes again when it is needed."""
        if self._replays is not None:
            self._replays.release()

    def about(self) -> str:
        """Return in words how the denoiser runs; where it had to do without something, that and why."""
        return "eager" if self._replays is None else str(self._replays.about())


def forward_of(unet: Any) -> Forward:
    """Return the UNet as a function of tensors; SDXL's is told the pooled prompt and the sizes too."""

    def forward(latents: Tensor, timestep: Tensor, tokens: Tensor, *more: Tensor) -> Tensor:
        told: dict[str, Any] = {"encoder_hidden_states": tokens}
        if more:
            told["added_cond_kwargs"] = dict(zip(("text_embeds", "time_ids"), more, strict=True))
        return torch.as_tensor(unet(latents, timestep, **told, return_dict=False)[0])

    return forward


def fill_up(rows: Tensor, size: int) -> Tensor:
    """Return `rows` (n, ...) with its last row repeated until there are `size`; as it is where none is missing."""
    missing = size - len(rows)
    if not missing:
        return rows
    filled = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
    return filled.contiguous(memory_format=torch.channels_last) if rows.dim() == 4 else filled
