"""A new small model as an ordinary diffusers folder: its parts before training, its files after."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from face0_worker.contract.errors import BadInput
from face0_worker.learn.straight_mapper import straighten
from face0_worker.render.clip_words import byte_letters, clip_merges
from face0_worker.render.conditioning import FaceMapper

FACE_TOKENS = 3
MERGES = 3000  # of CLIP's 48,894: every text still has tokens, rare words just have more of them


@dataclass(frozen=True)
class Shape:
    """How large a model is. `size` is the pictures' side in pixels; the VAE makes them eight times smaller.

    `vae` and `unet` are channels from the outside in, `text_width` is that of the context, a multiple of 64;
    `groups` divides every channel of the UNet, `vae_groups` those of the VAE.
    """

    size: int = 256
    vae: tuple[int, int, int, int] = (32, 48, 96, 96)
    latents: int = 8
    unet: tuple[int, int, int] = (96, 160, 192)
    text_width: int = 256
    text_layers: int = 2
    mapper_width: int = 512
    groups: int = 32
    vae_groups: int = 8


SMALL = Shape()
# for tests: every part is real and none is good
TOY = Shape(64, (8, 8, 16, 16), 8, (32, 32, 32), 64, 1, 64, 8, 4)

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    # pure noise at the last step, so that plain black and white backgrounds can be reached
    # (Lin et al. 2023, arXiv 2305.08891)
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
}


def vae_config(shape: Shape) -> dict[str, Any]:
    """Return the VAE's config; purely convolutional, so that pictures of any size decode alike."""
    return {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": shape.vae,
        "layers_per_block": 1,
        "latent_channels": shape.latents,
        "norm_num_groups": shape.vae_groups,
        "mid_block_add_attention": False,
        "sample_size": shape.size,
    }


def unet_config(shape: Shape) -> dict[str, Any]:
    """Return the UNet's config: attention at the lower two of three levels, heads of 32."""
    return {
        "sample_size": shape.size // 8,
        "in_channels": shape.latents,
        "out_channels": shape.latents,
        "block_out_channels": shape.unet,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": shape.text_width,
        "attention_head_dim": tuple(channels // 32 for channels in shape.unet),  # diffusers' name for the number
        "norm_num_groups": shape.groups,
        "use_linear_projection": True,
    }


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a CLIPTokenizer of CLIP's bytes and first merges into `folder` and return it.

    Raises: ModelMissing: open-clip-torch, which carries CLIP's merges (MIT), is not installed.
    """
    merges, letters = clip_merges()[:MERGES], byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = folder / "vocab.json"
    vocab.write_text(json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer(str(vocab), str(folder / "merges.txt"), model_max_length=77)
    tokenizer.save_pretrained(folder)
    return tokenizer


def complete_tokenizer(folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` beside a `tokenizer.json` that stands alone: older transformers want them.

    Raises: BadInput: there is neither.
    """
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return
    try:
        model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        vocabulary = json.dumps(model["vocab"], ensure_ascii=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder} holds no CLIP tokenizer ({type(error).__name__}); copy the model again") from error
    (folder / "vocab.json").write_text(vocabulary, encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def read_tokenizer(folder: Path, start: Path | None = None) -> CLIPTokenizer:
    """Return the tokenizer in `folder`, made there first: that of the model folder `start`, or a new one.

    Raises: ModelMissing: as write_tokenizer.
    """
    if not folder.is_dir():
        fresh = folder.with_name(folder.name + ".new")  # whole or not at all: half of one would be another one
        shutil.rmtree(fresh, ignore_errors=True)
        if start is None:
            write_tokenizer(fresh)
        else:
            shutil.copytree(start / "tokenizer", fresh)
        fresh.replace(folder)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def check_start(folder: Path) -> None:
    """Raise BadInput when `folder` is not a model that a training can go on from."""
    needed = ("face0/face0.json", "face0/mapper.safetensors", "unet", "text_encoder", "tokenizer", "vae")
    absent = [name for name in needed if not (folder / name).exists()]
    if absent:
        raise BadInput(f"{folder} can't be gone on from: it has no {', no '.join(absent)}")


def load_parts(folder: Path, parts: torch.nn.ModuleDict, mapper: bool = True) -> None:
    """Give `parts` the weights of a model folder that `write_model` wrote; without `mapper`, all but the mapper's.

    Raises: BadInput: the folder is of another shape, or is not one.
    """
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True)
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)
        parts["unet"].load_state_dict(unet.state_dict())
        parts["text_encoder"].load_state_dict(text_encoder.state_dict())
        if mapper:
            parts["mapper"].load_state_dict(load_file(folder / "face0" / "mapper.safetensors"))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise BadInput(
            f"{folder} can't be trained on: it is not a model of this shape ({type(error).__name__})"
        ) from error


def new_parts(tokenizer: CLIPTokenizer, face_dimension: int, shape: Shape = SMALL) -> torch.nn.ModuleDict:
    """Return the untrained `unet`, `text_encoder` and `mapper` of a small model."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.text_width,
        intermediate_size=3 * shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_width // 64,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return torch.nn.ModuleDict(
        {
            "unet": UNet2DConditionModel(**unet_config(shape)),
            "text_encoder": CLIPTextModel(text),
            "mapper": straighten(FaceMapper(face_dimension, FACE_TOKENS, shape.text_width, shape.mapper_width)),
        }
    )


def write_model(folder: Path, parts: torch.nn.ModuleDict, facts: dict[str, Any]) -> None:
    """Write the trained parts in half precision, the scheduler and `face0/` beside the VAE and tokenizer there.

    The parts themselves stay as they are.
    """
    for name in ("unet", "text_encoder"):
        half: Any = copy.deepcopy(parts[name]).cpu().half()
        half.save_pretrained(folder / name)
    DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    write_face(folder, parts["mapper"], facts, torch.float16)
    write_index(folder, "DDIMScheduler")


def write_face(folder: Path, mapper: torch.nn.Module, facts: dict[str, Any], dtype: torch.dtype) -> None:
    """Write `face0/`: the mapper in `dtype` and the card."""
    (folder / "face0").mkdir(exist_ok=True)
    weights = {name: value.to("cpu", dtype).contiguous() for name, value in mapper.state_dict().items()}
    save_file(weights, folder / "face0" / "mapper.safetensors")
    (folder / "face0" / "face0.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def write_index(folder: Path, scheduler: str) -> None:
    """Write `model_index.json` of a Stable Diffusion folder with this class of scheduler."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Lend an empty folder that then takes the place of `out`, whole or not at all; the one before stays until then.

    A run that was killed between the two renames leaves the one before as `out`.old; the next call puts it back first.
    """
    fresh, old = out.with_name(out.name + ".new"), out.with_name(out.name + ".old")
    if old.exists() and not out.exists():
        old.replace(out)
    for stale in (fresh, old):
        shutil.rmtree(stale, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    if out.exists():
        out.replace(old)
    fresh.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def check_place(out: Path) -> None:
    """Raise BadInput when `out` holds something else than a model: it is replaced as a whole."""
    if out.exists() and not (out / "face0" / "face0.json").is_file():
        raise BadInput(f"{out} is there already and is not a model of face0; name another --out")
