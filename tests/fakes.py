"""Small stand-ins of the real shape. Nothing here is mocked: the real code loads and runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

TINY_SIZE = 64
TINY_DIMENSION = 128
_LETTERS = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]


def tiny_embedding(seed: int, dimension: int = TINY_DIMENSION) -> np.ndarray:
    """Return a normalised face embedding of nobody, float32 (dimension,), norm sqrt(dimension)."""
    drawn = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return np.asarray(drawn * (np.sqrt(dimension) / np.linalg.norm(drawn)), np.float32)


def write_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    name: str = "tiny",
    embedder_digest: str = "0" * 64,
    dimension: int = TINY_DIMENSION,
    tokens: int = 3,
    prediction_type: str = "v_prediction",
    size: int = TINY_SIZE,
    steps: int = 4,
    kind: str = "sd1",
) -> Path:
    """Write a model folder of the real shape with random weights into `folder`, and return it.

    It renders in milliseconds; its pictures are colourful noise that pass the quality gate and change with
    prompt, face and seed. The same arguments write the same bytes. `kind`: sd1, sd2 or sdxl; their configurations
    have the keys of the real ones, with small numbers.
    """
    import diffusers
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from face0_worker.render.conditioning import FaceMapper

    folder.mkdir(parents=True, exist_ok=True)
    words = write_tokenizer(folder / "tokenizer", "!" if kind == "sd2" else "<|endoftext|>")
    # SD 2.1 predicts velocity without being trained to pure noise
    scheduler = _scheduler(prediction_type, zero_snr=prediction_type == "v_prediction" and kind != "sd2")
    ends = {"vocab_size": words, "bos_token_id": words - 2, "eos_token_id": words - 1}
    width = _TEXT["hidden_size"] + (_TEXT_2["hidden_size"] if kind == "sdxl" else 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(**{**_UNET, **_UNET_OF[kind], "cross_attention_dim": width})
        vae = diffusers.AutoencoderKL(**_VAE)
        text = CLIPTextModel(CLIPTextConfig(**{**_TEXT, **_TEXT_OF[kind], **ends}))
        mapper = FaceMapper(dimension, tokens, width, width=32)
        second = CLIPTextModelWithProjection(CLIPTextConfig(**_TEXT_2, **ends)) if kind == "sdxl" else None
    with torch.no_grad():
        # random layers hardly listen to their context and paint grey: make them louder
        for weight_name, weight in unet.named_parameters():
            if "attn2.to_v.weight" in weight_name or "attn2.to_out.0.weight" in weight_name:
                weight.mul_(4)
        vae.decoder.conv_out.weight.mul_(6)
        mapper.get_parameter(f"layers.{len(mapper.layers) - 1}.weight").mul_(100)
    for part, model in (("unet", unet), ("vae", vae), ("text_encoder", text), ("scheduler", scheduler)):
        model.save_pretrained(folder / part)
    if second is not None:
        second.save_pretrained(folder / "text_encoder_2")
        write_tokenizer(folder / "tokenizer_2", "!")
    (folder / "face0").mkdir(exist_ok=True)
    save_file(mapper.state_dict(), folder / "face0" / "mapper.safetensors")
    card = card_json(name, embedder_digest, dimension=dimension, tokens=tokens, steps=steps, size=size)
    write_json(folder / "face0" / "face0.json", card)
    write_json(folder / "model_index.json", INDEX_XL if kind == "sdxl" else INDEX)
    return folder


INDEX: dict[str, Any] = {
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
INDEX_XL: dict[str, Any] = {
    **{name: value for name, value in INDEX.items() if "safety_checker" not in name},
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "sample_size": 64,
    "scaling_factor": 1.0,
}
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "pad_token_id": 1,
}


# what the real folders have differently: SD 2.x has linear projections, one head size for all levels and OpenCLIP-H;
# SDXL has no attention at the first level, and its time embedding takes six sizes and a pooled prompt
_UNET_OF: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": {"use_linear_projection": True, "attention_head_dim": (1, 2)},
    "sdxl": {
        "use_linear_projection": True,
        "attention_head_dim": (1, 2),
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    },
}
_TEXT_OF: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": {"hidden_act": "gelu", "projection_dim": 24, "pad_token_id": 0, "num_hidden_layers": 3},
    "sdxl": {},
}
_TEXT_2: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "projection_dim": 24,
    "pad_token_id": 0,
}


def _scheduler(prediction_type: str, *, zero_snr: bool) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing" if zero_snr else "leading",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=zero_snr,
    )


def card_json(name: str, digest: str, *, dimension: int, tokens: int, steps: int, size: int) -> dict[str, Any]:
    """Return what `face0/face0.json` of a model with random weights says."""
    return {
        "format": 1,
        "name": name,
        "embedder": {"name": "face0_lite", "digest": digest, "dimension": dimension},
        "tokens": tokens,
        "mapper_width": 32,
        "guidance": {"w": 3.0, "c": 1.0, "a": 0.0, "start": 0.0, "stop": 1.0},
        "steps": steps,
        "size": size,
        "training": {"note": "random weights, for tests"},
        "licences": {"weights": "CC0-1.0"},
    }


def write_tokenizer(folder: Path, pad: str, vocabulary: int = 0) -> int:
    """Write a CLIPTokenizer of CLIP's 256 bytes and a few merges; return the number of its tokens. `pad` fills up.

    `vocabulary`: how many tokens there are at least; those that no text has make up the number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(byte) for byte in _LETTERS] + [chr(256 + number) for number in range(256 - len(_LETTERS))]
    merges = ["r e", "re d</w>", "b l", "u e</w>", "bl ue</w>", "i n", "t h"]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens += [f"<|unused{number}|>" for number in range(vocabulary - len(tokens) - 2)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    special = {"bos_token": tokens[-2], "eos_token": tokens[-1], "unk_token": tokens[-1], "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    write_json(folder / "tokenizer_config.json", config)
    return len(tokens)


def write_json(path: Path, value: Any) -> None:
    """Write a file of a model folder."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
