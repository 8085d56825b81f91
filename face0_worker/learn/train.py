"""Train the denoiser, the text encoder and the FaceMapper of a small model on captioned portraits."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.learn.corpus import Batch, Corpus, Mix, draw
from face0_worker.learn.model_folder import SCHEDULER
from face0_worker.learn.pace import MEASURED_STEPS, Pace
from face0_worker.render.conditioning import override_tokens

STATE = "training.pt"
LOSSES = "losses.jsonl"
SAY_EVERY = 50
WARM_STEPS = 20  # before the pace is measured: compiling, finding the fastest kernels


@dataclass(frozen=True)
class TrainPlan:
    """How long and how to train. `steps` counts optimiser steps over all sittings; None: as many as the first
    sitting has time for, planned once from the pace of its first steps.

    The learning rate rises to `rate` over `warmup` steps and falls in a cosine to a hundredth of it. `min_snr` caps
    the loss of nearly clean pictures (Hang et al. 2023, arXiv 2303.09556, in its form for velocity: at pure noise,
    where colours are decided, the weight is one). Training state is written every `checkpoint_s` seconds.
    """

    steps: int | None = None
    rate: float = 6e-4
    warmup: int = 300
    ema: float = 0.999
    min_snr: float = 5.0
    weight_decay: float = 0.01
    seed: int = 0
    compiled: bool = False
    checkpoint_s: float = 60.0
    mix: Mix = field(default_factory=Mix)


class Trainer:
    """One training in a folder; a killed one loses at most one checkpoint interval.

    `parts` (unet, text_encoder, mapper) lie on the corpus's device and are trained; `ema` are their averages. What a
    step draws follows from the plan's seed and the number of the step alone, so a resumed training goes on as an
    unbroken one would. Raises: BadInput: the folder holds a training of another shape.
    """

    def __init__(self, corpus: Corpus, parts: torch.nn.ModuleDict, plan: TrainPlan, folder: Path) -> None:
        self.corpus, self.plan, self.folder = corpus, plan, folder
        self.parts = parts.to(corpus.device).train()
        unet: Any = self.parts["unet"]
        unet.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.parts).eval().requires_grad_(False)
        self.denoise: Any = torch.compile(unet, dynamic=False) if plan.compiled else unet
        self.optimiser = torch.optim.AdamW(
            self.parts.parameters(), lr=plan.rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
        )
        clean = DDIMScheduler(**SCHEDULER).alphas_cumprod.to(corpus.device)  # the share of the picture's power
        self.signal, self.noise = clean.sqrt(), (1 - clean).sqrt()
        self.time_weight = (plan.min_snr * (1 - clean)).clamp(max=1)  # min(snr + 1, gamma) / (snr + 1)
        self.step, self.steps, self.spent_s = 0, plan.steps, 0.0
        self.skipped = torch.zeros((), device=corpus.device)
        self.generator = torch.Generator(corpus.device)
        self._resume()

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True, map_location=self.corpus.device)
        try:
            self.parts.load_state_dict(state["parts"])
        except RuntimeError as error:
            raise BadInput(f"{path} is of a training of another shape; remove it to start anew") from error
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.steps, self.spent_s = state["step"], self.plan.steps or state["steps"], state["spent_s"]
        self.skipped += state["skipped"]

    def checkpoint(self) -> None:
        """Write everything that resuming needs, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / (STATE + ".new")
        state = {"parts": self.parts.state_dict(), "ema": self.ema.state_dict(), "step": self.step}
        state |= {"optimiser": self.optimiser.state_dict(), "steps": self.steps, "spent_s": self.spent_s}
        torch.save({**state, "skipped": float(self.skipped)}, fresh)
        fresh.replace(self.folder / STATE)

    def rate(self) -> float:
        """The learning rate now: linear warm-up, then a cosine down to a hundredth; flat until steps are planned."""
        part = min(1.0, self.step / self.steps) if self.steps else 0.0
        warm = min(1.0, (self.step + 1) / self.plan.warmup)
        return self.plan.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))

    def loss(self, batch: Batch) -> Tensor:
        """The noise-prediction loss in velocity form (Salimans and Ho 2022), weighted by time and place: a scalar."""
        latents, device = batch.latents, self.corpus.device
        noise = torch.randn(latents.shape, generator=self.generator, device=device)
        # one time in each of b equal parts of the schedule: less spread between batches than b free draws
        spread = torch.arange(len(latents), device=device) + torch.rand(
            len(latents), generator=self.generator, device=device
        )
        times = (spread * (len(self.signal) / len(latents))).long().clamp(max=len(self.signal) - 1)
        signal, share = (curve[times].reshape(-1, 1, 1, 1) for curve in (self.signal, self.noise))
        noisy = (signal * latents + share * noise).contiguous(memory_format=torch.channels_last)
        known = (batch.faces.abs().sum(dim=1) > 0)[:, None, None]
        with torch.autocast(device.type, torch.bfloat16):
            text = self.parts["text_encoder"](batch.words).last_hidden_state
            face = self.parts["mapper"](batch.faces).to(text.dtype) * known
            got = self.denoise(noisy, times, override_tokens(text, face), return_dict=False)[0]
        error = (got.float() - (signal * noise - share * latents)).square()
        weight = self.time_weight[times].reshape(-1, 1, 1, 1) * batch.weight
        return torch.mean(error * weight)

    def advance(self) -> Tensor:
        """Do one step and return its loss; one whose gradients aren't finite leaves weights and optimiser alone and
        is counted."""
        self.generator.manual_seed(self.plan.seed * 1_000_003 + self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        loss = self.loss(draw(self.corpus, self.plan.mix, self.generator))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
        broken = (~torch.isfinite(norm)).float()
        # the flag with which torch's own GradScaler makes a fused optimiser leave a step out, without waiting
        self.optimiser.found_inf = broken  # type: ignore[attr-defined]
        self.optimiser.step()
        self.skipped += broken
        self.step += 1
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.parts.parameters()), 1 - decay)
        return loss.detach()

    def run(
        self,
        minutes: float,
        say: Callable[[str], None] = print,
        on_checkpoint: Callable[[Trainer], None] = lambda trainer: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Train until the planned steps are done or `minutes` of this sitting are over, then checkpoint.

        `on_checkpoint` is called after each checkpoint but the last, with this trainer.
        """
        pace, before, saved = Pace(minutes, self.step + WARM_STEPS, clock), self.spent_s, 0.0
        total, count = torch.zeros((), device=self.corpus.device), 0
        while not (self.steps is not None and self.step >= self.steps) and not pace.over():
            total += self._advance_surely(say) if count == 0 and self.plan.compiled else self.advance()
            count += 1
            if self.steps is None and self.step in (pace.first, pace.first + MEASURED_STEPS):
                float(total)  # waits for the device: these steps have really ended
                self.steps = pace.plan(self.step)
            self.spent_s = before + pace.spent_s()
            if self.step % SAY_EVERY == 0:
                self._tell(float(total) / count, pace, say)
                total.zero_()
                count = 0
            if pace.spent_s() - saved > self.plan.checkpoint_s:
                self.checkpoint()
                on_checkpoint(self)
                saved = pace.spent_s()
        self.checkpoint()

    def _advance_surely(self, say: Callable[[str], None]) -> Tensor:
        try:
            return self.advance()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            say(f"COMPILING FAILED, training goes on uncompiled and slower: {type(error).__name__}: {str(error)[:500]}")
            self.denoise = self.parts["unet"]
            return self.advance()

    def _tell(self, loss: float, pace: Pace, say: Callable[[str], None]) -> None:
        told = {"step": self.step, "loss": round(loss, 5), "rate": self.rate(), "skipped": int(self.skipped)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOSSES).open("a") as curve:
            curve.write(json.dumps({**told, "spent_s": round(self.spent_s, 1)}) + "\n")
        skipped = f" SKIPPED {told['skipped']} steps" if told["skipped"] else ""
        say(f"step {self.step} of {self.steps} loss {loss:.4f} rate {self.rate():.1e} {pace.spent_s():.0f} s{skipped}")

    def facts(self) -> dict[str, object]:
        """What the card says of this training."""
        return {
            "plan": asdict(self.plan),
            "step": self.step,
            "steps": self.steps,
            "skipped": int(self.skipped),
            "hours": round(self.spent_s / 3600, 3),
            "device": torch.cuda.get_device_name() if self.corpus.device.type == "cuda" else "CPU",
        }
