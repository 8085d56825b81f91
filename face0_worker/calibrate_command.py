"""`face0-worker bench --calibrate`: measure this worker's pace with its own model, and keep it in the home folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click
import numpy as np

from face0_worker.calibration import calibration_file, keep
from face0_worker.contract.errors import BadInput, OutOfMemory
from face0_worker.contract.job import RenderItem
from face0_worker.contract.pace import Size
from face0_worker.renderer import Renderer, load_renderer
from face0_worker.settings import load_settings

_PROMPT = "a portrait of a person wearing a red shirt, grey background"


def calibrate_here(
    said: Mapping[str, Any], device: str, precision: str, sizes: Sequence[str], *, most: int, rounds: int
) -> None:
    """Measure the model that the settings name, size by size, and keep what was found.

    A picture is made by the whole renderer, the quality gate included, for people of random embeddings.
    Raises: BadInput: a size that can't be read or made. ModelMissing, Refused: as a worker that starts.
    """
    from face0_worker.bench.calibrate import calibrate
    from face0_worker.bench.hardware import device_name

    wanted = [read_size(size) for size in sizes]
    chosen = {name: value for name, value in (("device", device), ("precision", precision)) if value != "auto"}
    settings = load_settings(**{**said, **chosen})
    renderer = load_renderer(settings)
    pipeline = renderer.pipeline
    home, name = calibration_file(settings.home_dir, pipeline.digest, pipeline.precision), device_name(pipeline.device)
    for width, height in wanted or [(pipeline.card.size, pipeline.card.size)]:
        pipeline.latent_shape(width, height)
        example = RenderItem(
            sku="pace",
            prompt=_PROMPT,
            width=width,
            height=height,
            steps=pipeline.card.steps,
            sampler=pipeline.card.sampler,
            guidance=pipeline.card.guidance,
            precision=pipeline.precision,
        )
        pace = calibrate(Painter(renderer), example, most=most, rounds=rounds, say=click.echo)
        keep(home, name, [pace])
        click.echo(f"{width}x{height}: {pace.batch} at a time, {1 / pace.seconds(example):.3g} pictures/s; kept")
    click.echo(f"{name}, model {pipeline.card.name}: workers that start from now on are planned for by this.")


class Painter:
    """Renders items for people who are random numbers; what did not fit is said instead of halved."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def __call__(self, items: Sequence[RenderItem]) -> None:
        limits = self._renderer.pipeline.limits
        failed: list[int] = []
        limits.on_learned = lambda width, height, rows: failed.append(rows)
        dimension = self._renderer.pipeline.card.embedder_dim
        people = np.random.default_rng(0).standard_normal((len(items), dimension)).astype(np.float32)
        outcomes = self._renderer(list(zip(items, people, strict=True)), lambda step, steps: None)
        if failed:
            raise OutOfMemory(f"a batch of {len(items)} does not fit")
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error


def read_size(text: str) -> Size:
    """Return (width, height) of "512x768". Raises: BadInput: it is written otherwise."""
    found = re.fullmatch(r"(\d{1,5})[xX\u00d7](\d{1,5})", text.strip())
    if not found:
        raise BadInput(f"--size {text!r}: expected width and height in px as in 512x768")
    return int(found[1]), int(found[2])
