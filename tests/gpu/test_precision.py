"""The same picture in every batch and on every device: promise P10 on a GPU, beside what stock diffusers does there."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.models import SHIPPED
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.guidance import Branch, Rows
from face0_worker.render.pipeline import PRECISIONS, Pipeline
from face0_worker.render.sampler import SAMPLERS, initial_noise, make_scheduler
from tests.fakes import tiny_embedding
from tests.gpu.conftest import Bench, psnr_db

pytestmark = pytest.mark.gpu

MAX_DIFFERENCE = 1e-4  # of [0, 1], float32
AIM_DB = 40.0  # half precision on a GPU
W = 3.0
# the paper's regimes and what lies between, one with an interval
GUIDANCES = [Guidance(w=W), Guidance(w=W, c=0.5), Guidance(w=W, c=1.4, a=1.0), Guidance(w=W, start=0.25, stop=0.75)]
PROMPTS = ["a portrait of a person wearing a red turtleneck, white background", "red", "", "a blue thing"]


def requests_of(pipeline: Pipeline, count: int, *, mixed: bool, **asked: Any) -> list[RenderRequest]:
    """Return `count` requests of different people, prompts and seeds; `mixed`: of different guidance too."""
    made = []
    for n in range(count):
        guidance = GUIDANCES[n % len(GUIDANCES)] if mixed else Guidance(w=W)
        if asked.get("sampler") == "lcm":
            guidance = replace(guidance, w=1.5)  # what LCM is made for
        item = RenderItem("sku", PROMPTS[n % len(PROMPTS)], seed=n, guidance=guidance, **asked)
        face = None if mixed and n % 3 == 2 else tiny_embedding(n, pipeline.card.embedder_dim)
        made.append(RenderRequest(item, face))
    return made


def pictures(pipeline: Pipeline, requests: list[RenderRequest]) -> np.ndarray:
    """Return the pictures of one batch, floats (n, h, w, 3) in [0, 1]."""
    return make_pictures(pipeline, requests, lambda step, steps: None)[0]


def alone(pipeline: Pipeline, requests: list[RenderRequest]) -> np.ndarray:
    """Return the same, each request in a batch of its own."""
    return np.concatenate([pictures(pipeline, [one]) for one in requests])


def stock_pictures(pipeline: Pipeline, requests: list[RenderRequest], batch: int) -> np.ndarray:
    """Return what diffusers' own pipeline makes of the same weights, noise and embeddings, `batch` at a time."""
    kind, items = PRECISIONS[pipeline.precision], [request.item for request in requests]
    stock = StableDiffusionPipeline(
        unet=pipeline.unet,
        vae=copy.deepcopy(pipeline.vae).to(kind),
        scheduler=make_scheduler(pipeline.scheduler_config, "ddim", items[0].steps),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        told = pipeline.condition(items, [request.embedding for request in requests])
    each = tuple(range(len(items)))
    said, unsaid = (told.context(Rows(each, (branch,) * len(items), (1.0,) * len(items))).tokens.to(kind)
                    for branch in (Branch.JOINT, Branch.NONE))  # fmt: skip
    noise = initial_noise([item.seed for item in items], pipeline.latent_shape(items[0].width, items[0].height))
    made = [
        stock(
            prompt_embeds=said[begin : begin + batch],
            negative_prompt_embeds=unsaid[begin : begin + batch],
            latents=noise.first[begin : begin + batch].to(pipeline.device, kind),
            num_inference_steps=items[0].steps,
            guidance_scale=W,
            height=items[0].height,
            width=items[0].width,
            output_type="np",
        ).images
        for begin in range(0, len(items), batch)
    ]
    return np.concatenate(made)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "sd1 faceid"])
def test_with_every_sampler_a_picture_is_the_same_in_every_batch_and_on_the_cpu(
    bench: Bench, tiny_models: dict[str, Path], kind: str
) -> None:
    here, cpu = (bench.load(tiny_models[kind], "float32", device) for device in (bench.device, "cpu"))
    for sampler in list(SAMPLERS)[:: bench.pick(1, 5)]:
        count = bench.pick(6, 4)
        asked = requests_of(here, count, mixed=True, width=64, height=64, steps=4, sampler=sampler)
        single = alone(here, asked)
        worst = np.abs(pictures(here, asked) - single).max()
        bench.say(f"tiny {kind}, {sampler}: batch of {count} against alone, float32", worst, "max difference")
        assert worst <= MAX_DIFFERENCE
        # a seed means the same noise on every device, in the steps of ancestral samplers too
        apart = np.abs(single - alone(cpu, asked)).max()
        bench.say(f"tiny {kind}, {sampler}: this device against a CPU, float32", apart, "max difference")
        assert apart <= 1e-3


def test_float32_is_float32_and_not_a_shorter_kind(bench: Bench) -> None:
    if bench.cuda:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    bench.load(SHIPPED, "float32")
    if bench.cuda:
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32


def test_the_shipped_model_paints_the_same_in_every_batch_and_on_the_cpu(bench: Bench) -> None:
    pipeline = bench.load(SHIPPED, "float32")
    side, few = bench.pick(128, 64), bench.pick(4, 2)
    asked = requests_of(pipeline, 2 * few, mixed=True, width=side, height=side, steps=bench.pick(20, 2))
    single = alone(pipeline, asked[:few])
    worst = np.abs(pictures(pipeline, asked)[:few] - single).max()
    bench.say(f"shipped model: batch of {2 * few} against alone, float32", worst, "max difference")
    assert worst <= MAX_DIFFERENCE
    # 20 steps of a trained model: two devices' roundings stay far below what can be seen
    apart = np.abs(single - pictures(bench.load(SHIPPED, "float32", "cpu"), asked[:few]))
    bench.say("shipped model: this device against a CPU, float32", apart.max(), "max difference")
    assert apart.max() <= 1 / 255


def report_half(bench: Bench, what: str, pipeline: Pipeline, asked: list[RenderRequest], compared: int) -> None:
    """Report the PSNR of a batch against its first `compared` items alone, ours and stock diffusers' own."""
    ours = psnr_db(pictures(pipeline, asked)[:compared], alone(pipeline, asked[:compared]))
    stock = psnr_db(
        stock_pictures(pipeline, asked, len(asked))[:compared], stock_pictures(pipeline, asked[:compared], 1)
    )
    about = f"{what}, {pipeline.precision}: batch of {len(asked)} against alone"
    for who, found in (("ours", ours), ("stock diffusers", stock)):
        bench.say(f"{about}, {who}", min(found), "dB", median=round(float(np.median(found)), 2))
    # what the device's own kernels do to stock diffusers is nobody's fault here
    assert min(ours) >= min(AIM_DB, *stock) - 3


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_the_shipped_model_in_half_precision_keeps_its_pictures(bench: Bench, precision: str) -> None:
    pipeline = bench.load(SHIPPED, precision)
    side, count = bench.pick(128, 64), bench.pick(8, 2)
    form = {"width": side, "height": side, "steps": bench.pick(20, 1)}
    report_half(bench, "shipped model", pipeline, requests_of(pipeline, count, mixed=False, **form), count)
    mixed = requests_of(pipeline, count, mixed=True, **form)
    found = psnr_db(pictures(pipeline, mixed), alone(pipeline, mixed))
    bench.say(f"shipped model, {precision}: batch of {count} against alone, mixed guidance", min(found), "dB")
    assert min(found) >= AIM_DB - 3


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_sd15_at_its_full_size_keeps_its_pictures(bench: Bench, sd15: Path, precision: str) -> None:
    pipeline = bench.load(sd15, precision)
    exact = precision == "float32"
    side, steps, few = bench.pick(256 if exact else 512, 64), bench.pick(4 if exact else 10, 1), bench.pick(3, 1)
    asked = requests_of(pipeline, bench.pick(8, 2), mixed=exact, width=side, height=side, steps=steps)
    if exact:
        worst = np.abs(pictures(pipeline, asked)[:few] - alone(pipeline, asked[:few])).max()
        bench.say(f"SD 1.5, random weights: batch of {len(asked)} against alone, float32", worst, "max difference")
        assert worst <= MAX_DIFFERENCE
    else:
        report_half(bench, "SD 1.5, random weights", pipeline, asked, few)
