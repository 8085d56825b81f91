"""Pictures that half precision broke, and the same model in float32 to make them again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from face0_worker.contract.errors import ModelMissing
from face0_worker.models import digest_model
from face0_worker.render.loading import load_component, survey_model
from face0_worker.render.pipeline import Pipeline, device_errors

# of the range [0, 1], about 4 of 255: a dark scene has a brighter pixel somewhere, an overflow has none
BLACK_PEAK = 0.015


def breakage(picture: np.ndarray) -> str:
    """Return what is wrong with a picture, float32 (h, w, 3) in [0, 1]: not_a_number, black, or "" for nothing.

    Black is only a picture without one lighter pixel: a person before a black wall is not black.
    """
    if not np.isfinite(picture).all():
        return "not_a_number"
    return "black" if float(picture.max()) < BLACK_PEAK else ""


@contextmanager
def in_float32(pipeline: Pipeline) -> Iterator[Pipeline]:
    """Lend the same model in float32 on the same device; its UNet and VAE are read again and then let go.

    From disk, because what was rounded to half precision can't be made exact again.
    Raises: ModelMissing: the model is gone or changed since. OutOfMemory: it does not fit beside what is loaded.
    """
    place = pipeline.place
    if place is None or digest_model(place) != pipeline.digest:
        raise ModelMissing(f"model {place} changed on disk since it was loaded; start the worker again")
    survey = survey_model(place)
    exact = copy.copy(pipeline)
    exact.precision, exact.decode_precision = "float32", torch.float32
    pipeline.release()
    to = {"device": pipeline.device, "memory_format": torch.channels_last}
    try:
        with device_errors("the model in float32"):
            exact.unet = load_component(survey, "unet", torch.float32, channels_last=True).to(**to)
            if pipeline.decode_precision != torch.float32:
                exact.vae = load_component(survey, "vae", torch.float32, channels_last=True).to(**to)
        with _without_tf32():
            yield exact
    finally:
        del exact.denoiser, exact.vae
        pipeline.release()


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Let convolutions keep all bits of float32; on a GPU, torch lets them keep 10 unless it is told otherwise."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
