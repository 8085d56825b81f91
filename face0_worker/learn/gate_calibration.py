"""A model's own bars for the quality gate: quantiles of what its pictures measure, of people it never saw."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from face0_worker.contract.bars import Calibration, judge
from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.faces.characters import Recipe, character, mixture_of
from face0_worker.faces.embed import Embedder
from face0_worker.faces.skin import Lab, drift
from face0_worker.learn.gate_report import calibrate, rate
from face0_worker.learn.scores import Measured
from face0_worker.learn.truth import Picture
from face0_worker.render.batch import RenderRequest, render_batch
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.quality import cosine, gate

_GARMENTS = ("red t-shirt", "blue jacket", "green hoodie", "black turtleneck", "white shirt", "yellow jacket")
_GROUNDS = ("white background", "grey background", "a city at night in the background", "blue background")


@dataclass(frozen=True)
class Model:
    """Somebody to render: a normalised embedding (d,), and the colour of the face where there is a photo."""

    embedding: np.ndarray
    skin: Lab | None


@dataclass(frozen=True)
class Calibrated:
    """What a calibration found: the bars, and two shares of the model's own pictures.

    `rejected`: by all bars together at the first try; `strangers`: by the identity bar alone, held against the photo of
    somebody else.
    """

    gate: Calibration
    rejected: Measured
    strangers: Measured


def people_of(pictures: Sequence[Picture], embedder: Embedder, most: int) -> list[Model]:
    """Return the people on the first picture of each; those in whom no face is found are left out."""
    found: dict[str, Model] = {}
    for picture in pictures:
        if len(found) == most:
            break
        if picture.person not in found and (faces := embedder.find(picture.open())):
            found[picture.person] = Model(embedder.normalise(faces[0].embedding), faces[0].skin)
    return list(found.values())


def characters(embedder: Embedder, most: int) -> list[Model]:
    """Return people who do not exist; there is no photo, so their skin can't be compared. Raises: ModelMissing."""
    mixture = mixture_of(embedder.pack)
    return [Model(character(mixture, Recipe(seed)), None) for seed in range(most)]


def calibrate_model(
    pipeline: Pipeline,
    embedder: Embedder,
    people: Sequence[Model],
    *,
    share: float,
    batch: int,
    say: Callable[[str], None],
) -> Calibrated:
    """Render each of the people once, and set the bars beyond which `share` of the pictures lies.

    Raises: BadInput: faces are found on too few. Face0Error: the first picture can't be rendered.
    """
    verdicts: list[Verdict] = []
    seen: list[tuple[int, np.ndarray]] = []
    measure = gate(embedder)
    for first in range(0, len(people), batch):
        asked = [
            RenderRequest(_item(pipeline, number), people[number].embedding)
            for number in range(first, min(first + batch, len(people)))
        ]
        done = render_batch(pipeline, asked, judge=measure, on_step=lambda step, steps: None)
        for number, one in enumerate(done, first):
            if one.error is not None:
                raise one.error
            if one.pixels is None or one.verdict is None:
                raise BadInput(f"picture {number + 1} came out empty")
            verdicts.append(replace(one.verdict, skin_drift=drift(people[number].skin, one.skin)))
            faces = embedder.find(Image.fromarray(one.pixels))
            seen += [(number, embedder.normalise(faces[0].embedding))] if faces else []
        say(f"rendered {len(verdicts)} of {len(people)} pictures")
    found = calibrate(verdicts, share)
    bars = found.bars()
    rejected = sum(not judge(one, bars).accepted for one in verdicts)
    pairs = [
        cosine(face, people[other].embedding)
        for number, face in seen
        for other in range(len(people))
        if other != number
    ]
    caught = sum(one < found.identity for one in pairs)
    # as sure as the number of people allows, not of pairs
    strangers = rate("strangers", round(len(people) * caught / max(1, len(pairs))), len(people))
    return Calibrated(found, rate("rejected", rejected, len(verdicts)), strangers)


def _item(pipeline: Pipeline, number: int) -> RenderItem:
    card = pipeline.card
    prompt = f"a portrait of a person wearing a {_GARMENTS[number % 6]}, {_GROUNDS[number % 4]}"
    return RenderItem(
        sku="gate",
        prompt=prompt,
        seed=number,
        width=card.size,
        height=card.size,
        steps=card.steps,
        sampler=card.sampler,
        guidance=card.guidance,
        precision=pipeline.precision,
    )


def write_gate(card: Path, gate: Calibration) -> None:
    """Write the bars into a model's face0.json, which gives the model another digest. Raises: BadInput."""
    try:
        data = json.loads(card.read_text("utf-8"))
        fresh = card.with_name(card.name + ".new")
        fresh.write_text(json.dumps({**data, "gate": asdict(gate)}, ensure_ascii=False, indent=2) + "\n", "utf-8")
        fresh.replace(card)
    except (OSError, ValueError) as error:
        raise BadInput(f"{card} can't be written ({type(error).__name__}); the bars were not kept") from error
