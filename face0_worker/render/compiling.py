"""Compiling the denoiser: when a worker does it, for which pictures, and how it knows that it need not wait for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from face0_worker.contract.errors import BadInput
from face0_worker.render.pipeline import Pipeline

AUTO, ON, OFF = "auto", "on", "off"


def compile_as_asked(pipeline: Pipeline, wanted: str, folder: Path) -> str:
    """Compile the denoiser where `wanted` says so, and return in words how it runs from now on.

    `on`: before the first batch, once for each number of rows that a call may have, for pictures of the model's own
    size. That takes minutes, and seconds where torch's cache on disk still has it. `auto`: where `on` did so before
    for this model on this device, which a mark in `folder` says. `off`: never. Pictures of other sizes run uncompiled
    in any case: no batch stops for minutes, which a supervisor would take for a hang.
    Raises: BadInput: `on` without a GPU, or another word.
    """
    if wanted not in (AUTO, ON, OFF):
        raise BadInput(f"compile is {wanted!r}; use {AUTO}, {ON} or {OFF}")
    mark = folder / _name(pipeline)
    if wanted == OFF or (wanted == AUTO and not (pipeline.device.type == "cuda" and mark.is_file())):
        return pipeline.denoiser.about()
    pipeline.compile()
    pipeline.warm_up()
    said = pipeline.denoiser.about()
    if pipeline.denoiser.compiled:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(said + "\n", encoding="utf-8")
    else:
        mark.unlink(missing_ok=True)  # the compiler failed, and would again at every start
    return said


def _name(pipeline: Pipeline) -> str:
    """Return the mark's name: the code is good for this model on this device with this torch only."""
    device = torch.cuda.get_device_name(pipeline.device) if pipeline.device.type == "cuda" else str(pipeline.device)
    of = [pipeline.digest, pipeline.precision, pipeline.card.size, device, torch.__version__]
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:32]
