"""The weights of a single file, renamed and reshaped by diffusers' own conversion. It never asks the hub."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

# what StableDiffusionPipeline.from_single_file does for one text encoder; it has no public name of its own
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from face0_worker.contract.errors import BadInput, Face0Error, ModelMissing
from face0_worker.render.survey import Survey
from face0_worker.render.tensors import DTYPES, read_tensors
from face0_worker.render.weight_files import FLOATS, Stored

_CLASSES = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


def convert_component(survey: Survey, name: str, dtype: torch.dtype | None, what: str) -> Any:
    """Return one component of a single file in `dtype` (None: as stored).

    Only this component's weights are read, so no more than it is in memory. `what` names it in errors.
    Raises: ModelMissing: a weight is absent or damaged. BadInput: weights are absent or not of the layout's shapes.
    """
    # diffusers would make float32 of "as stored"
    dtype = dtype or _most_stored(survey.weights[name])
    weights = dict(read_tensors(survey.weights[name], dtype, what))
    place = {"config": os.fspath(survey.layout or ""), "subfolder": name, "local_files_only": True}
    try:
        with _quiet():
            if name.startswith("text_encoder"):
                module = create_diffusers_clip_model_from_ldm(_CLASSES[name], weights, torch_dtype=dtype, **place)
            else:
                module = _CLASSES[name].from_single_file(weights, torch_dtype=dtype, **place)
    except Face0Error:
        raise
    except Exception as error:  # the conversion raises whatever a foreign file leads it to
        raise BadInput(
            f"{what} lacks a weight or is not built as the layout {survey.layout} says ({type(error).__name__}); "
            "copy it again, or give a model of another size a layout folder of its own: --layout FOLDER"
        ) from error
    # diffusers leaves what the file lacks without memory, and without a word
    missing = sorted(key for key, value in module.state_dict().items() if value.is_meta)
    if missing:
        raise ModelMissing(f"{what} is not whole: {missing[0]} is missing; copy the model again")
    return module


def _most_stored(stored: Mapping[str, Stored]) -> torch.dtype:
    counts: Counter[str] = Counter()
    for tensor in stored.values():
        if tensor.dtype in FLOATS:
            counts[tensor.dtype] += tensor.stop - tensor.start
    return DTYPES[counts.most_common(1)[0][0]] if counts else torch.float32


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep diffusers' remarks on its own casting out of a worker's log."""
    shown = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(shown)
