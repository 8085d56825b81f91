"""The denoising loop over a ragged batch: items with different guidance, one call of the denoiser a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance
from face0_worker.render.conditioning import Conditioning, Context
from face0_worker.render.euler import ScaledEuler
from face0_worker.render.guidance import combine, place_rows, plan_rows
from face0_worker.render.sampler_rules import check_sampler, pure_noise
from face0_worker.render.tensors import to_device

Predict = Callable[[Tensor, Tensor, Context], Tensor]
"""(latents (rows, c, h, w) float32, timestep (), context of the rows) -> prediction (rows, c, h, w)."""

# a sampler's name says its sigmas, whatever the model's own scheduler config prefers
_PLAIN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_DPMPP_2M = {**_PLAIN, "algorithm_type": "dpmsolver++", "solver_order": 2, "use_lu_lambdas": False}
SAMPLERS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, _PLAIN),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, _DPMPP_2M),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {**_DPMPP_2M, "use_karras_sigmas": True}),
    "lcm": (LCMScheduler, {}),
}


def make_scheduler(config: Mapping[str, Any], sampler: str, steps: int) -> Any:
    """Return a fresh diffusers scheduler for `steps` steps, by the model's own scheduler config.

    Schedulers count their steps and remember earlier predictions, so each batch has one of its own. Its timesteps
    stay on the CPU, where the loop reads them without waiting for the device.
    Raises: BadInput: an unknown sampler, one that this model can't have, or a number of steps that the schedule
    can't make.
    """
    check_sampler(config, sampler, steps)
    train_steps = int(config.get("num_train_timesteps", 1000))
    kind, options = SAMPLERS[sampler]
    # as StableDiffusionPipeline corrects outdated configs; latents are never clipped to [-1, 1]
    scheduler = kind.from_config(dict(config), steps_offset=1, clip_sample=False, **options)
    scheduler.set_timesteps(steps)
    first, last, made = float(scheduler.timesteps[0]), float(scheduler.timesteps[-1]), len(scheduler.timesteps)
    if made != steps or last < 0 or first > train_steps - 1:
        # diffusers rounds some numbers of steps to one step more, or past the schedule's end
        raise BadInput(f"{steps} steps don't divide this model's schedule with sampler {sampler}; take one or two less")
    if pure_noise(config) and sampler in ("euler", "euler_ancestral"):
        return ScaledEuler(scheduler, ancestral=sampler == "euler_ancestral")
    return scheduler


@dataclass(frozen=True)
class Noise:
    """All random numbers of a batch, each item's from its own seed alone. Good for one run: generators move on.

    `first` (n, c, h, w) float32 is the noise that the loop starts from; samplers that add fresh noise at each
    step draw item i's from `generators[i]`, on the CPU, so that a seed means the same on every device.
    """

    first: Tensor
    generators: tuple[torch.Generator, ...]

    def to(self, device: torch.device) -> Noise:
        """Return the same noise with `first` on the device."""
        return replace(self, first=to_device(self.first, device))


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Noise:
    """Return unit noise for items of one shape (c, h, w): each item's depends on its own seed and shape only."""
    generators = tuple(torch.Generator("cpu").manual_seed(seed) for seed in seeds)
    return Noise(torch.stack([torch.randn(shape, generator=generator) for generator in generators]), generators)


def denoise(
    predict: Predict,
    scheduler: Any,
    noise: Noise,
    conditioning: Conditioning,
    guidances: Sequence[Guidance],
    on_step: Callable[[int, int], None],
) -> Tensor:
    """Return the items' clean latents (n, c, h, w) float32, on the device of `noise.first` (n, c, h, w).

    `scheduler` comes fresh from `make_scheduler`; whether the model predicts noise or velocity stands in its
    config, and guidance combines either. `on_step(done, steps)` is called after every step; what it raises
    ends the loop. All arithmetic but the denoiser's own is float32, and no item's depends on another's.
    """
    latents: Tensor = noise.first.float() * scheduler.init_noise_sigma
    timesteps, generators = scheduler.timesteps, list(noise.generators)
    plans = [plan_rows(guidances, step / len(timesteps)) for step in range(len(timesteps))]
    # the plan changes only where somebody's interval begins or ends: all that is told is laid out once for each
    laid = {rows: (place_rows(rows, len(latents), latents.device), conditioning.context(rows)) for rows in set(plans)}
    for step, (timestep, rows) in enumerate(zip(timesteps, plans, strict=True)):
        placed, context = laid[rows]
        scaled = scheduler.scale_model_input(latents, timestep)
        guided = combine(predict(scaled[placed.items], timestep, context), placed)
        latents = scheduler.step(guided, timestep, latents, generator=generators, return_dict=False)[0]
        on_step(step + 1, len(timesteps))
    return latents
