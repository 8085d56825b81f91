"""The denoising loop over a ragged batch: items with different guidance, one call of the denoiser a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance
from face0_worker.render.conditioning import Conditioning
from face0_worker.render.guidance import Rows, combine, plan_rows

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents (rows, c, h, w) float32, timestep (), context (rows, length, d)) -> prediction (rows, c, h, w)."""

SAMPLERS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}


def make_scheduler(config: Mapping[str, Any], sampler: str, steps: int) -> Any:
    """Return a fresh diffusers scheduler for `steps` steps, by the model's own scheduler config.

    Its timesteps stay on the CPU, where the loop reads them without waiting for the device.
    Raises: BadInput: an unknown sampler, one that this model can't have, or a number of steps that the schedule
    can't make.
    """
    if sampler not in SAMPLERS:
        raise BadInput(f"sampler {sampler!r} is unknown; known are {', '.join(SAMPLERS)}")
    if sampler == "euler" and config.get("rescale_betas_zero_snr"):
        # it starts at sigma 4096, where float32 has steps of 0.0005: a picture would depend on its batch (P10)
        raise BadInput("sampler euler is not exact for a model trained to pure noise; use ddim or dpmpp_2m")
    train_steps = int(config.get("num_train_timesteps", 1000))
    if not 1 <= steps <= train_steps:
        raise BadInput(f"steps is {steps}; 1 to {train_steps} can be made with this model")
    kind, options = SAMPLERS[sampler]
    # as StableDiffusionPipeline corrects outdated configs; latents are never clipped to [-1, 1]
    scheduler = kind.from_config(dict(config), steps_offset=1, clip_sample=False, **options)
    scheduler.set_timesteps(steps)
    return scheduler


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Return unit noise (n, c, h, w) float32 on the CPU: each item's depends on its own seed and shape only."""
    drawn = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn)


def denoise(
    predict: Predict,
    scheduler: Any,
    noise: Tensor,
    conditioning: Conditioning,
    guidances: Sequence[Guidance],
    on_step: Callable[[int, int], None],
) -> Tensor:
    """Return the items' clean latents (n, c, h, w) float32, on the device of `noise` (n, c, h, w).

    `scheduler` comes fresh from `make_scheduler`; whether the model predicts noise or velocity stands in its
    config, and guidance combines either. `on_step(done, steps)` is called after every step; what it raises
    ends the loop. All arithmetic but the denoiser's own is float32, and no item's depends on another's.
    """
    latents: Tensor = noise.float() * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps
    planned, context = Rows((), (), ()), latents
    for step, timestep in enumerate(timesteps):
        rows = plan_rows(guidances, step / len(timesteps))
        if rows != planned:
            # the plan changes only where somebody's interval begins or ends
            planned, context = rows, conditioning.context(rows)
        scaled = scheduler.scale_model_input(latents, timestep)
        prediction = predict(scaled[list(rows.items)], timestep, context)
        guided = combine(prediction, rows, len(latents))
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        on_step(step + 1, len(timesteps))
    return latents
