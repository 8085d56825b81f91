"""What the options of `face0-worker train` mean, by the machine that trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from face0_worker.contract.errors import BadInput
from face0_worker.learn.autoencoder import VaePlan
from face0_worker.learn.base_model import LORA
from face0_worker.learn.corpus import Mix
from face0_worker.learn.model_folder import SMALL, TOY
from face0_worker.learn.small_model import LIKENESS, SmallPlan
from face0_worker.learn.train import TrainPlan
from face0_worker.learn.tuning import MIX, TunePlan
from face0_worker.render.pipeline import pick_precision

_OF_A_BASE = {
    "method": "--method",
    "rank": "--rank",
    "size": "--size",
    "precision": "--precision",
    "gradient_checkpointing": "--gradient-checkpointing",
    "mapper_rate": "--mapper-rate",
    "base_licence": "--base-licence",
    "cache": "--cache",
    "prompt": "--prompt",
}
_OF_A_NEW_MODEL = {
    "start": "--from",
    "new_mapper": "--new-mapper",
    "vae_steps": "--vae-steps",
    "vae_minutes": "--vae-minutes",
    "vae_only": "--vae-only",
    "shape": "--shape",
    "compiled": "--compile",
}


def small_plan(said: Mapping[str, Any], device: torch.device) -> SmallPlan:
    """Return the plan that options describe; what they leave out suits the device.

    Raises: BadInput: nothing says when to stop.
    """
    for name, flag in _OF_A_BASE.items():
        if said.get(name) not in (None, ()):
            raise BadInput(f"{flag} belongs to a training that begins with a model: name it with --base")
    gpu = device.type == "cuda"
    shape = TOY if said["shape"] == "toy" else SMALL
    compiled = gpu if said["compiled"] is None else bool(said["compiled"])
    if not said["vae_only"]:
        _says_when(said)
    vae = VaePlan(
        steps=said["vae_steps"] if said["vae_steps"] or said["vae_minutes"] else 4000,
        minutes=said["vae_minutes"],
        crop=shape.size if gpu or shape is TOY else 64,
        compiled=compiled,
        seed=said["seed"],
        checkpoint_s=VaePlan.checkpoint_s if said["checkpoint_s"] is None else said["checkpoint_s"],
    )
    denoiser = TrainPlan(
        steps=said["steps"],
        rate=said["rate"] or TrainPlan.rate,
        warmup=100 if said["start"] else TrainPlan.warmup,
        compiled=compiled,
        mix=_mix(said, Mix(batch=256 if gpu else 32)),
        **_shared(said, TrainPlan(likeness=LIKENESS)),
    )
    if said["new_mapper"] and said["start"] is None:
        raise BadInput("--new-mapper belongs to a training that goes on from a model: name it with --from")
    return SmallPlan(
        shape,
        vae,
        denoiser,
        minutes=said["minutes"],
        vae_only=said["vae_only"],
        start=said["start"],
        new_mapper=said["new_mapper"],
        vae_goes_on=said["start"] is not None and bool(said["vae_steps"] or said["vae_minutes"]),
    )


def tune_plan(said: Mapping[str, Any], base: Path, device: torch.device) -> TunePlan:
    """Return the plan that options describe for a training that begins with the model folder `base`.

    Raises: BadInput: nothing says when to stop, or an option is of the other kind of training or of another device.
    """
    for name, flag in _OF_A_NEW_MODEL.items():
        if said.get(name) not in (None, False):
            raise BadInput(f"{flag} belongs to a training from nothing and has no meaning with --base")
    _says_when(said)
    method = said["method"] or LORA
    if said["rank"] and method != LORA:
        raise BadInput("--rank belongs to --method lora")
    train = TrainPlan(
        steps=said["steps"],
        rate=said["rate"] or (1e-4 if method == LORA else 1e-5),
        mapper_rate=said["mapper_rate"] or 1e-4,
        warmup=min(500, max(1, (said["steps"] or 5000) // 10)),
        precision=pick_training_precision(said["precision"] or "auto", device),
        mix=_mix(said, MIX),
        **_shared(said, TrainPlan(ema=0.9999, checkpoint_s=300.0, sample_every=500)),
    )
    defaults = TunePlan(base)
    return TunePlan(
        base,
        method,
        rank=said["rank"] or defaults.rank,
        size=said["size"],
        checkpointing=said["gradient_checkpointing"] is not False,
        minutes=said["minutes"],
        licence=said["base_licence"],
        cache=said["cache"],
        prompts=tuple(said["prompt"]) or defaults.prompts,
        train=train,
    )


def pick_training_precision(wanted: str, device: torch.device) -> str:
    """Return no, bf16 or fp16; auto is bf16 where the device has it in hardware. Raises: BadInput: fp16 on a CPU."""
    if wanted == "fp16" and device.type == "cpu":
        raise BadInput("--precision fp16 needs CUDA; use bf16 or no on a CPU")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"bfloat16": "bf16", "float32": "no"}[pick_precision("auto", device)]


def _says_when(said: Mapping[str, Any]) -> None:
    if said["steps"] is None and said["minutes"] is None:
        raise BadInput("say when to stop: --steps, --minutes, or both")


def _shared(said: Mapping[str, Any], usual: TrainPlan) -> dict[str, Any]:
    """Return what both kinds of training understand alike, as it is said, or as it is usual."""
    names = ("seed", "accumulate", "ema", "checkpoint_s", "checkpoint_every", "sample_every", "likeness")
    return {name: getattr(usual, name) if said.get(name) is None else said[name] for name in names}


def _mix(said: Mapping[str, Any], usual: Mix) -> Mix:
    names = ("batch", "drop_face", "drop_text", "drop_both", "face_weight")
    mix = replace(usual, **{name: said[name] for name in names if said.get(name) is not None})
    if mix.drop_face + mix.drop_text + mix.drop_both > 1:
        raise BadInput(
            "--drop-face, --drop-text and --drop-both are chances that exclude each other; together at most 1"
        )
    return mix
