"""Train the small VAE that the shipped model decodes with: faithful first, then crisp."""

from __future__ import annotations

import copy
import math
import shutil
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

from face0_worker.contract.errors import BadInput
from face0_worker.learn.critic import Contest
from face0_worker.learn.face_weight import place_weight
from face0_worker.learn.model_folder import Shape, vae_config

KL_WEIGHT = 5e-4  # on the mean over latents, as L1 is a mean over pixels
DONE = "done"
STATE = "vae.pt"


@dataclass(frozen=True)
class VaePlan:
    """How long and how the VAE trains: `steps`, or `minutes`, whichever ends first, over all sittings; at least one
    is set. Training state is written every `checkpoint_s` seconds.

    For the first `faithful` part of that, encoder and decoder learn to reconstruct; then the encoder stands still, so
    that latents mean the same from there on, and the decoder learns against a critic whose gradient is `crisp` times
    as large as the reconstruction's. `crop` is the side in pixels of what is learned from at once: the whole picture
    where the device can, since group normalisation averages over it. A place in the middle of a face counts
    `face_weight` times more than elsewhere: faces are small and hard, and are what is looked at.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    crop: int = 256
    rate: float = 1e-3
    ema: float = 0.995
    faithful: float = 0.65
    crisp: float = 0.3
    face_weight: float = 4.0
    seed: int = 0
    compiled: bool = False
    checkpoint_s: float = 60.0


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) in [0, 255] -> float32 (n, 3, h, w) in [-1, 1], on the same device."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def random_crops(
    pixels: Tensor, boxes: Tensor, count: int, crop: int, extra: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return `count` random crops (count, crop, crop, 3), each mirrored with probability one half, and what each of
    their places counts (count, 1, crop, crop): one, and up to `extra` more where the boxes (n, 4) say a face is."""
    size, device = pixels.shape[1], pixels.device

    def below(limit: int) -> Tensor:
        return torch.randint(limit, (count,), generator=generator, device=device)

    along = torch.arange(crop, device=device)
    rows = below(size - crop + 1)[:, None] + along
    columns = below(size - crop + 1)[:, None] + along
    columns = torch.where(below(2)[:, None] == 1, columns.flip(1), columns)
    chosen = below(len(pixels))
    weight = place_weight(boxes[chosen], (rows + 0.5) / size, (columns + 0.5) / size, extra)
    return pixels[chosen[:, None, None], rows[:, :, None], columns[:, None, :]], weight


def reconstruction_loss(out: Tensor, want: Tensor, weight: Tensor) -> Tensor:
    """L1 on pixels, on their gradients and on a 4x smaller copy: edges stay, colours hold.

    Shapes: out, want (n, 3, h, w) in [-1, 1], weight (n, 1, h, w); returns a scalar.
    """
    # the same for everybody, so that a batch of large faces teaches no more than another
    weight = weight / weight.mean()
    loss = torch.mean((out - want).abs() * weight)
    for axis in (-1, -2):
        there = weight.narrow(axis, 1, weight.shape[axis] - 1)
        loss = loss + torch.mean((out.diff(dim=axis) - want.diff(dim=axis)).abs() * there)
    small = functional.avg_pool2d(out, 4) - functional.avg_pool2d(want, 4)
    return loss + torch.mean(small.abs() * functional.avg_pool2d(weight, 4))


class VaeTrainer:
    """One training of a VAE in a folder; a killed one loses at most one checkpoint interval.

    `pixels` uint8 (n, s, s, 3) lie on the device that trains, `boxes` (n, 4) say where their faces lie, in parts of the
    picture. What a step draws follows from the plan's seed and the number of the step alone. `start` is a VAE whose
    weights are gone on from. Raises: BadInput: the folder holds a training of another shape, or `start` is of another.
    """

    def __init__(
        self,
        pixels: Tensor,
        boxes: Tensor,
        shape: Shape,
        plan: VaePlan,
        folder: Path,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = monotonic,
        start: Path | None = None,
    ) -> None:
        torch.manual_seed(plan.seed)
        self.pixels, self.boxes, self.plan, self.folder, self.say, self.clock = pixels, boxes, plan, folder, say, clock
        device = pixels.device
        vae: Any = AutoencoderKL(**vae_config(shape))
        if start is not None:
            _give_weights(vae, start)
        self.vae = vae.to(device=device, memory_format=torch.channels_last).train()
        self.ema = copy.deepcopy(self.vae).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.vae.parameters(), lr=plan.rate, weight_decay=1e-4, fused=True)
        self.contest = Contest(device)
        self.generator = torch.Generator(device)
        self.encode: Any = self.vae.encoder
        self.decode: Any = self.vae.decoder
        if plan.compiled:
            self.encode, self.decode = (torch.compile(part, dynamic=False) for part in (self.encode, self.decode))
        self.step, self.crisp, self.before_s = 0, False, 0.0
        self.skipped = torch.zeros((), device=device)
        self._start, self._limit_s = clock(), math.inf if plan.minutes is None else 60 * plan.minutes
        self._resume()

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True, map_location=self.pixels.device)
        try:
            self.vae.load_state_dict(state["vae"])
        except RuntimeError as error:
            raise BadInput(f"{path} is of a VAE of another shape; remove it to start anew") from error
        self.ema.load_state_dict(state["ema"])
        self.crisp = state["crisp"]
        if self.crisp:
            self.optimiser = self._for_the_decoder()
            self.ema.register_to_config(scaling_factor=state["scaling"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.contest.critic.load_state_dict(state["critic"])
        self.contest.optimiser.load_state_dict(state["critic_optimiser"])
        self.step, self.before_s = state["step"], state["spent_s"]
        self.skipped += state["skipped"]

    def checkpoint(self) -> None:
        """Write everything that resuming needs, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / (STATE + ".new")
        state = {"vae": self.vae.state_dict(), "ema": self.ema.state_dict(), "optimiser": self.optimiser.state_dict()}
        state |= {
            "critic": self.contest.critic.state_dict(),
            "critic_optimiser": self.contest.optimiser.state_dict(),
            "step": self.step,
            "crisp": self.crisp,
            "scaling": float(self.ema.config.scaling_factor),
            "spent_s": self.spent_s(),
            "skipped": float(self.skipped),
        }
        torch.save(state, fresh)
        fresh.replace(self.folder / STATE)

    def spent_s(self) -> float:
        """Seconds trained over all sittings; a sitting's first step, which compiles, is not counted."""
        return self.before_s + self.clock() - self._start

    def part(self) -> float:
        """How much of the training is over, in [0, 1]: by steps or by time, whichever is further."""
        by_steps = self.step / self.plan.steps if self.plan.steps else 0.0
        return min(1.0, max(by_steps, self.spent_s() / self._limit_s))

    def rate(self, part: float) -> float:
        """The learning rate after `part` of the training: a short warm-up, then a cosine down to a fiftieth."""
        warm = min(1.0, (self.step + 1) / 50)
        return self.plan.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))

    def run(self) -> AutoencoderKL:
        """Train to the end and return the averaged VAE, its scaling factor measured: latents of unit variance."""
        first, saved_s = self.step + 1, self.spent_s()
        while (part := self.part()) < 1:
            if part >= self.plan.faithful and not self.crisp:
                self._stand_still()
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(part)
            loss = self.advance()
            if self.step == first:
                self._begin_after(float(loss))
            if self.step % 50 == 0:
                skipped = f" SKIPPED {int(self.skipped)} steps" if self.skipped else ""
                told = f"vae step {self.step} loss {float(loss):.4f} {100 * part:.0f}% {self.spent_s():.0f} s{skipped}"
                self.say(told)
            if self.spent_s() - saved_s > self.plan.checkpoint_s:
                self.checkpoint()
                saved_s = self.spent_s()
        if not self.crisp:
            self._measure()
        return self.ema.eval()

    def _begin_after(self, loss: float) -> None:
        """Begin the schedule after a sitting's first step, which compiles, in the time that is left; reading its loss
        waited for the device."""
        if self.plan.minutes is not None and self.before_s == 0:
            self._limit_s = max(1.0, self._limit_s - (self.clock() - self._start))
        self._start = self.clock()

    def advance(self) -> Tensor:
        """Do one step and return its reconstruction loss; one whose gradients aren't finite leaves the weights alone
        and is counted."""
        self.generator.manual_seed(self.plan.seed * 1_000_003 + self.step)
        plan = self.plan
        some, weight = random_crops(self.pixels, self.boxes, plan.batch, plan.crop, plan.face_weight, self.generator)
        want = to_unit(some).contiguous(memory_format=torch.channels_last)
        with torch.autocast(want.device.type, torch.bfloat16):
            mean, logvar = self.vae.quant_conv(self.encode(want)).float().chunk(2, dim=1)
            logvar = logvar.clamp(-30, 20)
            fresh = torch.randn(mean.shape, generator=self.generator, device=mean.device)
            latents = mean + (0.5 * logvar).exp() * fresh
            if self.crisp:
                latents = latents.detach()
            got = self.decode(self.vae.post_quant_conv(latents)).float()
        loss = reconstruction_loss(got, want, weight)
        (wanted,) = torch.autograd.grad(loss, got)
        if self.crisp:
            (sharper,) = torch.autograd.grad(self.contest.loss(got, want), got)
            wanted = wanted + plan.crisp * wanted.norm() / sharper.norm().clamp(min=1e-12) * sharper
        self.vae.zero_grad(set_to_none=True)  # the still encoder's too: they count in the norm
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        if self.crisp:
            got.backward(wanted)
            self.contest.learn(got, want)
        else:
            torch.autograd.backward([got, KL_WEIGHT * kl], [wanted, None])
        norm = torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        # as torch's GradScaler has a fused optimiser leave out a step that is not finite
        broken = (~torch.isfinite(norm)).float()
        self.optimiser.found_inf = broken  # type: ignore[attr-defined]
        self.optimiser.step()
        self.skipped += broken
        self.step += 1
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.vae.parameters()), 1 - decay)
        return loss.detach()

    def _stand_still(self) -> None:
        """Take the averaged weights, fix the encoder and begin the contest."""
        self.vae.load_state_dict(self.ema.state_dict())
        self.crisp = True
        self.optimiser = self._for_the_decoder()
        self._measure()
        self.say(f"vae step {self.step}: the encoder stands still, the decoder learns to be crisp")

    def _for_the_decoder(self) -> torch.optim.AdamW:
        learning = [*self.vae.post_quant_conv.parameters(), *self.vae.decoder.parameters()]
        return torch.optim.AdamW(learning, lr=self.plan.rate, betas=(0.5, 0.99), weight_decay=1e-4, fused=True)

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
    boxes: np.ndarray,
    out: Path,
    shape: Shape,
    plan: VaePlan,
    device: torch.device,
    say: Callable[[str], None] = print,
    start: Path | None = None,
) -> AutoencoderKL:
    """Return the VAE of the diffusers folder `out`; where there is none, train it on `pixels` uint8 (n, s, s, 3) with
    faces in `boxes` (n, 4), from the weights of the folder `start` where that is named.

    What is half done lies beside it and is resumed.
    """
    if not (out / DONE).is_file():
        seen, faces = (torch.from_numpy(table).to(device) for table in (pixels, boxes))
        trainer = VaeTrainer(seen, faces, shape, plan, out.parent, say, start=start)
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
        (out.parent / STATE).unlink(missing_ok=True)
    loaded: AutoencoderKL = AutoencoderKL.from_pretrained(out)
    return loaded.eval().to(device=device, memory_format=torch.channels_last)


def _give_weights(vae: Any, start: Path) -> None:
    """Give `vae` the weights of the diffusers folder `start`. Raises: BadInput: it is of another shape, or is none."""
    try:
        vae.load_state_dict(AutoencoderKL.from_pretrained(start, local_files_only=True).float().state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"{start} can't be trained on: it is not a VAE of this shape ({type(error).__name__})"
        ) from error


def take_vae(start: Path, out: Path) -> None:
    """Make `out` the VAE of the model folder `start`, unless it is whole already."""
    if not (out / DONE).is_file():
        shutil.copytree(start / "vae", out, dirs_exist_ok=True)
        (out / DONE).touch()
