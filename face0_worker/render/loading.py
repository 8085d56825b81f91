"""Load a model: survey it whole first, then component by component, within its own size in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from face0_worker.contract.errors import BadInput, Face0Error, ModelMissing
from face0_worker.render.card import Card as Card
from face0_worker.render.card import parse_card, read_json
from face0_worker.render.clip_words import write_clip_tokenizer
from face0_worker.render.conditioning import FaceMapper
from face0_worker.render.face_adapter import (
    PROJECTION,
    FaceProjection,
    attach,
    attention_weights,
    empty_projection,
    lora_weights,
)
from face0_worker.render.guidance import check_guidance
from face0_worker.render.loras import Changes, add_all, lora_changes
from face0_worker.render.single_file import pad_token, survey_single
from face0_worker.render.single_file_weights import convert_component
from face0_worker.render.survey import Survey, check_fit, needs_face, survey_folder, text_width
from face0_worker.render.tensors import read_tensors
from face0_worker.render.weight_files import Stored

# the names that VAEs of early diffusers folders have
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_TEXT_CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@dataclass(frozen=True)
class Parts:
    """The components of a model on the CPU: UNet and VAE in the precisions asked for, the others in float32.

    LoRAs are in the weights already. SDXL has a second text encoder and tokenizer; `force_zeros_for_empty_prompt` is
    its way to say nothing.
    """

    card: Card
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    mapper: FaceMapper | FaceProjection
    scheduler_config: dict[str, Any]
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    force_zeros_for_empty_prompt: bool = False


def survey_model(place: Path) -> Survey:
    """Survey a model folder or a single safetensors file. Raises: as survey_folder and survey_single."""
    return survey_single(place) if place.is_file() else survey_folder(place)


def read_parts(place: Path, unet_dtype: torch.dtype, vae_dtype: torch.dtype) -> Parts:
    """Load a model folder or file without pickle, without its own code and without a network.

    Raises: ModelMissing: the model or a weight is absent or damaged. BadInput: it holds pickled weights, is of
    another kind, or its components don't fit each other; the message names both.
    """
    survey = survey_model(place)
    card = needs_face(survey)
    check_guidance(card.guidance)
    check_fit(survey)
    # the tokenizers first: they are small, and a misfit shows before minutes of reading
    tokenizers = _tokenizers(survey)
    second = "text_encoder_2" in survey.configs
    return Parts(
        card=card,
        tokenizer=tokenizers["tokenizer"],
        tokenizer_2=tokenizers.get("tokenizer_2"),
        unet=load_component(survey, "unet", unet_dtype, channels_last=True),
        vae=load_component(survey, "vae", vae_dtype, channels_last=True),
        text_encoder=load_component(survey, "text_encoder", torch.float32),
        text_encoder_2=load_component(survey, "text_encoder_2", torch.float32) if second else None,
        mapper=_mapper(survey, card),
        scheduler_config=dict(survey.configs["scheduler"]),
        force_zeros_for_empty_prompt=survey.force_zeros_for_empty_prompt,
    )


def read_card(folder: Path) -> Card:
    """Read `face0/face0.json`. Raises: ModelMissing: absent. BadInput: another format, or a field is wrong."""
    path = folder / "face0" / "face0.json"
    card = parse_card(read_json(path), path)
    check_guidance(card.guidance)
    return card


def load_component(survey: Survey, name: str, dtype: torch.dtype | None, *, channels_last: bool = False) -> Any:
    """Load one component in `dtype` (None: as stored), ready to run; no weight is ever made up.

    `channels_last`: convolutions have their channels last in memory, as the renderer wants them.

    Raises: ModelMissing: a weight is absent or damaged. BadInput: a weight has another shape than the config says.
    """
    what = f"{name} in model {survey.place}"
    if survey.layout is None:
        module, stored = _prepared(survey, name, what)
        changes = _changes(survey, name, module, what)
        _fill(module, stored, dtype, what, channels_last, changes)
    else:
        module = convert_component(survey, name, dtype, what)
    return module.eval().requires_grad_(False)


def check_adapters(survey: Survey) -> None:
    """Raise BadInput or ModelMissing unless every adapter of the model fits it; only headers are read."""
    if survey.card is not None and survey.card.adapter is not None:
        _check_names(*_projection(survey, survey.card), _face_of(survey))
    for name in ("unet", "text_encoder", "text_encoder_2"):
        if name in survey.configs:
            what = f"{name} in model {survey.place}"
            module, stored = _prepared(survey, name, what)
            _check_names(module, stored, what)
            _changes(survey, name, module, what)


def _prepared(survey: Survey, name: str, what: str) -> tuple[Any, dict[str, Stored]]:
    """Return the empty component, a face adapter's attention in it, and the stored tensors that belong into it."""
    module = _empty(survey, name, what)
    stored = _by_name(name, survey.weights[name], module)
    adapter = None if survey.card is None else survey.card.adapter
    if name == "unet" and adapter is not None:
        attach(module, adapter, text_width(survey))
        stored |= attention_weights(module, survey.weights["adapter"], _face_of(survey))
    return module, stored


def _changes(survey: Survey, name: str, module: Any, what: str) -> Changes:
    """Return what LoRAs add to a component: the face adapter's own, and those that the card names."""
    wanted = _shapes(module)
    changes = lora_changes(survey, name, wanted)
    adapter = None if survey.card is None else survey.card.adapter
    if name == "unet" and adapter is not None:
        theirs = lora_weights(module, survey.weights["adapter"], adapter.lora_scale, _face_of(survey), wanted)
        changes = {weight: theirs.get(weight, []) + changes.get(weight, []) for weight in theirs | changes}
    return changes


def _face_of(survey: Survey) -> str:
    return f"the face adapter of model {survey.place}"


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def _empty(survey: Survey, name: str, what: str) -> Any:
    """Build the component by its config without giving its weights any memory."""
    config = dict(survey.configs[name])
    try:
        with init_empty_weights():
            if name in _TEXT_CLASSES:
                return _TEXT_CLASSES[name](CLIPTextConfig(**config))
            kind = UNet2DConditionModel if name == "unet" else AutoencoderKL
            return kind.from_config(config)
    except Exception as error:  # their constructors raise whatever a nonsensical config leads to
        raise BadInput(f"{what}: its config makes no sense ({type(error).__name__}); copy the model again") from error


def _by_name(name: str, stored: Mapping[str, Stored], module: torch.nn.Module) -> dict[str, Stored]:
    """Return the stored tensors by the names that today's libraries give them."""
    if name == "vae":
        old = re.compile(r"(?<=attentions\.\d\.)(query|key|value|proj_attn)(?=\.)")
        return {old.sub(lambda found: _OLD_ATTENTION[found[1]], key): tensor for key, tensor in stored.items()}
    if name == "unet":
        return dict(stored)
    # transformers moves its text models' weights in and out of a `text_model` from version to version; numbered
    # positions, once stored, are computed now
    wraps = any(key.startswith("text_model.") for key in module.state_dict())
    kept = {key: tensor for key, tensor in stored.items() if not key.endswith("position_ids")}
    if wraps == any(key.startswith("text_model.") for key in kept):
        return kept
    outside = ("text_projection.", "text_model.")
    if wraps:
        return {key if key.startswith(outside) else f"text_model.{key}": tensor for key, tensor in kept.items()}
    return {key.removeprefix("text_model."): tensor for key, tensor in kept.items()}


def _fill(
    module: torch.nn.Module,
    stored: Mapping[str, Stored],
    dtype: torch.dtype | None,
    what: str,
    channels_last: bool = False,
    changes: Changes | None = None,
) -> None:
    """Give an empty module its weights, after their names and shapes have all been checked."""
    _check_names(module, stored, what)
    added = {key: partial(add_all, some) for key, some in (changes or {}).items()}
    # `assign` takes the tensors as they are: nothing is held twice
    weights = read_tensors(stored, dtype, what, channels_last=channels_last, added=added)
    module.load_state_dict(dict(weights), assign=True)


def _check_names(module: torch.nn.Module, stored: Mapping[str, Stored], what: str) -> None:
    wanted = _shapes(module)
    for key in sorted(wanted.keys() | stored.keys()):
        if key not in stored:
            raise ModelMissing(f"{what} is not whole: {key} is missing; copy the model again")
        if key not in wanted:
            raise BadInput(f"{what} holds {key}, which its config has no place for: they belong to different models")
        if stored[key].shape != wanted[key]:
            raise BadInput(
                f"{what}: {key} is {stored[key].shape}, its config asks for {wanted[key]}: "
                "they belong to different models"
            )


def _tokenizers(survey: Survey) -> dict[str, Any]:
    loaded: dict[str, Any] = {}
    for name, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        if encoder not in survey.configs:
            continue
        loaded[name] = _tokenizer(survey, name)
        # SDXL's has the same words twice; a misfit names the one that is wrong
        whose = "the second" if name.endswith("_2") else "the"
        words, vocabulary = len(loaded[name]), int(survey.of(encoder, "vocab_size"))
        if words != vocabulary:
            raise BadInput(
                f"model {survey.place} does not fit together: {whose} tokenizer's vocabulary is {words}, "
                f"{whose} text encoder's vocab_size is {vocabulary}"
            )
    return loaded


def _tokenizer(survey: Survey, name: str) -> Any:
    try:
        if survey.layout is None:
            return CLIPTokenizer.from_pretrained(survey.place / name, local_files_only=True)
        with TemporaryDirectory() as folder:
            write_clip_tokenizer(Path(folder), pad=pad_token(survey, name))
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Face0Error:
        raise
    except Exception as error:  # the tokenizer's parser raises bare Exceptions
        raise ModelMissing(
            f"{name} in model {survey.place} can't be loaded ({type(error).__name__}); copy the model again"
        ) from error


def _mapper(survey: Survey, card: Card) -> FaceMapper | FaceProjection:
    if card.adapter is not None:
        projection, stored = _projection(survey, card)
        _fill(projection, stored, torch.float32, _face_of(survey))
        return projection.eval().requires_grad_(False)
    with init_empty_weights():
        mapper = FaceMapper(card.embedder_dim, card.tokens, text_width(survey), card.mapper_width)
    _fill(mapper, survey.weights["mapper"], torch.float32, f"the face mapper of model {survey.place}")
    return mapper.eval().requires_grad_(False)


def _projection(survey: Survey, card: Card) -> tuple[FaceProjection, dict[str, Stored]]:
    """Return the face adapter's empty projection and the stored tensors that belong into it."""
    stored = survey.weights["adapter"]
    mine = {name.removeprefix(PROJECTION): one for name, one in stored.items() if name.startswith(PROJECTION)}
    return empty_projection(card, stored, text_width(survey)), mine
