"""The comparisons, in the order of their worth: a run that is cut short keeps the rows that it has."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from face0_worker.bench.hardware import count_flops, matmul_peak, peak_memory
from face0_worker.bench.report import Report, Row, compare
from face0_worker.bench.sides import (
    LIMITED,
    SharedUnet,
    Side,
    engine,
    items_for,
    pictures_per_second,
    stock,
)
from face0_worker.bench.subjects import SD15, SDXL, SMALL, SMALL_XL, Shape, Subject, random_model, shipped
from face0_worker.contract.job import Guidance
from face0_worker.render.denoiser import forward_of
from face0_worker.render.guidance import plan_rows
from face0_worker.render.pipeline import PRECISIONS

Say = Callable[[str], None]
PLAIN_PRECISION = "float32"  # what diffusers loads weights in, whatever they are stored in


@dataclass(frozen=True)
class Course:
    """How much is measured: `steps` of denoising a picture, `rounds` counted after one that warms up."""

    steps: int = 20
    rounds: int = 3
    batch: int = 16
    singles: int = 2


class Bench:
    """Runs sides in turn and writes what they say. `say` prints a line."""

    def __init__(self, report: Report, course: Course, device: torch.device, precision: str, say: Say) -> None:
        self._report, self._course, self._say = report, course, say
        self._device, self._precision = device, precision
        self._peak = 0.0
        self._counted: dict[str, tuple[int, int]] = {}

    def shorter(self) -> Bench:
        """Return the same for models that take long: a few pictures at once, half the steps, at most two rounds."""
        course = self._course
        return self._with(Course(max(1, course.steps // 2), min(2, course.rounds), min(4, course.batch), 1))

    def shortest(self) -> Bench:
        """Return the same for models of which one picture takes minutes here: two steps, two at once, two rounds."""
        return self._with(Course(min(2, self._course.steps), min(2, self._course.rounds), 2, 1))

    @property
    def on_gpu(self) -> bool:
        """Whether it measures a GPU."""
        return self._device.type == "cuda"

    def _with(self, course: Course) -> Bench:
        other = Bench(self._report, course, self._device, self._precision, self._say)
        other._peak = self._peak  # of the same device: measured once
        return other

    @property
    def precision(self) -> str:
        """What this engine computes in."""
        return self._precision

    def shipped(self, precision: str | None = None) -> Subject:
        """Load the model that ships with the product; None: in the precision that is measured."""
        return shipped(self._device, precision or self._precision)

    def random(self, shape: Shape) -> Subject:
        """Make a model of this shape of random numbers."""
        return random_model(shape, self._device, self._precision)

    def against_diffusers(self, subject: Subject) -> None:
        """Compare this engine with diffusers: one at a time and batched, with and without a limited interval."""
        batch, one = self._course.batch, self._course.singles
        alone = Side("diffusers one at a time", stock(subject), 1, one)
        batched = Side(f"diffusers in batches of {batch}", stock(subject), batch, batch)
        ours = Side(f"this engine in batches of {batch}", engine(subject), batch, batch)
        limited = Side(f"this engine in batches of {batch}, limited interval", engine(subject), batch, batch, LIMITED)
        ours_alone = Side("this engine one at a time", engine(subject), 1, one)
        faceless = Side(f"this engine in batches of {batch}, no face", engine(subject, faces=False), batch, batch)
        sides = [alone, batched, ours, limited, ours_alone, faceless]
        pairs = [(ours, alone), (ours, batched), (limited, batched), (ours_alone, alone), (ours, faceless)]
        self._compare(subject, sides, pairs)

    def as_they_come(self, subject: Subject, plain: Subject) -> None:
        """Compare with diffusers as it loads a folder that nothing is said of: `plain`, the same model in float32."""
        batch, one = self._course.batch, self._course.singles
        alone = Side("diffusers one at a time in float32", stock(plain), 1, one)
        batched = Side(f"diffusers in batches of {batch} in float32", stock(plain), batch, batch)
        ours = Side(f"this engine in batches of {batch}", engine(subject), batch, batch)
        self._compare(subject, [alone, batched, ours], [(ours, alone), (ours, batched)])

    def compiled(self, subject: Subject) -> None:
        """Compare with the denoiser compiled, on a GPU; diffusers' side runs the very same compiled UNet."""
        pipeline, batch = subject.pipeline, self._course.batch
        pipeline.compile()
        rows = batch // 2
        ours = Side(f"this engine compiled, in batches of {batch}", engine(subject), batch, batch)
        limited = Side(f"{ours.name}, limited interval", engine(subject), batch, batch, LIMITED)
        batched = Side(f"diffusers in batches of {batch}", stock(subject), batch, batch)
        # the engine first: it compiles, and diffusers' side takes what came of it
        pictures_per_second(subject, ours, 1)
        self._say(f"{subject.name}: {pipeline.denoiser.about()}")
        pipe = _with_unet(subject.stock, SharedUnet(pipeline.unet, pipeline.denoiser.forward))
        shared = Side(f"diffusers compiled, in batches of {rows}", stock(subject, pipe), rows, batch)
        self._compare(subject, [batched, shared, ours, limited], [(ours, batched), (ours, shared), (limited, batched)])

    def invariance(self, subject: Subject, count: int = 4) -> None:
        """Compare how far a picture made alone is from the same in a batch: the worst PSNR of each side, in dB."""
        items = items_for(subject, 8, self._course.steps, LIMITED)
        worst = {}
        for name, paint in (("this engine", engine(subject)), ("diffusers", stock(subject))):
            together = paint(items)
            alone = np.concatenate([paint([item]) for item in items[:count]])
            errors = np.square(together[:count] - alone).mean(axis=(1, 2, 3))
            worst[name] = float(-10 * np.log10(max(float(errors.max()), 1e-12)))
        name = f"{subject.name}: a picture alone and in a batch of 8, this engine / diffusers"
        self._say(self._report.put(compare(name, [(worst["this engine"], worst["diffusers"])], "dB")))

    def _compare(self, subject: Subject, sides: Sequence[Side], pairs: Sequence[tuple[Side, Side]]) -> None:
        about = {side.name: self._about(subject, side) for side in sides}
        speeds: dict[str, list[float]] = {side.name: [] for side in sides}
        lines: list[str] = []
        for number in range(1, self._course.rounds + 1):
            for side in sides:
                speed = pictures_per_second(subject, side, self._course.steps, 1000 * number)
                speeds[side.name].append(speed)
            told = ", ".join(f"{name} {values[-1]:.2f}" for name, values in speeds.items())
            self._say(f"{subject.name}, round {number}: {told} pictures/s")
            # after every round: a run that is cut short keeps the rounds that it has
            both = {name: self._told(about[name], values) for name, values in speeds.items()}
            lines = [self._report.put(self._row(subject, pair, speeds, both)) for pair in pairs]
        for line in lines:
            self._say(line)

    def _told(self, about: dict[str, Any], speeds: list[float]) -> dict[str, Any]:
        """Return what is said of a side of these speeds, in pictures a second."""
        share = about["flops"] * float(np.median(speeds)) / self._matmul_peak()
        return {**about, "share_of_matmul_peak": round(share, 4)}

    def _row(
        self, subject: Subject, pair: tuple[Side, Side], speeds: dict[str, list[float]], told: dict[str, dict[str, Any]]
    ) -> Row:
        """Return the comparison of two sides in the rounds so far."""
        a, b = (side.name for side in pair)
        measured = list(zip(speeds[a], speeds[b], strict=True))
        peak = round(self._matmul_peak() / 1e12, 1)
        about = {"rounds": len(measured), "a": told[a], "b": told[b], "matmul_peak_tflops": peak}
        return compare(f"{subject.name}: {a} / {b}", measured, "pictures/s", about)

    def _about(self, subject: Subject, side: Side) -> dict[str, Any]:
        """Warm a side up, and return what one picture costs it."""
        denoiser, steps = subject.pipeline.denoiser, self._course.steps
        before = replace(denoiser.tally)
        memory = peak_memory(self._device, lambda: pictures_per_second(subject, side, steps))
        ours = denoiser.tally.since(before)
        # diffusers evaluates both branches in every step
        rows = ours.evaluations if ours.calls else 2 * steps * side.count
        unet_flops, vae_flops = self._flops(subject)
        told: dict[str, Any] = {
            "peak_memory_gib": round(memory, 3),
            "evaluations_per_picture": round(rows / side.count, 2),
            "flops": rows / side.count * unet_flops + vae_flops,
        }
        if ours.calls:
            told |= {"padded_rows_per_picture": round(ours.padded / side.count, 2), "denoiser": denoiser.about()}
        return told

    def _matmul_peak(self) -> float:
        """Return the FLOP/s of matrix products on this device in this precision, measured once."""
        if not self._peak:
            self._peak = matmul_peak(self._device, PRECISIONS[self._precision])
            self._say(f"matrix products in {self._precision}: {self._peak / 1e12:.2f} TFLOP/s")
        return self._peak

    def _flops(self, subject: Subject) -> tuple[int, int]:
        """Return the FLOPs of a row of a step, and of decoding a picture."""
        if subject.name not in self._counted:
            self._counted[subject.name] = _unet_flops(subject), _vae_flops(subject)
        return self._counted[subject.name]


def _unet_flops(subject: Subject) -> int:
    """Return the FLOPs of one row in one step."""
    pipeline = subject.pipeline
    [item] = items_for(subject, 1, 1, Guidance(w=1.0))
    context = pipeline.condition([item], [None]).context(plan_rows([item.guidance], 0.0))
    dtype, device = PRECISIONS[pipeline.precision], pipeline.device
    latents = torch.zeros(1, *pipeline.latent_shape(subject.size, subject.size), device=device, dtype=dtype)
    forward = forward_of(pipeline.unet)
    return count_flops(lambda: forward(latents, torch.zeros((), device=device), *context.told()))


def _vae_flops(subject: Subject) -> int:
    """Return the FLOPs of decoding one picture."""
    pipeline, vae = subject.pipeline, subject.pipeline.vae
    shape = (1, int(vae.config.latent_channels), *pipeline.latent_shape(subject.size, subject.size)[1:])
    latents = torch.zeros(shape, device=pipeline.device, dtype=pipeline.decode_precision)
    return count_flops(lambda: vae.decode(latents, return_dict=False))


def _with_unet(pipe: Any, unet: Any) -> Any:
    """Return a pipeline of diffusers with the same parts and another UNet."""
    other = copy.copy(pipe)
    other.unet = unet
    return other


def run(bench: Bench, names: Sequence[str], *, compiled: bool, small: bool = False) -> None:
    """Run all comparisons of the models named `shipped`, `sd15` and `sdxl`, in that order of `names`.

    First what needs no compiler, which may take most of the time, then `sd15` compiled; on a CPU `sd15` has the
    shortest course. SDXL, whose pictures cost some thirty times as much, comes last and in a shorter course.
    """
    shapes = {"sd15": SMALL, "sdxl": SMALL_XL} if small else {"sd15": SD15, "sdxl": SDXL}
    measured: dict[str, Subject] = {}
    for name in (name for name in names if name != "sdxl"):
        one = bench.shipped() if name == "shipped" else bench.random(shapes[name])
        # half a minute of a CPU goes into one step of a batch of SD 1.5's shape
        chosen = bench if small or bench.on_gpu or name == "shipped" else bench.shortest()
        chosen.against_diffusers(one)
        if name == "shipped" and bench.precision != PLAIN_PRECISION:
            chosen.as_they_come(one, bench.shipped(PLAIN_PRECISION))
        if chosen is bench:
            chosen.invariance(one)
        measured[name] = one
    if compiled and "sd15" in measured:
        bench.compiled(measured["sd15"])
    if "sdxl" in names:
        measured.clear()
        bench.shorter().against_diffusers(bench.random(shapes["sdxl"]))
