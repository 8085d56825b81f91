"""Euler's samplers for models trained to pure noise, in a form that float32 can carry.

diffusers' Euler schedulers step x = x0 + sigma * n. A model with zero terminal SNR (Lin et al. 2023, arXiv
2305.08891) starts at sigma = 4096, where neighbouring float32 numbers are 0.0005 apart: a last-bit difference in
the denoiser, as batches of different size have, becomes one of 0.0005 in x, and a picture would depend on its
neighbours. Here the latents are kept at unit variance, z = x / sqrt(sigma^2 + 1), and a step is written in what
the model says of the clean latents and the noise, so that nothing is ever larger than the picture itself. It is the
same sampler: the same timesteps, sigmas and random numbers, and diffusers' result up to diffusers' own rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from face0_worker.render.tensors import to_device


class ScaledEuler:
    """Steps as the wrapped Euler scheduler of diffusers does, for velocity predictions, on latents of unit variance.

    With alpha = 1 / sqrt(sigma^2 + 1), s = sigma * alpha and the model's velocity v (all (n, c, h, w)):

        x0 = alpha * z - s * v          n = s * z + alpha * v
        z' = alpha' * (x0 + sigma_down * n + sigma_up * fresh)

    Euler goes all the way, sigma_down = sigma' and sigma_up = 0; Euler ancestral goes further and adds fresh noise,
    sigma_down = sigma'^2 / sigma and sigma_up^2 = sigma'^2 - sigma_down^2 (Karras et al. 2022, as k-diffusion does).
    """

    def __init__(self, stock: Any, *, ancestral: bool) -> None:
        self._ancestral = ancestral
        self._sigmas = [float(sigma) for sigma in stock.sigmas]
        self._step = 0
        self.timesteps = stock.timesteps
        self.init_noise_sigma = float(stock.init_noise_sigma) * _alpha(self._sigmas[0])

    def scale_model_input(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Return what the model sees: the latents as they are kept."""
        return latents

    def step(
        self, velocity: Tensor, timestep: Tensor, latents: Tensor, *, generator: Sequence[torch.Generator], **_: object
    ) -> tuple[Tensor]:
        """Return the latents of the next step; called once for each timestep, in their order."""
        sigma, target = self._sigmas[self._step], self._sigmas[self._step + 1]
        self._step += 1
        down = target**2 / sigma if self._ancestral else target
        alpha, noise_share = _alpha(sigma), sigma * _alpha(sigma)
        clean = alpha * latents - noise_share * velocity
        noise = noise_share * latents + alpha * velocity
        moved = clean + down * noise
        if self._ancestral:
            # drawn in every step, the last one too, as diffusers does
            moved = moved + math.sqrt(target**2 - down**2) * draw(generator, latents)
        return (_alpha(target) * moved,)


def draw(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Return unit noise for each item from its own generator: float32, shaped and placed as `like` (n, ...)."""
    shape = like.shape[1:]
    drawn = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return to_device(drawn, like.device)


def _alpha(sigma: float) -> float:
    return 1 / math.sqrt(sigma**2 + 1)
