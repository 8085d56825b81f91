"""Render a batch: the straight line from requests to pictures, in which every item ends on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch

from face0_worker.contract.errors import BadInput, Face0Error, ItemFailed, ModelMissing, OutOfMemory
from face0_worker.contract.job import RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.faces.skin import Lab
from face0_worker.render.guidance import check_guidance
from face0_worker.render.limits import rows_of
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.quality import Measured
from face0_worker.render.rescue import breakage, in_float32
from face0_worker.render.sampler import denoise, initial_noise, make_scheduler

# (pixels uint8 (h, w, 3), the embedding (d,) it was made with) -> what is measured on it
Judge = Callable[[np.ndarray, np.ndarray | None], Verdict | Measured]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class RenderRequest:
    """One picture to make: the item and the person's normalised embedding, float32 (d,); None for no face."""

    item: RenderItem
    embedding: np.ndarray | None


@dataclass(frozen=True)
class Rendered:
    """How one request ended: with pixels (uint8 (h, w, 3)) and a verdict, or with an error of its own.

    A rejected picture keeps its pixels. `truncated`: the end of a prompt did not fit the text encoder. `skin`: the
    colour of the person's face, where the judge measured it.
    """

    pixels: np.ndarray | None
    verdict: Verdict | None
    error: Face0Error | None
    truncated: bool = False
    skin: Lab | None = None


def render_batch(
    pipeline: Pipeline, requests: Sequence[RenderRequest], *, judge: Judge, on_step: OnStep
) -> list[Rendered]:
    """Render all requests; one result per request, in their order. Items may differ in everything.

    Items of one size, sampler and number of steps share each call of the denoiser. A batch that fails on the
    device, for memory above all, is halved until the rest is done, and `pipeline.limits` remembers what fitted; an
    item that fails alone ends with its own error. A picture that half precision broke is made once more in float32;
    its verdict says so. `on_step(done, steps)` is called after each denoising step of each pass: a sign of life, and
    what it raises ends the batch.
    """
    results: dict[int, Rendered] = {}
    groups: dict[tuple[int, int, int, str], list[int]] = {}
    for index, request in enumerate(requests):
        try:
            check_request(pipeline, request)
        except Face0Error as error:
            results[index] = Rendered(None, None, error)
        else:
            item = request.item
            groups.setdefault((item.width, item.height, item.steps, item.sampler), []).append(index)
    for indices in groups.values():
        rendered = _render(pipeline, [requests[index] for index in indices], judge, on_step)
        results.update(zip(indices, rendered, strict=True))
    return [results[index] for index in range(len(requests))]


def check_request(pipeline: Pipeline, request: RenderRequest) -> None:
    """Raise BadInput when this pipeline can't render the request as it is; the message says why.

    The precision is part of an item's key, so another one is refused, not replaced.
    """
    item, embedding = request.item, request.embedding
    if item.precision != pipeline.precision:
        raise BadInput(f"the item asks for {item.precision}, this worker renders in {pipeline.precision}")
    if not 0 <= item.seed < 2**63:
        raise BadInput(f"seed is {item.seed}; 0 <= seed < 2**63 is needed")
    check_guidance(item.guidance)
    pipeline.latent_shape(item.width, item.height)
    make_scheduler(pipeline.scheduler_config, item.sampler, item.steps)
    if embedding is not None:
        wanted = pipeline.card.embedder_dim
        if embedding.shape != (wanted,):
            raise BadInput(f"the face embedding has shape {embedding.shape}; the model takes ({wanted},)")
        if not np.isfinite(embedding).all():
            raise BadInput("the face embedding holds a value that is not a number; embed the photo again")


def _render(pipeline: Pipeline, requests: Sequence[RenderRequest], judge: Judge, on_step: OnStep) -> list[Rendered]:
    """Render checked requests of one size, sampler and number of steps, as many at once as the device takes."""
    done: list[Rendered] = []
    size, limits = _size(requests[0]), pipeline.limits
    rows = [rows_of(request.item.guidance) for request in requests]
    while len(done) < len(requests):
        begin, most = len(done), limits.most(size)
        end = begin + limits.first(size, rows[begin:])
        done.extend(_render_at_once(pipeline, requests[begin:end], judge, on_step))
        if end < len(requests) and most is not None and limits.most(size) == most:
            limits.fitted(size)
    return done


def _size(request: RenderRequest) -> tuple[int, int]:
    return request.item.width, request.item.height


def _render_at_once(
    pipeline: Pipeline, requests: Sequence[RenderRequest], judge: Judge, on_step: OnStep
) -> list[Rendered]:
    """Render these together; what fails on the device goes in halves."""
    short_of_memory = False
    try:
        pictures, truncated = make_pictures(pipeline, requests, on_step)
    except ItemFailed as error:
        if len(requests) == 1:
            # without its traceback, whose frames hold the batch's tensors
            return [Rendered(None, None, error.with_traceback(None))]
        short_of_memory = isinstance(error, OutOfMemory)
    else:
        return _finish_all(pipeline, requests, pictures, truncated, judge, on_step)
    # outside the except block: there the failed batch's tensors would still be held
    pipeline.release()
    halves = requests[: len(requests) // 2], requests[len(requests) // 2 :]
    if short_of_memory:
        larger = max(sum(rows_of(request.item.guidance) for request in half) for half in halves)
        pipeline.limits.did_not_fit(_size(requests[0]), larger)
    return [one for half in halves for one in _render(pipeline, half, judge, on_step)]


@torch.inference_mode()
def make_pictures(
    pipeline: Pipeline, requests: Sequence[RenderRequest], on_step: OnStep
) -> tuple[np.ndarray, tuple[bool, ...]]:
    """Return pictures (n, h, w, 3) float32 in [0, 1], NaN where an item broke, and the truncated flags."""
    items = [request.item for request in requests]
    conditioning = pipeline.condition(items, [request.embedding for request in requests])
    shape = pipeline.latent_shape(items[0].width, items[0].height)
    scheduler = make_scheduler(pipeline.scheduler_config, items[0].sampler, items[0].steps)
    noise = initial_noise([item.seed for item in items], shape).to(pipeline.device)
    guidances = [item.guidance for item in items]
    latents = denoise(pipeline.predict, scheduler, noise, conditioning, guidances, on_step)
    return pipeline.decode(latents), conditioning.truncated


def _finish_all(
    pipeline: Pipeline,
    requests: Sequence[RenderRequest],
    pictures: np.ndarray,
    truncated: Sequence[bool],
    judge: Judge,
    on_step: OnStep,
) -> list[Rendered]:
    """Judge the pictures (n, h, w, 3); those that broke in less than float32 are made again in it, each alone."""
    results: list[Rendered] = []
    with ExitStack() as stack:
        exact: Pipeline | None = None
        for request, picture, cut in zip(requests, pictures, truncated, strict=True):
            why, precision = breakage(picture), pipeline.precision
            if not why or precision == "float32":
                results.append(_finish(picture, request, cut, judge, precision))
                continue
            try:
                if exact is None:
                    on_step(0, request.item.steps)  # loading takes a while, and must not look like a hang
                    exact = stack.enter_context(in_float32(pipeline))
                again, _ = make_pictures(exact, [request], on_step)
            except (ItemFailed, ModelMissing, BadInput) as error:
                lost = ItemFailed(f"the picture broke in {precision} ({why}) and could not be made in float32: {error}")
                results.append(Rendered(None, None, lost, cut))
            else:
                results.append(_finish(again[0], request, cut, judge, exact.precision, why))
    return results


def _finish(
    picture: np.ndarray, request: RenderRequest, truncated: bool, judge: Judge, precision: str, rerendered: str = ""
) -> Rendered:
    """Return the result of one picture, float32 (h, w, 3): an error where it or its judging broke."""
    if not np.isfinite(picture).all():
        # before uint8, which has no NaN and would show some colour instead
        lost = ItemFailed(f"the picture came out as not-a-number in {precision}; try another seed")
        return Rendered(None, None, lost, truncated)
    pixels = np.rint(picture * 255).astype(np.uint8)
    try:
        measured = _judged(judge, pixels, request.embedding)
        said = replace(measured.verdict, precision=precision, rerendered=rerendered, truncated=truncated)
        return Rendered(pixels, said, None, truncated, measured.skin)
    except Face0Error as error:
        return Rendered(None, None, error, truncated)


def _judged(judge: Judge, pixels: np.ndarray, embedding: np.ndarray | None) -> Measured:
    try:
        said = judge(pixels, embedding)
        return said if isinstance(said, Measured) else Measured(said)
    except Face0Error:
        raise
    except Exception as error:
        raise ItemFailed(f"the quality gate failed on the picture ({type(error).__name__})") from error
