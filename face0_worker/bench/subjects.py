"""What is measured: the shipped model, and random weights of the shapes that people have. No file is written."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from face0_worker.contract.job import Guidance
from face0_worker.models import LAYOUTS, SHIPPED
from face0_worker.render.card import Card
from face0_worker.render.conditioning import FaceMapper
from face0_worker.render.loading import Parts, read_parts
from face0_worker.render.pipeline import DECODE_PRECISIONS, PRECISIONS, Pipeline

# the same strength for both sides: photographs, two evaluations a step
W = 5.0
# of a random model: as a real one would be told, but by no pack in particular
_EMBEDDING, _TOKENS = 512, 3


@dataclass(frozen=True)
class Shape:
    """A kind of model to make of random numbers: its layout, and the pictures' side in pixels.

    `but[component]` is what the component's config has otherwise than the layout's.
    """

    name: str
    layout: str
    size: int
    but: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SD15 = Shape("SD 1.5 shape", "sd15", 512)
SDXL = Shape("SDXL shape", "sdxl", 1024)
# for a rehearsal: every line that the others run, in milliseconds
_TEXT = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VAE = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
SMALL = Shape(
    "small SD 1.5 shape",
    "sd15",
    128,
    {
        "unet": {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "cross_attention_dim": 64},
        "vae": _VAE,
        "text_encoder": _TEXT,
    },
)
SMALL_XL = Shape(
    "small SDXL shape",
    "sdxl",
    64,
    {
        "unet": {
            "block_out_channels": [32, 32, 32],
            "layers_per_block": 1,
            "attention_head_dim": 2,
            "transformer_layers_per_block": 1,
            "cross_attention_dim": 128,
            "projection_class_embeddings_input_dim": 6 * 256 + 64,
        },
        "vae": _VAE,
        "text_encoder": _TEXT,
        "text_encoder_2": {**_TEXT, "projection_dim": 64},
    },
)


@dataclass(frozen=True)
class Subject:
    """One model, loaded once and used by both sides: this engine's pipeline and diffusers' hold the same UNet."""

    name: str
    pipeline: Pipeline
    stock: Any
    size: int


def shipped(device: torch.device, precision: str) -> Subject:
    """Return the model that ships with the product."""
    parts = read_parts(SHIPPED, PRECISIONS[precision], DECODE_PRECISIONS[precision])
    return _subject("shipped model", parts, parts.card.size, device, precision)


def random_model(shape: Shape, device: torch.device, precision: str) -> Subject:
    """Return a model of this shape with random weights, made on the device. Its words are the shipped model's."""
    places = [place for place in (LAYOUTS / shape.layout).iterdir() if place.is_dir()]
    configs = {place.name: {**_config(place), **shape.but.get(place.name, {})} for place in places}
    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer", local_files_only=True)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    second = "text_encoder_2" in configs
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
        text = CLIPTextModel(CLIPTextConfig(**{**configs["text_encoder"], **ends}))
        text_2 = (
            CLIPTextModelWithProjection(CLIPTextConfig(**{**configs["text_encoder_2"], **ends})) if second else None
        )
        mapper = FaceMapper(_EMBEDDING, _TOKENS, int(unet.config.cross_attention_dim))
    modules = [module for module in (unet, vae, text, text_2, mapper) if module is not None]
    for module in modules:
        module.eval().requires_grad_(False)
    parts = Parts(
        card=Card(shape.name, "0" * 64, _EMBEDDING, _TOKENS, 768, Guidance(w=W), 20, shape.size),
        unet=unet.to(PRECISIONS[precision]),
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        mapper=mapper,
        scheduler_config=configs["scheduler"],
        text_encoder_2=text_2,
        tokenizer_2=tokenizer if second else None,
        force_zeros_for_empty_prompt=second,
    )
    return _subject(shape.name, parts, shape.size, device, precision)


def _config(place: Path) -> dict[str, Any]:
    file = place / ("scheduler_config.json" if place.name == "scheduler" else "config.json")
    return dict(json.loads(file.read_text("utf-8")))


def _subject(name: str, parts: Parts, size: int, device: torch.device, precision: str) -> Subject:
    pipeline = Pipeline(parts, digest="", device=device, precision=precision)
    return Subject(name, pipeline, _stock(pipeline, parts, PRECISIONS[precision]), size)


def _stock(pipeline: Pipeline, parts: Parts, dtype: torch.dtype) -> Any:
    """Return diffusers' own pipeline around the same UNet; the small parts in one precision, as its users have them."""
    own = {name: copy.deepcopy(getattr(parts, name)).to(pipeline.device, dtype) for name in ("vae", "text_encoder")}
    told: dict[str, Any] = {
        **own,
        "unet": pipeline.unet,
        "tokenizer": parts.tokenizer,
        "scheduler": DDIMScheduler.from_config(parts.scheduler_config, clip_sample=False, steps_offset=1),
    }
    if parts.text_encoder_2 is not None:
        second = copy.deepcopy(parts.text_encoder_2).to(pipeline.device, dtype)
        told |= {"text_encoder_2": second, "tokenizer_2": parts.tokenizer_2}
        stock = StableDiffusionXLPipeline(**told, add_watermarker=False)
    else:
        nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        stock = StableDiffusionPipeline(**told, **nothing)
    stock.set_progress_bar_config(disable=True)
    return stock
