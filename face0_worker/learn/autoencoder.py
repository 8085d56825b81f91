"""Train the small VAE that the shipped model decodes with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

VAE_CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (24, 48, 96, 128),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,  # purely convolutional: training on crops is training on pictures
    "sample_size": 128,
}
KL_WEIGHT = 1e-6


@dataclass(frozen=True)
class VaePlan:
    """How long and how the VAE trains."""

    steps: int
    batch: int = 16
    crop: int = 64
    rate: float = 1.2e-3
    seed: int = 0
    decoder_only: bool = False


def to_unit(pixels: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) in [0, 255] -> float32 (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def random_crops(pixels: np.ndarray, count: int, crop: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` random crops (count, crop, crop, 3), each mirrored with probability one half."""
    size = pixels.shape[1]
    crops = np.empty((count, crop, crop, 3), dtype=np.uint8)
    for i, n in enumerate(rng.integers(len(pixels), size=count)):
        top, left = rng.integers(size - crop + 1, size=2)
        crops[i] = pixels[n, top : top + crop, left : left + crop][:, :: (1 if rng.random() < 0.5 else -1)]
    return crops


def reconstruction_loss(out: Tensor, want: Tensor) -> Tensor:
    """L1 on pixels, on their gradients and on a 4x smaller copy: edges stay, colours hold.

    Shapes: out, want (n, 3, h, w) in [-1, 1]; returns a scalar.
    """
    loss = functional.l1_loss(out, want)
    for axis in (-1, -2):
        loss = loss + functional.l1_loss(out.diff(dim=axis), want.diff(dim=axis))
    return loss + functional.l1_loss(functional.avg_pool2d(out, 4), functional.avg_pool2d(want, 4))


def train_vae(pixels: np.ndarray, out: Path, plan: VaePlan, say: Callable[[str], None] = print) -> AutoencoderKL:
    """Train on `pixels` (uint8 n, s, s, 3) and write the diffusers folder `out`; resumes from it.

    The learning rate follows one cosine over `plan.steps`; the scaling factor is set so that latents have unit
    variance. The weights are kept every minute; a run that is started again trains `plan.steps` more from there.
    """
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    vae = AutoencoderKL.from_pretrained(out) if (out / "config.json").is_file() else AutoencoderKL(**VAE_CONFIG)
    vae = vae.to(memory_format=torch.channels_last).train()
    if plan.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    optimiser = torch.optim.AdamW([p for p in vae.parameters() if p.requires_grad], lr=plan.rate, weight_decay=1e-4)
    start = saved = time.monotonic()
    recent = 0.0
    for step in range(1, plan.steps + 1):
        part = (step - 1) / plan.steps
        warm = min(1.0, step / 50)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate * warm * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * part)))
        batch = random_crops(pixels, plan.batch, plan.crop, rng)
        want = to_unit(batch).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(want).latent_dist
            latents = posterior.mode() if plan.decoder_only else posterior.sample()
            got = vae.decode(latents).sample
        loss = reconstruction_loss(got.float(), want)
        if not plan.decoder_only:
            loss = loss + KL_WEIGHT * posterior.kl().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        recent = 0.95 * recent + 0.05 * float(loss.detach()) if step > 1 else float(loss.detach())
        if step % 50 == 0:
            say(f"vae step {step} loss {recent:.4f} {(time.monotonic() - start) / step:.2f} s/step {100 * part:.0f}%")
        if time.monotonic() - saved > 60:
            vae.save_pretrained(out)
            saved = time.monotonic()
    vae = vae.eval()
    if not plan.decoder_only:
        vae.register_to_config(scaling_factor=measure_scaling(vae, pixels[:512]))
    vae.save_pretrained(out)
    return vae


@torch.no_grad()
def measure_scaling(vae: AutoencoderKL, pixels: np.ndarray) -> float:
    """One over the standard deviation of the latents, as `scaling_factor` in a VAE's config means it."""
    parts = [vae.encode(to_unit(pixels[i : i + 32])).latent_dist.mode() for i in range(0, len(pixels), 32)]
    return 1.0 / float(torch.cat(parts).std())
