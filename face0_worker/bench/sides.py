"""The sides of a comparison: the same pictures by diffusers' own pipelines and by this engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from face0_worker.bench.subjects import Subject, W
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.denoiser import Forward

PLAIN = Guidance(w=W)
# as the shipped model has it (docs/evaluation.md; Kynkaanniemi et al. 2024, arXiv 2404.07724, limit guidance so)
LIMITED = Guidance(w=W, start=0.3, stop=1.0)
_GARMENTS = ("red turtleneck", "black suit", "blue dress", "green jacket", "white shirt", "yellow raincoat")
_BACKGROUNDS = ("white", "grey", "beach", "city", "forest")

Paint = Callable[[Sequence[RenderItem]], np.ndarray]
"""Items -> pictures (n, h, w, 3) float32 in [0, 1]."""


@dataclass(frozen=True)
class Side:
    """One way to make pictures, `batch` at a time; `count` are made in a round, a multiple of `batch`."""

    name: str
    paint: Paint
    batch: int
    count: int
    guidance: Guidance = PLAIN


def items_for(subject: Subject, count: int, steps: int, guidance: Guidance, first_seed: int = 0) -> list[RenderItem]:
    """Return `count` items that differ in prompt and seed."""
    precision = subject.pipeline.precision
    return [
        RenderItem(
            sku=f"bench-{number}",
            prompt=f"a portrait of a person wearing a {_GARMENTS[number % 6]}, {_BACKGROUNDS[number % 5]} background",
            seed=first_seed + number,
            width=subject.size,
            height=subject.size,
            steps=steps,
            guidance=guidance,
            precision=precision,
        )
        for number in range(count)
    ]


def stock(subject: Subject, pipe: Any = None) -> Paint:
    """Return diffusers' own way; of the guidance it knows the strength alone."""
    chosen = subject.stock if pipe is None else pipe

    def paint(items: Sequence[RenderItem]) -> np.ndarray:
        made = chosen(
            prompt=[item.prompt for item in items],
            generator=[torch.Generator("cpu").manual_seed(item.seed) for item in items],
            num_inference_steps=items[0].steps,
            guidance_scale=items[0].guidance.w,
            width=items[0].width,
            height=items[0].height,
            output_type="np",
        )
        return np.asarray(made.images)

    return paint


def engine(subject: Subject, *, faces: bool = True) -> Paint:
    """Return this engine's way; every item has a face of its own, or none has one."""
    dimension = subject.pipeline.card.embedder_dim

    def paint(items: Sequence[RenderItem]) -> np.ndarray:
        requests = [RenderRequest(item, _face(item.seed, dimension) if faces else None) for item in items]
        return make_pictures(subject.pipeline, requests, lambda step, steps: None)[0]

    return paint


def pictures_per_second(subject: Subject, side: Side, steps: int, first_seed: int = 0) -> float:
    """Make a round's pictures and return how many a second. They lie in host memory when the clock stops."""
    items = items_for(subject, side.count, steps, side.guidance, first_seed)
    begun = time.perf_counter()
    for start in range(0, len(items), side.batch):
        side.paint(items[start : start + side.batch])
    return len(items) / (time.perf_counter() - begun)


class SharedUnet(nn.Module):
    """A UNet for diffusers' pipelines whose forward is one that this engine has compiled already.

    It spares the minute that compiling the same UNet twice takes, and gives both sides the same code.
    """

    def __init__(self, unet: Any, forward: Forward) -> None:
        super().__init__()
        self.config, self.add_embedding = unet.config, getattr(unet, "add_embedding", None)
        self.dtype, self.device = unet.dtype, unet.device
        self._shared = forward

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **more: Any
    ) -> tuple[Tensor, ...]:
        """Return what the UNet returns when it is asked for a tuple."""
        told = more.get("added_cond_kwargs") or {}
        when = timestep.to(self.device, torch.float32)
        sizes = [told["text_embeds"], told["time_ids"]] if told else []
        return (
            self._shared(sample.contiguous(memory_format=torch.channels_last), when, encoder_hidden_states, *sizes),
        )


def _face(seed: int, dimension: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return np.asarray(drawn * (np.sqrt(dimension) / np.linalg.norm(drawn)), np.float32)
