"""Which samplers and how many steps suit a model, by its scheduler's config alone. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import SAMPLERS

LCM_TEACHER_STEPS = 50  # diffusers' default where a config does not say


def pure_noise(config: Mapping[str, Any]) -> bool:
    """Tell whether the model was trained to zero terminal SNR (Lin et al. 2023, arXiv 2305.08891)."""
    return bool(config.get("rescale_betas_zero_snr"))


def check_sampler(config: Mapping[str, Any], sampler: str, steps: int) -> None:
    """Raise BadInput where a model with this scheduler config can't be run with `sampler` or for `steps` steps.

    Some numbers of steps are refused only when diffusers has laid them out, by `sampler.make_scheduler`.
    """
    if sampler not in SAMPLERS:
        raise BadInput(f"sampler {sampler!r} is unknown; known are {', '.join(SAMPLERS)}")
    if pure_noise(config) and config.get("prediction_type", "epsilon") == "epsilon":
        raise BadInput(
            "the model's scheduler is rescaled to pure noise (rescale_betas_zero_snr), where predicting the noise says "
            "nothing of the picture; its prediction_type has to be v_prediction"
        )
    if pure_noise(config) and sampler == "dpmpp_2m_karras":
        # from sigma 4096, more than half of 20 steps lie above 80, where a picture has no shape yet, and the few and
        # long ones below magnify rounding past promise P10
        raise BadInput("sampler dpmpp_2m_karras does not suit a model trained to pure noise; use dpmpp_2m")
    train_steps = int(config.get("num_train_timesteps", 1000))
    teacher = int(config.get("original_inference_steps", LCM_TEACHER_STEPS))
    most = min(train_steps, teacher) if sampler == "lcm" else train_steps
    if not 1 <= steps <= most:
        raise BadInput(f"steps is {steps}; 1 to {most} can be made with this model and sampler {sampler}")
