"""Euler from pure noise: the same sampler as diffusers', in a form that does not lose the last digits."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from face0_worker.learn.model_folder import SCHEDULER as CONFIG
from face0_worker.render.euler import ScaledEuler, draw
from face0_worker.render.sampler import make_scheduler

STEPS = 8
SHAPE = (4, 8, 8)


def velocity(seen: torch.Tensor) -> torch.Tensor:
    """A made-up denoiser, exact in any precision."""
    return torch.tanh(seen.flip(1)) - 0.3 * seen


def generators(count: int) -> list[torch.Generator]:
    """One generator per item."""
    return [torch.Generator().manual_seed(number) for number in range(count)]


def textbook(first: torch.Tensor, sigmas: list[float], fresh: list[torch.Generator], *, ancestral: bool) -> Any:
    """Karras' form in float64: x = x0 + sigma n, a step along (x - x0) / sigma, then fresh noise up to the level."""
    x = first.double() * sigmas[0]
    for sigma, target in pairwise(sigmas):
        v = velocity(x / math.sqrt(sigma**2 + 1))
        x0 = x / (sigma**2 + 1) - v * sigma / math.sqrt(sigma**2 + 1)
        up = math.sqrt(target**2 * (sigma**2 - target**2) / sigma**2) if ancestral else 0.0
        x = x + (x - x0) / sigma * (math.sqrt(target**2 - up**2) - sigma)
        if ancestral:
            x = x + up * draw(fresh, first).double()
    return x


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_from_pure_noise_it_is_the_textbooks_sampler_in_float64(sampler: str) -> None:
    scheduler = make_scheduler(CONFIG, sampler, STEPS)
    assert isinstance(scheduler, ScaledEuler)
    stock = make_scheduler({**CONFIG, "rescale_betas_zero_snr": False}, sampler, STEPS)
    assert torch.equal(scheduler.timesteps, stock.timesteps)

    first = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(9))
    latents, fresh = first * scheduler.init_noise_sigma, generators(3)
    for timestep in scheduler.timesteps:
        guess = velocity(scheduler.scale_model_input(latents, timestep))
        latents = scheduler.step(guess, timestep, latents, generator=fresh)[0]

    import diffusers

    kind = getattr(diffusers, "EulerDiscreteScheduler" if sampler == "euler" else "EulerAncestralDiscreteScheduler")
    own = kind.from_config(CONFIG)
    own.set_timesteps(STEPS)
    wanted = textbook(first, [float(sigma) for sigma in own.sigmas], generators(3), ancestral=sampler != "euler")
    assert float(own.sigmas[0]) > 4000
    torch.testing.assert_close(latents.double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_a_last_bit_in_the_denoiser_stays_a_last_bit(sampler: str) -> None:
    made = []
    for error in (0.0, 1e-7):
        scheduler = make_scheduler(CONFIG, sampler, 4)
        latents, fresh = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(9)), generators(1)
        latents = latents * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            guess = velocity(scheduler.scale_model_input(latents, timestep)) + error
            latents = scheduler.step(guess, timestep, latents, generator=fresh)[0]
        made.append(latents)
    assert (made[0] - made[1]).abs().max() < 5e-6


def test_other_models_have_diffusers_own_euler() -> None:
    for sampler in ("euler", "euler_ancestral"):
        assert type(make_scheduler({**CONFIG, "rescale_betas_zero_snr": False}, sampler, 4)).__module__.startswith(
            "diffusers."
        )
