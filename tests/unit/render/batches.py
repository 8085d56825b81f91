"""Batches for tests, and a denoiser with a defect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.render.batch import Rendered, RenderRequest, render_batch
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.quality import judge
from tests.fakes import tiny_embedding

ITEM = RenderItem("sku", "red", seed=7, width=64, height=64, steps=3, guidance=Guidance(w=3.0))


def plain_judge(pixels: np.ndarray, embedding: np.ndarray | None) -> Verdict:
    """Judge without looking for faces."""
    return judge(pixels, 0, None)


def render(pipeline: Pipeline, requests: list[RenderRequest]) -> list[Rendered]:
    """Render with the plain gate and no listener."""
    return render_batch(pipeline, requests, judge=plain_judge, on_step=lambda step, steps: None)


def pixels_of(rendered: Rendered) -> np.ndarray:
    """Return the pixels as integers that can be subtracted."""
    assert rendered.error is None
    assert rendered.pixels is not None
    return rendered.pixels.astype(np.int64)


class Spoiled(torch.nn.Module):
    """A denoiser with a defect: no memory for more than `most` rows, or NaN for the rows that `breaks` names."""

    def __init__(self, real: torch.nn.Module, most: int = 10**6, breaks: Any = None) -> None:
        super().__init__()
        self.real, self.most, self.breaks = real, most, breaks
        self.config = real.config
        self.calls: list[int] = []

    def forward(self, latents: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, **more: Any) -> Any:
        self.calls.append(len(latents))
        if len(latents) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        out = self.real(latents, timestep, encoder_hidden_states, **more)[0].clone()
        if self.breaks is not None:
            out[self.breaks(encoder_hidden_states)] = torch.nan
        return (out,)


def requests_of(count: int, **changes: Any) -> list[RenderRequest]:
    """Return requests that take two rows of the denoiser each."""
    return [RenderRequest(replace(ITEM, seed=n, **changes), tiny_embedding(n)) for n in range(count)]
