"""Pictures into noise: what a scheduler's config says of it, and what the denoiser has to predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """How noise is mixed in over time. `clean` float32 (times,) is the share of the picture's power that is left.

    `prediction` is what the denoiser says: epsilon, the noise, or v_prediction, the velocity (Salimans and Ho 2022,
    arXiv 2202.00512). `config` makes a scheduler that steps back.
    """

    clean: Tensor
    prediction: str
    config: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any], device: torch.device) -> Schedule:
        """Return the schedule of a scheduler's config, whichever sampler the config is of."""
        read = DDIMScheduler.from_config(dict(config), clip_sample=False)
        return cls(read.alphas_cumprod.to(device), str(read.config.prediction_type), dict(config))

    def sampler(self) -> Any:
        """Return a scheduler that steps back along it."""
        return DDIMScheduler.from_config(dict(self.config), clip_sample=False)

    def shares(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of picture and noise at `times` (n,), (n, 1, 1, 1) each."""
        clean = self.clean[times].reshape(-1, 1, 1, 1)
        return clean.sqrt(), (1 - clean).sqrt()

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return what the denoiser has to say of `latents` with `noise` at `times`."""
        if self.prediction == "epsilon":
            return noise
        signal, share = self.shares(times)
        return signal * noise - share * latents

    def guess(self, noisy: Tensor, said: Tensor, times: Tensor) -> Tensor:
        """Return the clean latents that `said` of `noisy` at `times` means."""
        signal, share = self.shares(times)
        if self.prediction == "epsilon":
            return (noisy - share * said) / signal.clamp(min=1e-3)
        return signal * noisy - share * said

    def weight(self, times: Tensor, gamma: float) -> Tensor:
        """Return what the error at `times` (n,) counts, (n, 1, 1, 1): nearly clean pictures teach little.

        min(snr, gamma) / snr of the noise (Hang et al. 2023, arXiv 2303.09556), and min(snr + 1, gamma) / (snr + 1)
        of the velocity, whose weight at pure noise, where colours are decided, is one.
        """
        clean = self.clean[times].reshape(-1, 1, 1, 1)
        weight = gamma * (1 - clean) / (clean if self.prediction == "epsilon" else 1.0)
        return torch.as_tensor(weight).clamp(max=1)
