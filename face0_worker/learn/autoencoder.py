"""Train the small VAE that the shipped model decodes with: faithful first, then crisp."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from face0_worker.learn.critic import Contest
from face0_worker.learn.model_folder import Shape, vae_config

KL_WEIGHT = 5e-4  # on the mean over latents, as L1 is a mean over pixels
DONE = "done"


@dataclass(frozen=True)
class VaePlan:
    """How long and how the VAE trains: `steps`, or `minutes`, whichever ends first; at least one is set.

    For the first `faithful` part of that, encoder and decoder learn to reconstruct; then the encoder stands still, so
    that latents mean the same from there on, and the decoder learns against a critic whose gradient is `crisp` times
    as large as the reconstruction's. `crop` is the side in pixels of what is learned from at once: the whole picture
    where the device can, since group normalisation averages over it.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    crop: int = 256
    rate: float = 1e-3
    ema: float = 0.995
    faithful: float = 0.65
    crisp: float = 0.3
    seed: int = 0
    compiled: bool = False


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) in [0, 255] -> float32 (n, 3, h, w) in [-1, 1], on the same device."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def random_crops(pixels: Tensor, count: int, crop: int, generator: torch.Generator) -> Tensor:
    """Return `count` random crops (count, crop, crop, 3), each mirrored with probability one half."""
    size, device = pixels.shape[1], pixels.device

    def below(limit: int) -> Tensor:
        return torch.randint(limit, (count,), generator=generator, device=device)

    along = torch.arange(crop, device=device)
    rows = below(size - crop + 1)[:, None] + along
    columns = below(size - crop + 1)[:, None] + along
    columns = torch.where(below(2)[:, None] == 1, columns.flip(1), columns)
    return pixels[below(len(pixels))[:, None, None], rows[:, :, None], columns[:, None, :]]


def reconstruction_loss(out: Tensor, want: Tensor) -> Tensor:
    """L1 on pixels, on their gradients and on a 4x smaller copy: edges stay, colours hold.

    Shapes: out, want (n, 3, h, w) in [-1, 1]; returns a scalar.
    """
    loss = functional.l1_loss(out, want)
    for axis in (-1, -2):
        loss = loss + functional.l1_loss(out.diff(dim=axis), want.diff(dim=axis))
    return loss + functional.l1_loss(functional.avg_pool2d(out, 4), functional.avg_pool2d(want, 4))


class VaeTrainer:
    """One training of a VAE; `pixels` uint8 (n, s, s, 3) lie on the device that trains."""

    def __init__(self, pixels: Tensor, shape: Shape, plan: VaePlan, say: Callable[[str], None] = print) -> None:
        torch.manual_seed(plan.seed)
        self.pixels, self.plan, self.say = pixels, plan, say
        device = pixels.device
        vae: Any = AutoencoderKL(**vae_config(shape))
        self.vae = vae.to(device=device, memory_format=torch.channels_last).train()
        self.ema = copy.deepcopy(self.vae).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.vae.parameters(), lr=plan.rate, weight_decay=1e-4, fused=True)
        self.contest = Contest(device)
        self.generator = torch.Generator(device).manual_seed(plan.seed)
        self.encode: Any = self.vae.encoder
        self.decode: Any = self.vae.decoder
        if plan.compiled:
            self.encode, self.decode = (torch.compile(part, dynamic=False) for part in (self.encode, self.decode))
        self.step, self.crisp = 0, False
        self._start, self._limit_s = monotonic(), math.inf if plan.minutes is None else 60 * plan.minutes

    def part(self) -> float:
        """How much of the training is over, in [0, 1]: by steps or by time, whichever is further."""
        by_steps = self.step / self.plan.steps if self.plan.steps else 0.0
        by_time = (monotonic() - self._start) / self._limit_s
        return min(1.0, max(by_steps, by_time))

    def run(self) -> AutoencoderKL:
        """Train to the end and return the averaged VAE, its scaling factor measured: latents of unit variance."""
        total = 0.0
        while (part := self.part()) < 1:
            if part >= self.plan.faithful and not self.crisp:
                self._stand_still()
            rate = (
                self.plan.rate * min(1.0, (self.step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
            )
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            loss = self.advance()
            if self.step == 1:
                float(loss)  # the first step compiles: the schedule begins after it, in the time that is left
                self._limit_s = max(1.0, self._limit_s - (monotonic() - self._start))
                self._start = monotonic()
            if self.step % 50 == 0:
                total = float(loss)
                self.say(f"vae step {self.step} loss {total:.4f} {100 * part:.0f}% {monotonic() - self._start:.0f} s")
        if not self.crisp:
            self._measure()
        return self.ema.eval()

    def advance(self) -> Tensor:
        """Do one step and return its reconstruction loss."""
        want = to_unit(random_crops(self.pixels, self.plan.batch, self.plan.crop, self.generator))
        want = want.contiguous(memory_format=torch.channels_last)
        with torch.autocast(want.device.type, torch.bfloat16):
            mean, logvar = self.vae.quant_conv(self.encode(want)).float().chunk(2, dim=1)
            logvar = logvar.clamp(-30, 20)
            fresh = torch.randn(mean.shape, generator=self.generator, device=mean.device)
            latents = mean + (0.5 * logvar).exp() * fresh
            if self.crisp:
                latents = latents.detach()
            got = self.decode(self.vae.post_quant_conv(latents)).float()
        loss = reconstruction_loss(got, want)
        (wanted,) = torch.autograd.grad(loss, got)
        if self.crisp:
            (sharper,) = torch.autograd.grad(self.contest.loss(got, want), got)
            wanted = wanted + self.plan.crisp * wanted.norm() / sharper.norm().clamp(min=1e-12) * sharper
        self.vae.zero_grad(set_to_none=True)  # the still encoder's too: they count in the norm
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        if self.crisp:
            got.backward(wanted)
            self.contest.learn(got, want)
        else:
            torch.autograd.backward([got, KL_WEIGHT * kl], [wanted, None])
        norm = torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        # as torch's GradScaler has a fused optimiser leave out a step that is not finite
        self.optimiser.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        self.step += 1
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.vae.parameters()), 1 - decay)
        return loss.detach()

    def _stand_still(self) -> None:
        """Take the averaged weights, fix the encoder and begin the contest."""
        self.vae.load_state_dict(self.ema.state_dict())
        self.crisp = True
        self.optimiser = torch.optim.AdamW(
            [*self.vae.post_quant_conv.parameters(), *self.vae.decoder.parameters()],
            lr=self.plan.rate,
            betas=(0.5, 0.99),
            weight_decay=1e-4,
            fused=True,
        )
        self._measure()
        self.say(f"vae step {self.step}: the encoder stands still, the decoder learns to be crisp")

    def _measure(self) -> None:
        self.ema.register_to_config(scaling_factor=measure_scaling(self.ema, self.pixels[:512]))


@torch.no_grad()
def measure_scaling(vae: Any, pixels: Tensor) -> float:
    """One over the standard deviation of the latents, as `scaling_factor` in a VAE's config means it."""
    parts = [vae.encode(to_unit(pixels[i : i + 32])).latent_dist.mode() for i in range(0, len(pixels), 32)]
    return 1.0 / float(torch.cat(parts).std())


@torch.no_grad()
def reconstruct(vae: Any, pixels: Tensor) -> Tensor:
    """Return what is left of pictures uint8 (n, s, s, 3) after encoding and decoding, uint8 of the same shape."""
    parts = []
    for start in range(0, len(pixels), 16):
        latents = vae.encode(to_unit(pixels[start : start + 16])).latent_dist.mode()
        parts.append(vae.decode(latents).sample.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8))
    return torch.cat(parts).permute(0, 2, 3, 1).contiguous()


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal to noise ratio in dB of two uint8 tensors of one shape, over all of it."""
    error = (one.float() - other.float()).square().mean()
    return float(10 * torch.log10(255**2 / error.clamp(min=1e-6)))


def train_vae(
    pixels: np.ndarray,
    out: Path,
    shape: Shape,
    plan: VaePlan,
    device: torch.device,
    say: Callable[[str], None] = print,
) -> AutoencoderKL:
    """Return the VAE of the diffusers folder `out`; where there is none, train it on `pixels` uint8 (n, s, s, 3)."""
    if not (out / DONE).is_file():
        trainer = VaeTrainer(torch.from_numpy(pixels).to(device), shape, plan, say)
        try:
            vae = trainer.run()
        except RuntimeError as error:
            if not plan.compiled or isinstance(error, torch.OutOfMemoryError):
                raise
            say(f"COMPILING FAILED, the VAE trains uncompiled and slower: {type(error).__name__}: {str(error)[:500]}")
            trainer.encode, trainer.decode = trainer.vae.encoder, trainer.vae.decoder
            vae = trainer.run()
        vae.save_pretrained(out)
        say(f"vae trained for {trainer.step} steps")
        (out / DONE).touch()
    loaded: AutoencoderKL = AutoencoderKL.from_pretrained(out)
    return loaded.eval().to(device=device, memory_format=torch.channels_last)
