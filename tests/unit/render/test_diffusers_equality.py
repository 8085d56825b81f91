"""What is not Face0's is diffusers' own: the same pictures as its pipelines, from the same folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.guidance import Branch, Rows
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.sampler import SAMPLERS, initial_noise
from tests.fakes import tiny_embedding, write_tiny_model

TOLERANCE = 1e-4  # of [0, 1], float32
WIDTH, HEIGHT = 64, 96  # two sides, so that one can't be taken for the other
W = 3.0
ITEMS = [
    RenderItem("a", "red", "blue", seed=1, width=WIDTH, height=HEIGHT, steps=4, guidance=Guidance(w=W)),
    RenderItem("b", "a blue thing", "in the red", seed=2, width=WIDTH, height=HEIGHT, steps=4, guidance=Guidance(w=W)),
]
MODELS = [("sd1", "epsilon"), ("sd1", "v_prediction"), ("sd2", "v_prediction"), ("sdxl", "epsilon")]
PURE_NOISE = ("sd1", "v_prediction")
# Karras' spacing is refused there, see test_sampler.py
PAIRS = [(model, name) for model in MODELS for name in SAMPLERS if (model, name) != (PURE_NOISE, "dpmpp_2m_karras")]
Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Tiny model folders by kind, prediction and number of face tokens, each written once."""
    written: dict[tuple[str, str, int], Path] = {}

    def folder(kind: str, prediction: str, tokens: int) -> Path:
        asked = (kind, prediction, tokens)
        if asked not in written:
            place = tmp_path_factory.mktemp(kind)
            written[asked] = write_tiny_model(place, kind=kind, prediction_type=prediction, tokens=tokens)
        return written[asked]

    return folder


@cache
def load(folder: Path) -> Pipeline:
    """Load on the CPU in float32; a pipeline keeps nothing of what it rendered."""
    return Pipeline.load(folder, digest="", device="cpu", precision="float32")


def render(pipeline: Pipeline, items: list[RenderItem], faces: list[np.ndarray | None]) -> np.ndarray:
    """Return the pictures of a batch as floats (n, h, w, 3) in [0, 1]."""
    requests = [RenderRequest(*pair) for pair in zip(items, faces, strict=True)]
    return make_pictures(pipeline, requests, lambda step, steps: None)[0]


@cache
def load_stock(folder: Path) -> Any:
    """Load diffusers' own pipeline."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock(folder: Path, items: list[RenderItem], ours: Pipeline, **told: Any) -> np.ndarray:
    """Return the pictures of diffusers' own pipeline over the same folder, from the same noise."""
    pipeline = load_stock(folder)
    kind, options = SAMPLERS[items[0].sampler]
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    pipeline.scheduler = kind.from_config(config, **options)
    noise = initial_noise([item.seed for item in items], ours.latent_shape(WIDTH, HEIGHT))
    made = pipeline(
        latents=noise.first,
        generator=list(noise.generators),
        num_inference_steps=items[0].steps,
        guidance_scale=W,
        height=HEIGHT,
        width=WIDTH,
        output_type="np",
        **told,
    )
    return np.asarray(made.images)


@pytest.mark.parametrize(("model", "sampler"), PAIRS, ids=lambda value: "-".join(value) if value in MODELS else value)
def test_with_the_override_off_pictures_are_those_of_stock_diffusers(
    folder_of: Folder, model: tuple[str, str], sampler: str
) -> None:
    folder = folder_of(*model, 0)
    ours = load(folder)
    # from pure noise, diffusers' own Euler rounds by 5e-4 in four steps and, by the CPU, by 5e-5 to 1.1e-4 in twenty;
    # test_euler.py has the proof
    steps = 50 if sampler.startswith("euler") and model == PURE_NOISE else 4
    items = [replace(item, sampler=sampler, steps=steps) for item in ITEMS]
    said = {"prompt": [item.prompt for item in items], "negative_prompt": [item.negative_prompt for item in items]}
    wanted = stock(folder, items, ours, **said)
    np.testing.assert_allclose(render(ours, items, [None, None]), wanted, atol=TOLERANCE)


@pytest.mark.parametrize("zeros", [True, False])
def test_sdxl_without_a_negative_prompt_is_told_what_stock_diffusers_tells_it(tmp_path: Path, zeros: bool) -> None:
    folder = write_tiny_model(tmp_path, kind="sdxl", prediction_type="epsilon", tokens=0)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "force_zeros_for_empty_prompt": zeros}))
    ours = load(folder)
    items = [replace(item, negative_prompt="") for item in ITEMS]
    wanted = stock(folder, items, ours, prompt=[item.prompt for item in items])
    np.testing.assert_allclose(render(ours, items, [None, None]), wanted, atol=TOLERANCE)


@pytest.mark.parametrize(("kind", "prediction"), MODELS[1:])
@pytest.mark.parametrize("person", [1, None], ids=["a face", "zero face tokens"])
def test_with_face_tokens_pictures_are_those_of_stock_diffusers_given_our_prompt_embeds(
    folder_of: Folder, kind: str, prediction: str, person: int | None
) -> None:
    folder = folder_of(kind, prediction, 3)
    ours = load(folder)
    faces = [None if person is None else tiny_embedding(person), None]
    told = ours.condition(ITEMS, faces)
    said, unsaid = (told.context(Rows((0, 1), (branch,) * 2, (1.0,) * 2)) for branch in (Branch.JOINT, Branch.NONE))
    embeds: dict[str, Any] = {"prompt_embeds": said.tokens, "negative_prompt_embeds": unsaid.tokens}
    if kind == "sdxl":
        embeds |= {"pooled_prompt_embeds": said.pooled, "negative_pooled_prompt_embeds": unsaid.pooled}
    wanted = stock(folder, ITEMS, ours, **embeds)
    np.testing.assert_allclose(render(ours, ITEMS, faces), wanted, atol=TOLERANCE)


def test_step_noise_comes_from_each_items_seed_as_in_stock_diffusers(folder_of: Folder) -> None:
    folder = folder_of("sd1", "epsilon", 0)
    ours = load(folder)
    items = [replace(item, sampler="lcm") for item in ITEMS]
    pipeline = load_stock(folder)
    pipeline.scheduler = SAMPLERS["lcm"][0].from_config(pipeline.scheduler.config)
    # no latents given: diffusers draws the first noise and the steps' noise from the seeds, as users of it do
    wanted = pipeline(
        prompt=[item.prompt for item in items],
        negative_prompt=[item.negative_prompt for item in items],
        generator=[torch.Generator().manual_seed(item.seed) for item in items],
        num_inference_steps=4,
        guidance_scale=W,
        height=HEIGHT,
        width=WIDTH,
        output_type="np",
    ).images
    np.testing.assert_allclose(render(ours, items, [None, None]), wanted, atol=TOLERANCE)
