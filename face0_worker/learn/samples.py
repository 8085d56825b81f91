"""Look at a training while it runs: held-out people after a few prompts, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from face0_worker.learn.train import Trainer
from face0_worker.learn.watching import Watch
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
        chosen = spread(people, faces, count)
        return cls(pixels[chosen], faces[chosen])


def spread(people: Sequence[str], faces: np.ndarray, count: int) -> list[int]:
    """Return the first picture with a face (rows of `faces`) of each of up to `count` people, spread over all."""
    first: dict[str, int] = {}
    for index, person in enumerate(people):
        if np.abs(faces[index]).sum() > 0:
            first.setdefault(person, index)
    rows = list(first.values())
    return [rows[at] for at in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)] if rows else []


@dataclass(frozen=True)
class Asked:
    """What a sheet shows: the words (k, t) of its columns, those of no text (t,), and how it is drawn.

    `shape` (c, h, w) of the latents, `w` the guidance's strength, `at_once` how many pictures the device draws
    together.
    """

    words: Tensor
    silence: Tensor
    shape: tuple[int, ...]
    w: float = 2.5
    steps: int = 20
    at_once: int = 64


@torch.no_grad()
def sample(trainer: Trainer, asked: Asked, words: Tensor, faces: Tensor, noise: Tensor) -> Tensor:
    """Return latents (n, c, h, w) of n texts (n, t) and faces (n, d), from `noise` by DDIM.

    The training's own look at itself: the renderer proper is `face0_worker.render`.
    """
    subject, device = trainer.subject, faces.device
    schedule = subject.schedule.sampler()
    schedule.set_timesteps(asked.steps)
    latents = noise.to(device)
    with trainer.accelerator.autocast():
        told = subject.text(torch.cat([words, asked.silence.expand_as(words)]))
        face = subject.parts["mapper"](faces).to(told.dtype)
        context = override_tokens(told, torch.cat([face, torch.zeros_like(face)]))
        for time in schedule.timesteps:
            both = torch.cat([latents, latents]).contiguous(memory_format=torch.channels_last)
            joint, nothing = (
                subject.parts["unet"](both, time.to(device), context, return_dict=False)[0].float().chunk(2)
            )
            latents = schedule.step(nothing + asked.w * (joint - nothing), time, latents, return_dict=False)[0]
    return latents


@torch.no_grad()
def sheet(trainer: Trainer, vae: Any, sitters: Sitters, asked: Asked) -> Image.Image:
    """Draw every sitter in a row, by the averaged weights: the photo, then one picture for each of the texts."""
    device = trainer.corpus.device
    people, texts = len(sitters.faces), len(asked.words)
    faces = torch.from_numpy(sitters.faces).to(device).repeat_interleave(texts, dim=0)
    noise = torch.randn((people * texts, *asked.shape), generator=torch.Generator().manual_seed(0))
    words = asked.words.repeat(people, 1)
    with trainer.averaged():
        parts = zip(words.split(asked.at_once), faces.split(asked.at_once), noise.split(asked.at_once), strict=True)
        latents = torch.cat([sample(trainer, asked, *part) for part in parts])
    made = decode(vae, latents / float(vae.config.scaling_factor), asked.at_once)
    return grid(np.concatenate([sitters.pixels[:, None], made.reshape(people, texts, *made.shape[1:])], axis=1))


def decode(vae: Any, latents: Tensor, at_once: int = 16) -> np.ndarray:
    """Return pictures uint8 (n, s, s, 3) of unscaled latents."""
    with torch.no_grad():
        parts = [vae.decode(part.float()).sample for part in latents.split(min(at_once, 16))]
    pixels = torch.cat(parts).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return np.asarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def grid(pictures: np.ndarray) -> Image.Image:
    """Put pictures uint8 (rows, columns, s, s, 3) side by side."""
    rows, columns, side = pictures.shape[:3]
    return Image.fromarray(pictures.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3))


def show_sheet(trainer: Trainer, vae: Any, sitters: Sitters, asked: Asked, work: Path, watch: Watch) -> None:
    """Draw a sheet into `work`/samples and show it; without anybody held out there is nobody to draw."""
    if len(sitters.faces) == 0:
        return
    picture = sheet(trainer, vae, sitters, asked)
    path = work / "samples" / f"step-{trainer.step:06d}.png"
    write_sheet(picture, path)
    watch.picture(trainer.step, picture)
    watch.say(f"drew {path}")


def write_sheet(picture: Image.Image, path: Path) -> None:
    """Write a sheet as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    picture.save(fresh, "PNG")
    fresh.replace(path)
