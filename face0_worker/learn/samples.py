"""Look at a training while it runs: held-out people after a few prompts, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from face0_worker.learn.model_folder import SCHEDULER
from face0_worker.render.conditioning import override_tokens

PROMPTS = (
    "a portrait of a person wearing a red t-shirt, white background",
    "a portrait of a smiling person wearing a black turtleneck, yellow background",
    "a portrait of a person with glasses wearing a blue shirt, grey background",
    "a portrait of a person with long blond hair wearing a white hoodie, green background",
    "a portrait of a laughing person with short black hair wearing a green jacket, blue background",
    "a portrait of a person wearing a pink v-neck sweater, autumn leaves in the background",
    "a portrait of a person wearing a yellow turtleneck, a city at night in the background",
)


@dataclass(frozen=True)
class Sitters:
    """Held-out people to look at: `pixels` uint8 (n, s, s, 3), `faces` (n, d) float32 normalised."""

    pixels: np.ndarray
    faces: np.ndarray

    @classmethod
    def choose(cls, pixels: np.ndarray, people: Sequence[str], faces: np.ndarray, count: int) -> Sitters:
        """Take the first picture with a face of each of `count` people, spread over all of them."""
        first: dict[str, int] = {}
        for index, person in enumerate(people):
            if np.abs(faces[index]).sum() > 0:
                first.setdefault(person, index)
        rows = list(first.values())
        chosen = [rows[at] for at in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)] if rows else []
        return cls(pixels[chosen], faces[chosen])


@torch.no_grad()
def sample(parts: Any, words: Tensor, silence: Tensor, faces: Tensor, *, w: float, steps: int, seed: int) -> Tensor:
    """Return latents (n, c, h, w) of n texts (n, 77) and faces (n, d), by DDIM with guidance strength `w`.

    The training's own look at itself: the renderer proper is `face0_worker.render`.
    """
    device = faces.device
    schedule = DDIMScheduler(**SCHEDULER)
    schedule.set_timesteps(steps)
    config = parts["unet"].config
    shape = (len(words), config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        told = parts["text_encoder"](torch.cat([words, silence.expand_as(words)])).last_hidden_state
        face = parts["mapper"](faces).to(told.dtype)
        context = override_tokens(told, torch.cat([face, torch.zeros_like(face)]))
        for time in schedule.timesteps:
            both = torch.cat([latents, latents]).contiguous(memory_format=torch.channels_last)
            joint, nothing = parts["unet"](both, time.to(device), context, return_dict=False)[0].float().chunk(2)
            latents = schedule.step(nothing + w * (joint - nothing), time, latents, return_dict=False)[0]
    return latents


@torch.no_grad()
def sheet(
    parts: Any, vae: Any, sitters: Sitters, words: Tensor, silence: Tensor, *, w: float = 2.5, steps: int = 20
) -> Image.Image:
    """Draw every sitter in a row: the photo, then one picture for each of the texts (k, 77) of token ids."""
    device = next(vae.parameters()).device
    people, texts = len(sitters.faces), len(words)
    faces = torch.from_numpy(sitters.faces).to(device).repeat_interleave(texts, dim=0)
    latents = sample(parts, words.repeat(people, 1), silence, faces, w=w, steps=steps, seed=0)
    made = decode(vae, latents / float(vae.config.scaling_factor))
    return grid(np.concatenate([sitters.pixels[:, None], made.reshape(people, texts, *made.shape[1:])], axis=1))


def decode(vae: Any, latents: Tensor) -> np.ndarray:
    """Return pictures uint8 (n, s, s, 3) of unscaled latents."""
    with torch.no_grad():
        parts = [vae.decode(part.float()).sample for part in latents.split(16)]
    pixels = torch.cat(parts).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return np.asarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def grid(pictures: np.ndarray) -> Image.Image:
    """Put pictures uint8 (rows, columns, s, s, 3) side by side."""
    rows, columns, side = pictures.shape[:3]
    return Image.fromarray(pictures.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3))


def write_sheet(picture: Image.Image, path: Path) -> None:
    """Write a sheet as JPEG, whole or not at all."""
    fresh = path.with_suffix(".new")
    picture.save(fresh, "JPEG", quality=90)
    fresh.replace(path)
