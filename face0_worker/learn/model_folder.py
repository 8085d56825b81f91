"""A new small model as an ordinary diffusers folder: its parts before training, its files after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from face0_worker.render.clip_words import byte_letters, clip_merges
from face0_worker.render.conditioning import FaceMapper

TEXT_WIDTH = 256
FACE_TOKENS = 3
MERGES = 3000  # of CLIP's 48,894: every text still has tokens, rare words just have more of them

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
UNET = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (96, 160, 160),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": (3, 5, 5),  # diffusers' name for the number of heads
    "norm_num_groups": 32,
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


def new_parts(tokenizer: CLIPTokenizer, face_dimension: int) -> torch.nn.ModuleDict:
    """Return the untrained `unet`, `text_encoder` and `mapper` of a small model."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=3 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return torch.nn.ModuleDict(
        {
            "unet": UNet2DConditionModel(**UNET),
            "text_encoder": CLIPTextModel(text),
            "mapper": FaceMapper(face_dimension, FACE_TOKENS, TEXT_WIDTH),
        }
    )


def write_model(folder: Path, parts: torch.nn.ModuleDict, facts: dict[str, Any]) -> None:
    """Write the trained parts in half precision, the scheduler and `face0/` beside the VAE and tokenizer there."""
    half = {name: part.to(torch.float16) for name, part in parts.items()}
    unet: Any = half["unet"]
    text_encoder: Any = half["text_encoder"]
    unet.save_pretrained(folder / "unet")
    text_encoder.save_pretrained(folder / "text_encoder")
    DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    (folder / "face0").mkdir(exist_ok=True)
    weights = {name: value.contiguous() for name, value in half["mapper"].state_dict().items()}
    save_file(weights, folder / "face0" / "mapper.safetensors")
    (folder / "face0" / "face0.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
