"""Train the denoiser, the text encoder and the FaceMapper of a small model on captioned portraits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from face0_worker.learn.autoencoder import to_unit
from face0_worker.learn.dataset import Portraits
from face0_worker.learn.model_folder import SCHEDULER, new_parts
from face0_worker.render.conditioning import override_tokens

CHECKPOINT_S = 240.0


@dataclass(frozen=True)
class TrainPlan:
    """How long and how to train. `steps` counts optimiser steps over all sittings.

    `drop_*` are the chances that face, text or both are left out (as IP-Adapter-FaceID does, for guidance);
    `other_view` is the chance that another picture of the same person is the condition.
    """

    steps: int
    batch: int = 32
    rate: float = 5e-4
    warmup: int = 200
    ema: float = 0.998
    drop_face: float = 0.10
    drop_text: float = 0.08
    drop_both: float = 0.08
    other_view: float = 0.8
    face_noise: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Corpus:
    """What one step draws from. `latents` (2, n, c, h, w) float32: as they are and mirrored; `faces` (n, d)
    float32 normalised, rows of zeros where no face was found; `views[i]` are the pictures of i's person."""

    latents: Tensor
    faces: np.ndarray
    captions: tuple[str, ...]
    views: tuple[np.ndarray, ...]


@torch.no_grad()
def encode_corpus(portraits: Portraits, faces: np.ndarray, vae: AutoencoderKL, cache: Path) -> Corpus:
    """Encode every portrait, plain and mirrored, once; latents are scaled to unit variance and kept in `cache`."""
    if cache.is_file():
        latents = load_file(cache)["latents"]
    else:
        latents = torch.stack(
            [
                _encode(portraits.pixels, vae),
                _encode(np.ascontiguousarray(portraits.pixels[:, :, ::-1]), vae),
            ]
        )
        save_file({"latents": latents}, cache)
    found = np.abs(faces).sum(axis=1) > 0
    mine: dict[str, list[int]] = {}
    for index, person in enumerate(portraits.people):
        if found[index]:
            mine.setdefault(person, []).append(index)
    views = tuple(np.array(mine.get(person, []), dtype=np.int64) for person in portraits.people)
    return Corpus(latents, faces, portraits.captions, views)


def _encode(pixels: np.ndarray, vae: AutoencoderKL) -> Tensor:
    parts = []
    for start in range(0, len(pixels), 64):
        batch = to_unit(pixels[start : start + 64]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(vae.encode(batch).latent_dist.mode().float())
    return (torch.cat(parts) * float(vae.config.scaling_factor)).contiguous()


def vary_caption(caption: str, rng: np.random.Generator) -> str:
    """Say the same in other words now and then, so that prompts need not follow one grammar to the letter."""
    if rng.random() < 0.35 and " with " in caption:
        start = caption.index(" with ")
        caption = caption[:start] + caption[caption.index(" wearing ") :]
    if rng.random() < 0.25:
        caption = caption.replace("turtleneck", str(rng.choice(["sweater", "top", "jumper", "shirt"])))
    if rng.random() < 0.15:
        caption = caption.replace("a portrait of", str(rng.choice(["a photo of", "portrait of", "a picture of"])))
    return caption.replace("grey", "gray") if rng.random() < 0.1 else caption


def draw(corpus: Corpus, plan: TrainPlan, rng: np.random.Generator) -> tuple[Tensor, list[str], Tensor]:
    """Draw one batch: latents (b, c, h, w), captions, and face conditions (b, d) with zero rows for no face."""
    chosen = rng.integers(corpus.latents.shape[1], size=plan.batch)
    latents = corpus.latents[torch.from_numpy(rng.integers(2, size=plan.batch)), torch.from_numpy(chosen)]
    captions, faces = [], np.zeros((plan.batch, corpus.faces.shape[1]), np.float32)
    for row, index in enumerate(chosen):
        lot = rng.random()
        drop_both = lot < plan.drop_both
        drop_face = drop_both or lot > 1 - plan.drop_face
        drop_text = drop_both or plan.drop_both <= lot < plan.drop_both + plan.drop_text
        captions.append("" if drop_text else vary_caption(corpus.captions[index], rng))
        views = corpus.views[index]
        if drop_face or not len(views):
            continue
        others = views[views != index]
        use_other = len(others) and (index not in views or rng.random() < plan.other_view)
        source = rng.choice(others) if use_other else (index if index in views else views[0])
        faces[row] = corpus.faces[source] + plan.face_noise * rng.standard_normal(faces.shape[1])
    return latents, captions, torch.from_numpy(faces)


def face_weight(size: int) -> Tensor:
    """Weight (size, size) of the loss: one, rising to two over the middle of the picture, where the face is."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    away = ((y - 0.45 * size) ** 2 + (x - 0.5 * (size - 1)) ** 2) / (0.2 * size) ** 2
    return 1 + torch.exp(-away / 2)


class Trainer:
    """One training run in a checkpoint folder; a killed run loses at most one checkpoint interval."""

    def __init__(self, corpus: Corpus, tokenizer: CLIPTokenizer, plan: TrainPlan, folder: Path) -> None:
        torch.manual_seed(plan.seed)
        self.corpus, self.tokenizer, self.plan, self.folder = corpus, tokenizer, plan, folder
        self.parts = new_parts(tokenizer, corpus.faces.shape[1])
        unet: Any = self.parts["unet"]
        unet.to(memory_format=torch.channels_last)
        self.ema = new_parts(tokenizer, corpus.faces.shape[1]).requires_grad_(False)
        self.ema.load_state_dict(self.parts.state_dict())
        self.optimiser = torch.optim.AdamW(self.parts.parameters(), lr=plan.rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.schedule = DDIMScheduler(**SCHEDULER)
        self.step, self.spent_s = 0, 0.0
        self._resume()

    def _resume(self) -> None:
        path = self.folder / "training.pt"
        if path.is_file():
            state = torch.load(path, weights_only=True)
            self.parts.load_state_dict(state["parts"])
            self.ema.load_state_dict(state["ema"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.spent_s = state["step"], state["spent_s"]

    def checkpoint(self) -> None:
        """Write everything that resuming needs, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / "training.pt.new"
        state = {"parts": self.parts.state_dict(), "ema": self.ema.state_dict(), "step": self.step}
        torch.save({**state, "optimiser": self.optimiser.state_dict(), "spent_s": self.spent_s}, fresh)
        fresh.replace(self.folder / "training.pt")

    def rate(self) -> float:
        """The learning rate now: linear warm-up, then a cosine down to a hundredth."""
        part = min(1.0, self.step / self.plan.steps)
        warm = min(1.0, (self.step + 1) / self.plan.warmup)
        return self.plan.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """The noise-prediction loss of one batch in v form (Salimans and Ho 2022), averaged over pixels."""
        latents, captions, faces = draw(self.corpus, self.plan, rng)
        words = self.tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        noise = torch.randn(latents.shape, generator=generator)
        times = torch.randint(1000, (len(latents),), generator=generator)
        noisy = self.schedule.add_noise(latents, noise, times).contiguous(memory_format=torch.channels_last)
        target = self.schedule.get_velocity(latents, noise, times)
        known = (faces.abs().sum(dim=1) > 0).float()[:, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            text = self.parts["text_encoder"](words.input_ids).last_hidden_state
            context = override_tokens(text, self.parts["mapper"](faces).to(text.dtype) * known.to(text.dtype))
            got = self.parts["unet"](noisy, times, context).sample
        error = (got.float() - target).square() * face_weight(latents.shape[-1])
        return torch.mean(error)

    def run(self, minutes: float, say: Callable[[str], None] = print) -> None:
        """Train until the plan's steps are done or `minutes` of this sitting are over, then checkpoint."""
        start = saved = time.monotonic()
        before, recent = self.spent_s, 0.0
        while self.step < self.plan.steps and time.monotonic() - start < 60 * minutes:
            # seeded by the step: a resumed run draws what an unbroken one would have drawn
            rng = np.random.default_rng((self.plan.seed, self.step))
            generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + self.step)
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate()
            loss = self.loss(rng, generator)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
            self.optimiser.step()
            self.step += 1
            decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for slow, fast in zip(self.ema.parameters(), self.parts.parameters(), strict=True):
                    slow.lerp_(fast, 1 - decay)
            recent = float(loss.detach()) if not recent else 0.98 * recent + 0.02 * float(loss.detach())
            self.spent_s = before + time.monotonic() - start
            if self.step % 50 == 0:
                say(f"step {self.step} loss {recent:.4f} rate {self.rate():.1e} {self.spent_s / self.step:.2f} s/step")
            if time.monotonic() - saved > CHECKPOINT_S:
                self.checkpoint()
                saved = time.monotonic()
        self.checkpoint()

    def facts(self) -> dict[str, object]:
        """What the card says of this training."""
        return {"plan": asdict(self.plan), "step": self.step, "hours": round(self.spent_s / 3600, 2)}
