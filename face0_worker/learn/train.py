"""The training loop: a denoiser and a FaceMapper on captioned portraits, of a new model or of an existing one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.learn.corpus import Batch, Corpus, Mix, draw
from face0_worker.learn.likeness import LatentFace, unlikeness
from face0_worker.learn.pace import MEASURED_STEPS, Pace
from face0_worker.learn.schedule import Schedule
from face0_worker.learn.watching import Watch
from face0_worker.render.conditioning import override_tokens

STATE = "training.pt"
LOSSES = "losses.jsonl"
SAY_EVERY = 50
WARM_STEPS = 20  # before the pace is measured: compiling, finding the fastest kernels


@dataclass(frozen=True)
class TrainPlan:
    """How long and how to train. `steps` counts optimiser steps over all sittings; None: as many as the first
    sitting has time for, planned once from the pace of its first steps.

    The learning rate rises to `rate` over `warmup` steps and falls in a cosine to a hundredth of it; the mapper has
    its own, `mapper_rate`, None for the same. `min_snr` caps the loss of nearly clean pictures. A step learns from
    `accumulate` batches, computed in `precision` (accelerate's words: no, bf16, fp16). Training state is written every
    `checkpoint_s` seconds and, where it is set, every `checkpoint_every` steps; model and samples every `sample_every`
    steps, None for with each of these. `likeness` is what the face in the denoiser's guess counts beside its own loss.
    """

    steps: int | None = None
    rate: float = 6e-4
    mapper_rate: float | None = None
    warmup: int = 300
    ema: float = 0.999
    min_snr: float = 5.0
    weight_decay: float = 0.01
    seed: int = 0
    compiled: bool = False
    precision: str = "bf16"
    accumulate: int = 1
    checkpoint_s: float = 60.0
    checkpoint_every: int | None = None
    sample_every: int | None = None
    likeness: float = 0.0
    mix: Mix = field(default_factory=Mix)


@dataclass(frozen=True)
class Subject:
    """What is trained. Of `parts` (unet, mapper, and what else there is) those weights learn that ask for gradients.

    `text` says what the words of a batch (b, t) are to the denoiser: (b, length, d). `about` names what it was made
    of: a training of something else is not gone on with. `sense` tells whose face it is that latents show; None: nobody
    asks.
    """

    parts: torch.nn.ModuleDict
    text: Callable[[Tensor], Tensor]
    schedule: Schedule
    about: str
    sense: LatentFace | None = None


class Trainer:
    """One training in a folder; a killed one loses at most one checkpoint interval.

    The subject's parts are put on the corpus's device and learn; `ema` are their averages by name. What a step draws
    follows from the plan's seed and the number of the step alone, so a resumed training goes on as an unbroken one
    would. accelerate has the precision, the scale of float16's losses and the accumulation; the state is one file of
    our own, so that it is written whole or not at all.
    Raises: BadInput: the folder holds a training of something else.
    """

    def __init__(self, corpus: Corpus, subject: Subject, plan: TrainPlan, folder: Path) -> None:
        self.corpus, self.subject, self.plan, self.folder = corpus, subject, plan, folder
        self.accelerator = accelerator_for(corpus.device, plan)
        self.parts = subject.parts.to(corpus.device).train()
        unet: Any = self.parts["unet"]
        unet.to(memory_format=torch.channels_last)
        self.learned = {name: value for name, value in self.parts.named_parameters() if value.requires_grad}
        self.ema = {name: value.detach().clone() for name, value in self.learned.items()}
        self.denoise: Any = torch.compile(unet, dynamic=False) if plan.compiled else unet
        self.optimiser = torch.optim.AdamW(
            _groups(self.learned, plan), lr=plan.rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
        )
        self.step, self.steps, self.spent_s = 0, plan.steps, 0.0
        self.skipped, self.norm = (torch.zeros((), device=corpus.device) for _ in range(2))
        self.generator = torch.Generator(corpus.device)
        self._resume()

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True, map_location="cpu")
        mine = self.subject.about
        if state.get("about", mine) != mine:
            raise BadInput(f"{path} is of a training of {state['about']}, not of {mine}; remove it to start anew")
        if _shapes(state["parts"]) != _shapes(self.learned):
            raise BadInput(f"{path} is of a training of another shape; remove it to start anew")
        with torch.no_grad():
            for name, value in self.learned.items():
                value.copy_(state["parts"][name])
                self.ema[name].copy_(state["ema"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.steps, self.spent_s = state["step"], self.plan.steps or state["steps"], state["spent_s"]
        self.skipped += state["skipped"]

    def checkpoint(self) -> None:
        """Write everything that resuming needs, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / (STATE + ".new")
        parts = {name: value.detach() for name, value in self.learned.items()}
        state: dict[str, Any] = {"about": self.subject.about, "parts": parts, "ema": self.ema, "step": self.step}
        state |= {"optimiser": self.optimiser.state_dict(), "steps": self.steps, "spent_s": self.spent_s}
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        torch.save({**state, "skipped": float(self.skipped)}, fresh)
        fresh.replace(self.folder / STATE)

    @contextmanager
    def averaged(self) -> Iterator[torch.nn.ModuleDict]:
        """Lend the parts with their averaged weights, to draw with or to write; then they go on learning."""
        self._swap()
        self.parts.eval()
        try:
            yield self.parts
        finally:
            self._swap()
            self.parts.train()

    def _swap(self) -> None:
        for name, value in self.learned.items():
            value.data, self.ema[name] = self.ema[name], value.data

    def ended(self) -> bool:
        """Tell whether the planned steps are done."""
        return self.steps is not None and self.step >= self.steps

    def rate(self) -> float:
        """The learning rate now: linear warm-up, then a cosine down to a hundredth; flat until steps are planned."""
        part = min(1.0, self.step / self.steps) if self.steps else 0.0
        warm = min(1.0, (self.step + 1) / self.plan.warmup)
        return self.plan.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))

    def loss(self, batch: Batch) -> Tensor:
        """The error of what the denoiser predicts, weighted by time and place: a scalar."""
        latents, device, schedule = batch.latents, self.corpus.device, self.subject.schedule
        noise = torch.randn(latents.shape, generator=self.generator, device=device)
        # one time in each of b equal parts of the schedule: less spread between batches than b free draws
        spread = torch.arange(len(latents), device=device) + torch.rand(
            len(latents), generator=self.generator, device=device
        )
        count = len(schedule.clean)
        times = (spread * (count / len(latents))).long().clamp(max=count - 1)
        signal, share = schedule.shares(times)
        noisy = (signal * latents + share * noise).contiguous(memory_format=torch.channels_last)
        known = (batch.faces.abs().sum(dim=1) > 0)[:, None, None]
        with self.accelerator.autocast():
            text = self.subject.text(batch.words)
            face = self.parts["mapper"](batch.faces).to(text.dtype) * known
            got = self.denoise(noisy, times, override_tokens(text, face), return_dict=False)[0]
        error = (got.float() - schedule.target(latents, noise, times)).square()
        loss = torch.mean(error * schedule.weight(times, self.plan.min_snr) * batch.weight)
        if self.subject.sense is None or not self.plan.likeness:
            return loss
        with self.accelerator.autocast():
            guess = schedule.guess(noisy, got.float(), times)
            far = unlikeness(self.subject.sense, guess, latents, batch.boxes)
        return loss + self.plan.likeness * far.mean()

    def advance(self) -> Tensor:
        """Do one step and return its loss; one whose gradients aren't finite leaves weights, averages and optimiser
        alone and is counted."""
        self.generator.manual_seed(self.plan.seed * 1_000_003 + self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate() * group.get("share", 1.0)
        self.optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.corpus.device)
        for _ in range(self.plan.accumulate):
            part = self.loss(draw(self.corpus, self.plan.mix, self.generator))
            self.accelerator.backward(part)  # of its share of the step
            loss += part.detach() / self.plan.accumulate
        self._move()
        return loss

    def _move(self) -> None:
        """Move weights and averages by the gradients that there are, unless one is not finite."""
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(self.optimiser)
        self.norm = torch.nn.utils.clip_grad_norm_(self.learned.values(), 1.0).detach()
        broken = (~torch.isfinite(self.norm)).float()
        # the flag with which torch's own GradScaler makes a fused optimiser leave a step out, without waiting
        self.optimiser.found_inf = broken  # type: ignore[attr-defined]
        self.optimiser.step()
        if scaler is not None:
            scaler.update()
        self.skipped += broken
        self.step += 1
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        nearer = (1 - decay) * (1 - broken)
        with torch.no_grad():
            for name, value in self.learned.items():
                self.ema[name].lerp_(value, nearer)

    def run(
        self,
        minutes: float,
        watch: Watch,
        look: Callable[[Trainer], None] = lambda trainer: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Train until the planned steps are done or `minutes` of this sitting are over, then checkpoint.

        `look` is called with this trainer every `sample_every` steps of the plan, or after each checkpoint, to write
        the model and to draw samples; not after the last step, when the caller does so.
        """
        pace, before, saved, plan = Pace(minutes, self.step + WARM_STEPS, clock), self.spent_s, 0.0, self.plan
        total, count = torch.zeros((), device=self.corpus.device), 0
        while not self.ended() and not pace.over():
            total += self._advance_surely(watch) if count == 0 and plan.compiled else self.advance()
            count += 1
            if self.steps is None and self.step in (pace.first, pace.first + MEASURED_STEPS):
                float(total)  # waits for the device: these steps have really ended
                self.steps = pace.plan(self.step)
            self.spent_s = before + pace.spent_s()
            watch.screen.at(self.step, self.steps)
            if self.step % SAY_EVERY == 0:
                self._tell(float(total) / count, pace, watch)
                total.zero_()
                count = 0
            due = pace.spent_s() - saved > plan.checkpoint_s or _at(self.step, plan.checkpoint_every)
            if due:
                self.checkpoint()
            looks = _at(self.step, plan.sample_every) or (due and plan.sample_every is None)
            if looks and not self.ended():
                look(self)
            if due:
                saved = pace.spent_s()
        self.checkpoint()

    def _advance_surely(self, watch: Watch) -> Tensor:
        try:
            return self.advance()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            told = f"{type(error).__name__}: {str(error)[:500]}"
            watch.say(f"COMPILING FAILED, training goes on uncompiled and slower: {told}")
            self.denoise = self.parts["unet"]
            return self.advance()

    def _tell(self, loss: float, pace: Pace, watch: Watch) -> None:
        told = {"step": self.step, "loss": round(loss, 5), "rate": self.rate(), "skipped": int(self.skipped)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOSSES).open("a") as curve:
            curve.write(json.dumps({**told, "spent_s": round(self.spent_s, 1)}) + "\n")
        skipped = f" SKIPPED {told['skipped']} steps" if told["skipped"] else ""
        line = (
            f"step {self.step} of {self.steps} loss {loss:.4f} rate {self.rate():.1e} {pace.spent_s():.0f} s{skipped}"
        )
        numbers = {"loss": loss, "learning_rate": self.rate(), "gradient_norm": float(self.norm)}
        numbers["steps_a_second"] = self.step / max(self.spent_s, 1e-9)
        watch.told(line, self.step, {**numbers, "skipped": float(self.skipped)})

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


def accelerator_for(device: torch.device, plan: TrainPlan) -> Accelerator:
    """Return accelerate's view of one device. Raises: BadInput: it was started as one of several processes."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # accelerate keeps one precision a process; a second training in the same process may want another
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    found = Accelerator(
        cpu=device.type == "cpu", mixed_precision=plan.precision, gradient_accumulation_steps=plan.accumulate
    )
    if found.num_processes > 1:
        raise BadInput("a training runs on one device; start it without `accelerate launch` and without torchrun")
    return found


def _groups(learned: dict[str, torch.nn.Parameter], plan: TrainPlan) -> list[dict[str, Any]]:
    """Return the optimiser's groups: all weights together, or the mapper apart with its own rate."""
    if plan.mapper_rate is None:
        return [{"params": list(learned.values())}]
    mapper = [value for name, value in learned.items() if name.startswith("mapper.")]
    rest = [value for name, value in learned.items() if not name.startswith("mapper.")]
    return [{"params": rest}, {"params": mapper, "share": plan.mapper_rate / plan.rate}]


def _shapes(parts: dict[str, Any]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in parts.items()}


def _at(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
