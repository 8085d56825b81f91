"""What the options of `face0-worker train` mean, by the machine that trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from face0_worker.contract.errors import BadInput
from face0_worker.learn.autoencoder import VaePlan
from face0_worker.learn.corpus import Mix
from face0_worker.learn.model_folder import SMALL, TOY
from face0_worker.learn.small_model import SmallPlan
from face0_worker.learn.train import TrainPlan


def small_plan(said: Mapping[str, Any], device: torch.device) -> SmallPlan:
    """Return the plan that options describe; what they leave out suits the device.

    Raises: BadInput: nothing says when to stop.
    """
    gpu = device.type == "cuda"
    shape = TOY if said["shape"] == "toy" else SMALL
    compiled = gpu if said["compiled"] is None else bool(said["compiled"])
    if said["steps"] is None and said["minutes"] is None and not said["vae_only"]:
        raise BadInput("say when to stop: --steps, --minutes, or both")
    vae = VaePlan(
        steps=said["vae_steps"] if said["vae_steps"] or said["vae_minutes"] else 4000,
        minutes=said["vae_minutes"],
        crop=shape.size if gpu or shape is TOY else 64,
        compiled=compiled,
        seed=said["seed"],
        checkpoint_s=said["checkpoint_s"],
    )
    denoiser = TrainPlan(
        steps=said["steps"],
        rate=said["rate"] or TrainPlan.rate,
        compiled=compiled,
        seed=said["seed"],
        checkpoint_s=said["checkpoint_s"],
        mix=Mix(batch=said["batch"] or (256 if gpu else 32)),
    )
    return SmallPlan(shape, vae, denoiser, said["minutes"], said["vae_only"], said["start"])
