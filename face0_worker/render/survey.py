"""What a model is, from its JSON files and headers: read and checked whole before any weight is loaded. No torch.

A model is a diffusers folder with `face0/` in it, or one safetensors file in the original layout (see single_file)
with a folder `NAME.face0/` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.render.card import Card, parse_card, read_json
from face0_worker.render.sampler_rules import check_sampler
from face0_worker.render.weight_files import Header, Stored, check_contents, find_weights, read_header

SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_SD_CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}
CLASSES: Mapping[str, Mapping[str, str]] = {
    SD: _SD_CLASSES,
    SDXL: {**_SD_CLASSES, "text_encoder_2": "CLIPTextModelWithProjection", "tokenizer_2": "CLIPTokenizer"},
}
# a face is rendered without them; what they would do is done elsewhere or not wanted
_IGNORED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
_LIBRARIES = {
    "unet": "diffusers",
    "vae": "diffusers",
    "scheduler": "diffusers",
    "text_encoder": "transformers",
    "text_encoder_2": "transformers",
    "tokenizer": "transformers",
    "tokenizer_2": "transformers",
}
# what diffusers and transformers take where a config says nothing
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "unet": {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 1280, "addition_embed_type": None},
    "vae": {"latent_channels": 4, "block_out_channels": [64]},
    "text_encoder": {"hidden_size": 512, "max_position_embeddings": 77, "vocab_size": 49408, "projection_dim": 512},
}
PREDICTIONS = ("epsilon", "v_prediction")
# the files of `face0/` beside the card
MAPPER, ADAPTER, LORAS = "mapper.safetensors", "ip_adapter.safetensors", "loras"


@dataclass(frozen=True)
class Lora:
    """A LoRA of a model by its header, and how much of it is added to the weights."""

    file: Path
    header: Header
    scale: float


@dataclass(frozen=True)
class Face:
    """What `face0/` holds: the card, its JSON, the stored tensors of mapper or adapter, and the LoRAs."""

    card: Card | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, Stored]] = field(default_factory=lambda: {"mapper": {}})
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True)
class Survey:
    """A model before it is loaded: the configs and stored tensors of each component, and its card.

    `weights["mapper"]` are the face mapper's, `weights["adapter"]` those of an IP-Adapter in its place. `layout` is
    empty for a folder; for a single file it is the folder of configs that it was matched with. `notes`: sentences on
    what is there and not used.
    """

    place: Path
    kind: str
    configs: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Mapping[str, Stored]]
    card: Card | None
    card_data: Mapping[str, Any] = field(default_factory=dict)
    layout: Path | None = None
    notes: tuple[str, ...] = ()
    # SDXL's way to say nothing; true is what diffusers takes where a model is silent
    force_zeros_for_empty_prompt: bool = False
    loras: tuple[Lora, ...] = ()

    def of(self, component: str, name: str) -> Any:
        """Return one value of a component's config, or what its library takes where the config is silent."""
        default = _DEFAULTS.get(component.removesuffix("_2"), {}).get(name)
        return self.configs[component].get(name, default)


def survey_folder(folder: Path) -> Survey:
    """Survey a diffusers folder. One without `face0/` has no card; see `needs_face`.

    Raises: ModelMissing: the folder, a file or a part of one is absent or damaged. BadInput: pickles, program code,
    links out of the folder, or another kind of model.
    """
    if not folder.is_dir():
        raise ModelMissing(f"model folder {folder} does not exist; name one with --model or FACE0_MODEL")
    check_contents(folder)
    index = read_json(folder / "model_index.json")
    kind, notes = _check_index(folder, index)
    classes = CLASSES[kind]
    configs = {name: read_config(folder / name / "config.json", classes[name]) for name in _WEIGHTS if name in classes}
    configs["scheduler"] = read_config(folder / "scheduler" / "scheduler_config.json", None)
    for name in ("tokenizer", "tokenizer_2"):
        if name in classes and (folder / name / "tokenizer_config.json").is_file():
            read_config(folder / name / "tokenizer_config.json", None)
    weights = {name: find_weights(folder / name, stem) for name, stem in _WEIGHTS.items() if name in classes}
    face = read_face(folder / "face0")
    zeros = kind == SDXL and bool(index.get("force_zeros_for_empty_prompt", True))
    every = {**weights, **face.weights}
    survey = Survey(folder, kind, configs, every, face.card, face.data, notes=notes, loras=face.loras)
    return replace(survey, force_zeros_for_empty_prompt=zeros)


def read_face(folder: Path) -> Face:
    """Read `face0/`; all is empty when there is no such folder.

    Raises: ModelMissing: a file of it is absent or damaged. BadInput: the card makes no sense.
    """
    if not folder.is_dir():
        return Face()
    data = read_json(folder / "face0.json")
    _refuse_code(folder / "face0.json", data)
    card = parse_card(data, folder / "face0.json")
    name, file = ("mapper", MAPPER) if card.adapter is None else ("adapter", ADAPTER)
    loras = [Lora(folder / LORAS / one.file, read_header(folder / LORAS / one.file), one.scale) for one in card.loras]
    return Face(card, data, {name: dict(read_header(folder / file).tensors)}, tuple(loras))


def needs_face(survey: Survey) -> Card:
    """Return the card. Raises: ModelMissing: this is a plain Stable Diffusion model."""
    if survey.card is None:
        raise ModelMissing(
            f"model {survey.place} has no face mapper (face0/ is missing): a plain Stable Diffusion model can't be "
            "told whose face to paint. A mapper has to be trained for it; `face0-worker model import` then joins both"
        )
    return survey.card


def _check_index(folder: Path, index: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return which pipeline it is, and notes on what is there and not used."""
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in CLASSES:
        raise BadInput(
            f"model folder {folder} is a {kind!r}; this worker renders {SD} and {SDXL}, and runs no model's own code"
        )
    notes = []
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list):
            continue
        if name in _IGNORED:
            if entry != [None, None]:
                notes.append(f"{name} is there and is not used")
        elif name not in _LIBRARIES or (name.endswith("_2") and kind == SD and entry != [None, None]):
            raise BadInput(f"model folder {folder}: {name} is a component that this worker does not know; remove it")
        elif entry != [None, None] and entry[:1] != [_LIBRARIES[name]]:
            raise BadInput(
                f"model folder {folder}: {name} comes from {entry[0]!r}, not from {_LIBRARIES[name]}; "
                "a model's own code is never run here"
            )
    for name, wanted in CLASSES[kind].items():
        entry = index.get(name)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if found != wanted:
            raise BadInput(f"model folder {folder}: {name} is {found}, this worker renders with {wanted}")
    return kind, tuple(notes)


def read_config(path: Path, wanted: str | None) -> dict[str, Any]:
    """Read a component's config. Raises: ModelMissing: absent. BadInput: not of the `wanted` class, or it has code."""
    config = read_json(path)
    _refuse_code(path, config)
    built = config.get("architectures")
    named = config.get("_class_name") or (built[0] if isinstance(built, list) and built else built)
    if wanted is not None and named not in (wanted, None):
        raise BadInput(f"{path} describes {named!r}; {wanted} is needed")
    return config


def _refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    for name in ("auto_map", "trust_remote_code", "custom_pipelines"):
        if config.get(name):
            raise BadInput(f"{path} asks for code of its own ({name}); a model's own code is never run here: remove it")


def text_width(survey: Survey) -> int:
    """Return the width of the text tokens that the UNet sees: of SDXL, both encoders' side by side."""
    return sum(int(survey.of(name, "hidden_size")) for name in survey.configs if name.startswith("text_encoder"))


def latent_factor(survey: Survey) -> int:
    """Return how many pixels one latent stands for, along each side."""
    return int(2 ** (len(survey.of("vae", "block_out_channels")) - 1))


def check_fit(survey: Survey) -> None:
    """Raise BadInput when two components don't fit each other; the message names both with their numbers."""
    try:
        pairs = list(_pairs(survey))
        positions = int(survey.of("text_encoder", "max_position_embeddings"))
    except (TypeError, ValueError) as error:
        raise BadInput(f"model {survey.place}: a config makes no sense ({error}); copy the model again") from error
    for one, left, other, right in pairs:
        if left != right:
            raise BadInput(f"model {survey.place} does not fit together: {one} is {left}, {other} is {right}")
    # the start and end token need a place beside the face
    if survey.card is not None and survey.card.tokens > positions - 2:
        raise BadInput(
            f"model {survey.place} does not fit together: face0.json has {survey.card.tokens} face tokens, "
            f"the text encoder {positions} positions"
        )
    prediction = survey.configs["scheduler"].get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise BadInput(
            f"model {survey.place}: prediction_type {prediction!r} is not supported; {' and '.join(PREDICTIONS)} are"
        )
    if survey.card is not None:
        try:
            check_sampler(survey.configs["scheduler"], survey.card.sampler, survey.card.steps)
        except BadInput as error:
            raise BadInput(
                f"model {survey.place}: what face0.json says where a list says nothing can't be made: {error}"
            ) from error
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"model {survey.place}: the scheduler's config makes no sense ({error}); copy the model again"
            ) from error


def _pairs(survey: Survey) -> Iterator[tuple[str, object, str, object]]:
    """Yield what has to be equal: (name, value, name, value)."""
    widths = [int(survey.of(name, "hidden_size")) for name in survey.configs if name.startswith("text_encoder")]
    encoders = "the text encoder's width" if len(widths) == 1 else f"the text encoders' width {widths[0]} + {widths[1]}"
    channels = survey.of("vae", "latent_channels")
    yield "the UNet's cross_attention_dim", survey.of("unet", "cross_attention_dim"), encoders, sum(widths)
    yield "the UNet's in_channels", survey.of("unet", "in_channels"), "the VAE's latent_channels", channels
    yield "the UNet's out_channels", survey.of("unet", "out_channels"), "the VAE's latent_channels", channels
    # a UNet distilled with the guidance as an input would silently run without it
    distilled = survey.of("unet", "time_cond_proj_dim")
    yield "the UNet's time_cond_proj_dim", distilled, "what this worker can feed", None
    added = ("the UNet's addition_embed_type", survey.of("unet", "addition_embed_type"))
    if survey.kind == SDXL:
        yield *added, "what a model of two text encoders needs", "text_time"
        yield from _second_pairs(survey)
    else:
        yield *added, "what a model of one text encoder needs", None
    if survey.card is not None:
        pairs = _mapper_pairs if survey.card.adapter is None else _adapter_pairs
        yield from pairs(survey, survey.card)
        factor = latent_factor(survey)
        yield "face0.json's size", survey.card.size % factor, f"a multiple of the VAE's {factor} px, leaving", 0


def _second_pairs(survey: Survey) -> Iterator[tuple[str, object, str, object]]:
    first, second = (survey.of(name, "max_position_embeddings") for name in ("text_encoder", "text_encoder_2"))
    yield "the text encoder's max_position_embeddings", first, "the second text encoder's", second
    pooled = int(survey.of("text_encoder_2", "projection_dim"))
    # original size, crop and target size, two numbers each, every one as a wave of that width
    wave = int(survey.of("unet", "addition_time_embed_dim") or 0)
    takes = survey.of("unet", "projection_class_embeddings_input_dim")
    gives = f"6 sizes of {wave} and the second text encoder's projection of {pooled}, together"
    yield "the UNet's projection_class_embeddings_input_dim", takes, gives, 6 * wave + pooled


def _adapter_pairs(survey: Survey, card: Card) -> Iterator[tuple[str, object, str, object]]:
    width, adapter = text_width(survey), "the face adapter"
    tokens = 0 if card.adapter is None else card.adapter.tokens
    shapes = {name: tensor.shape for name, tensor in survey.weights["adapter"].items()}
    first, last = (shapes.get(f"image_proj.proj.{layer}.weight", ()) for layer in (0, 2))
    if len(first) == len(last) == 2:
        yield f"{adapter}'s input", first[1], "face0.json's embedder dimension", card.embedder_dim
        yield f"{adapter}'s output", last[0], f"{tokens} face tokens by the text's width {width}", tokens * width
    yield f"{adapter}'s norm", shapes.get("image_proj.norm.weight"), "the text's width", (width,)


def _mapper_pairs(survey: Survey, card: Card) -> Iterator[tuple[str, object, str, object]]:
    width = text_width(survey)
    shapes = {name: tensor.shape for name, tensor in survey.weights["mapper"].items()}
    first, last = shapes.get("layers.0.weight", ()), shapes.get("layers.3.weight", ())
    if len(first) == len(last) == 2:
        yield "the face mapper's input", first[1], "face0.json's embedder dimension", card.embedder_dim
        gives = f"{card.tokens} face tokens by the text's width {width}"
        yield "the face mapper's output", last[0], gives, card.tokens * width
    sizes = (card.embedder_dim, card.mapper_width, card.mapper_width, card.mapper_width, card.tokens * width)
    wanted: dict[str, tuple[int, ...]] = {f"layers.{n}.weight": (sizes[n + 1], sizes[n]) for n in range(4)}
    wanted.update({f"layers.{n}.bias": (sizes[n + 1],) for n in range(4)})
    mapper = f"the face mapper for the text encoder ({width} wide)"
    for name in sorted(wanted | shapes):
        yield f"{mapper}: {name}", shapes.get(name), "by face0.json it", wanted.get(name)
