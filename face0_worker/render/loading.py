"""Read a model folder: a diffusers folder plus `face0/`, checked whole before anything runs on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.contract.job import Guidance
from face0_worker.render.conditioning import FaceMapper
from face0_worker.render.guidance import check_guidance

CARD_FORMAT = 1
# loading one of these can run code that somebody hid in it
PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
COMPONENTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}


@dataclass(frozen=True)
class Card:
    """What `face0/face0.json` says. `size` is the pictures' side in pixels, `tokens` the face's share of the text."""

    name: str
    embedder_digest: str
    embedder_dim: int
    tokens: int
    mapper_width: int
    guidance: Guidance
    steps: int
    size: int


@dataclass(frozen=True)
class Parts:
    """The components of a model folder on the CPU: UNet and VAE in the precisions asked for, the others in float32."""

    card: Card
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    mapper: FaceMapper
    scheduler_config: dict[str, Any]


def read_parts(folder: Path, unet_dtype: torch.dtype, vae_dtype: torch.dtype) -> Parts:
    """Load a model folder without pickle and without a network.

    Raises: ModelMissing: the folder or a weight is absent or damaged. BadInput: it holds pickled weights, is of
    another kind, or its components don't fit each other; the message names both.
    """
    _refuse_other_kinds(folder)
    card = read_card(folder)
    text_encoder = _component(folder, "text_encoder", CLIPTextModel.from_pretrained, torch.float32)
    parts = Parts(
        card=card,
        unet=_component(folder, "unet", UNet2DConditionModel.from_pretrained, unet_dtype),
        vae=_component(folder, "vae", AutoencoderKL.from_pretrained, vae_dtype),
        text_encoder=text_encoder,
        tokenizer=_tokenizer(folder),
        mapper=_mapper(folder, card, int(text_encoder.config.hidden_size)),
        scheduler_config=_json(folder / "scheduler" / "scheduler_config.json"),
    )
    _check_fit(folder, parts)
    return parts


def read_card(folder: Path) -> Card:
    """Read `face0/face0.json`. Raises: ModelMissing: absent. BadInput: another format, or a field is wrong."""
    path = folder / "face0" / "face0.json"
    data = _json(path)
    if data.get("format") != CARD_FORMAT:
        raise BadInput(f"{path} has format {data.get('format')!r}; this worker reads format {CARD_FORMAT}")
    try:
        card = Card(
            name=str(data["name"]),
            embedder_digest=str(data["embedder"]["digest"]),
            embedder_dim=int(data["embedder"]["dimension"]),
            tokens=int(data["tokens"]),
            mapper_width=int(data["mapper_width"]),
            guidance=Guidance(**{name: float(value) for name, value in data["guidance"].items()}),
            steps=int(data["steps"]),
            size=int(data["size"]),
        )
    except KeyError as error:
        raise BadInput(f"{path} lacks {error.args[0]!r}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} has a field of the wrong kind: {error}") from error
    check_guidance(card.guidance)
    return card


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelMissing(f"{path} is missing; a model folder is a diffusers folder with face0/ in it") from error
    except (OSError, ValueError) as error:
        raise ModelMissing(f"{path} can't be read ({type(error).__name__}); copy the model folder again") from error
    if not isinstance(data, dict):
        raise BadInput(f"{path} is not a JSON object")
    return data


def _refuse_other_kinds(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelMissing(f"model folder {folder} does not exist; name one with --model or FACE0_MODEL")
    index = _json(folder / "model_index.json")
    for name, kind in COMPONENTS.items():
        entry = index.get(name)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if found != kind:
            raise BadInput(f"model folder {folder}: {name} is {found}, this worker renders with {kind}")
    pickled = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICKLES)
    if pickled:
        first = pickled[0].relative_to(folder)
        raise BadInput(f"model folder {folder} holds pickled weights ({first}); keep safetensors only and remove it")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bar out of a worker's log while it loads."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _component(folder: Path, name: str, load: Callable[..., Any], dtype: torch.dtype) -> Any:
    """Load one component; a weight that its file lacks would otherwise be made up at random."""
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True, "torch_dtype": dtype}
    try:
        with _quiet():
            model, info = load(folder / name, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelMissing(
            f"{name} in model folder {folder} can't be loaded ({type(error).__name__}); copy the folder again"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        which = missing[0] if missing else "a weight of another shape"
        raise ModelMissing(f"{name} in model folder {folder} is not whole: {which}; copy the folder again")
    return model.eval().requires_grad_(False)


def _tokenizer(folder: Path) -> Any:
    try:
        return CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:  # the tokenizer's parser raises bare Exceptions
        raise ModelMissing(
            f"tokenizer in model folder {folder} can't be loaded ({type(error).__name__}); copy the folder again"
        ) from error


def _mapper(folder: Path, card: Card, text_width: int) -> FaceMapper:
    path = folder / "face0" / "mapper.safetensors"
    try:
        weights = safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise ModelMissing(f"{path} is missing; a model folder carries its face mapper there") from error
    except (OSError, SafetensorError) as error:
        raise ModelMissing(f"{path} can't be read ({type(error).__name__}); copy the model folder again") from error
    mapper = FaceMapper(card.embedder_dim, card.tokens, text_width, card.mapper_width)
    wanted = {name: tuple(value.shape) for name, value in mapper.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != found:
        name = min(name for name in wanted | found if wanted.get(name) != found.get(name))
        raise BadInput(
            f"the face mapper {path} does not fit face0.json and the text encoder ({text_width} wide): "
            f"{name} is {found.get(name)}, {wanted.get(name)} needed"
        )
    mapper.load_state_dict({name: value.float() for name, value in weights.items()})
    return mapper.eval().requires_grad_(False)


def _check_fit(folder: Path, parts: Parts) -> None:
    unet, text = parts.unet.config, parts.text_encoder.config
    factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    pairs = (
        ("the UNet's cross_attention_dim", unet.cross_attention_dim, "the text encoder's width", text.hidden_size),
        ("the UNet's in_channels", unet.in_channels, "the VAE's latent_channels", parts.vae.config.latent_channels),
        ("the UNet's out_channels", unet.out_channels, "the VAE's latent_channels", parts.vae.config.latent_channels),
        ("the tokenizer's vocabulary", len(parts.tokenizer), "the text encoder's vocab_size", text.vocab_size),
        ("face0.json's size", parts.card.size % factor, f"a multiple of the VAE's {factor} px, leaving", 0),
    )
    for one, left, other, right in pairs:
        if left != right:
            raise BadInput(f"model folder {folder} does not fit together: {one} is {left}, {other} is {right}")
    # the start and end token need a place beside the face
    if not 0 <= parts.card.tokens <= text.max_position_embeddings - 2:
        raise BadInput(
            f"model folder {folder} does not fit together: face0.json has {parts.card.tokens} face tokens, "
            f"the text encoder {text.max_position_embeddings} positions"
        )
    if parts.scheduler_config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise BadInput(
            f"model folder {folder}: prediction_type {parts.scheduler_config['prediction_type']!r} is not supported; "
            "epsilon and v_prediction are"
        )
