"""The pictures of an evaluation: which are asked for, and rendering them as the product does."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.learn.galleries import Gallery, Prompt, Sitter
from face0_worker.render.batch import RenderRequest, render_batch
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.quality import judge


@dataclass(frozen=True)
class Setting:
    """How pictures are made: guidance, the number of steps, and what they are made with."""

    guidance: Guidance
    steps: int
    sampler: str = RenderItem.sampler

    def __str__(self) -> str:
        g = self.guidance
        return f"w {g.w:g}, c {g.c:g}, a {g.a:g}, [{g.start:g}, {g.stop:g}), {self.steps} steps of {self.sampler}"


@dataclass(frozen=True)
class Shot:
    """One picture to make: of a sitter of `gallery` (its number), after a prompt, with the face or without."""

    gallery: int
    sitter: Sitter
    prompt: Prompt
    number: int
    repeat: int = 0
    face: bool = True

    @property
    def seed(self) -> int:
        """The noise's seed: another one for every person, prompt and repeat, and the same with and without face."""
        name = f"{self.sitter.person}|{self.number}|{self.repeat}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def plan_shots(
    galleries: Sequence[Gallery],
    *,
    prompts: int,
    seeds: Sequence[int] = (0,),
    face: bool = True,
    people: int | None = None,
) -> tuple[Shot, ...]:
    """Return the first `people` sitters' shots after `prompts` of their gallery's prompts, for each repeat of `seeds`.

    Where fewer prompts are asked for than there are, sitters take different ones in turn.
    """
    sitters = [(number, sitter) for number, gallery in enumerate(galleries) for sitter in gallery.sitters][:people]
    shots = []
    for place, (number, sitter) in enumerate(sitters):
        told = galleries[number].prompts
        turns = range(len(told)) if prompts >= len(told) else [(place + k) % len(told) for k in range(prompts)]
        shots += [Shot(number, sitter, told[turn], turn, repeat, face) for turn in turns for repeat in seeds]
    return tuple(shots)


def render_shots(
    pipeline: Pipeline,
    shots: Sequence[Shot],
    embeddings: Mapping[str, np.ndarray],
    setting: Setting,
    *,
    batch: int,
    say: Callable[[str], None],
) -> list[Image.Image | None]:
    """Render all shots with the product's own pipeline; None where it ends with an error or the gate rejects.

    `embeddings` holds each person's normalised embedding (d,).
    """
    pictures: list[Image.Image | None] = []
    start, said = time.monotonic(), 0.0
    for first in range(0, len(shots), batch):
        requests = [
            RenderRequest(_item(pipeline, shot, setting), embeddings[shot.sitter.person] if shot.face else None)
            for shot in shots[first : first + batch]
        ]
        for result in render_batch(pipeline, requests, judge=_gate, on_step=lambda done, steps: None):
            accepted = result.verdict is not None and result.verdict.accepted
            pictures.append(Image.fromarray(result.pixels) if accepted and result.pixels is not None else None)
        spent = time.monotonic() - start
        if spent - said > 10 or len(pictures) == len(shots):
            said = spent
            say(f"rendered {len(pictures)} of {len(shots)} pictures, {len(pictures) / spent:.2f} a second")
    return pictures


def _item(pipeline: Pipeline, shot: Shot, setting: Setting) -> RenderItem:
    return RenderItem(
        sku=shot.sitter.person,
        prompt=shot.prompt.text,
        seed=shot.seed,
        width=pipeline.card.size,
        height=pipeline.card.size,
        steps=setting.steps,
        sampler=setting.sampler,
        guidance=setting.guidance,
        precision=pipeline.precision,
    )


# the product's rule for what is accepted; likeness is measured later, by more than one recogniser
def _gate(pixels: np.ndarray, embedding: np.ndarray | None) -> Verdict:
    return judge(pixels, 0, None)
