"""Model folders of the public families' full size, with random weights: what no package carries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from face0_worker.models import LAYOUTS
from face0_worker.render.conditioning import FaceMapper
from tests.fakes import INDEX, INDEX_XL, card_json, write_json, write_tokenizer

# a picture of random layers is grey and hardly listens to what it is told: these are made louder
_LOUD = {"attn2.to_v.weight": 4.0, "attn2.to_out.0.weight": 4.0, "decoder.conv_out.weight": 6.0}


def write_full_model(
    folder: Path,
    layout: str,
    *,
    dtype: torch.dtype = torch.float16,
    device: str = "cpu",
    divide: int = 1,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a model folder by the real configuration `layout` (sd15, sd21, sdxl) into `folder`, and return it.

    The weights are random, drawn on `device` and stored in `dtype`. `divide` makes channels and widths that many times
    smaller and leaves the rest of the configuration as it is; `changes` are values of components' configs. The
    vocabulary has CLIP's size and no words; a face is 512-d, 4 tokens.
    """
    import diffusers
    from safetensors.torch import save_file

    configs = {path.parent.name: json.loads(path.read_text("utf-8")) for path in (LAYOUTS / layout).glob("*/*.json")}
    two = "text_encoder_2" in configs
    for name, config in configs.items():
        _shrink(config, divide)
        config.update((changes or {}).get(name, {}))
    if two:
        unet, second = configs["unet"], configs["text_encoder_2"]
        unet["projection_class_embeddings_input_dim"] = 6 * unet["addition_time_embed_dim"] + second["projection_dim"]
    width = sum(configs[name]["hidden_size"] for name in configs if name.startswith("text_encoder"))
    usual = torch.get_default_dtype()
    torch.manual_seed(0)
    for name in sorted(configs.keys() - {"scheduler"}):
        # drawn in the stored precision: SDXL's UNet takes 10 GB in float32
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                part = _new_part(name, configs[name])
        finally:
            torch.set_default_dtype(usual)
        with torch.no_grad():
            for key, weight in part.named_parameters():
                weight.mul_(next((loud for end, loud in _LOUD.items() if key.endswith(end)), 1.0))
        part.save_pretrained(folder / name)
        del part
    diffusers.DDIMScheduler.from_config(configs["scheduler"]).save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer", "<|endoftext|>", configs["text_encoder"]["vocab_size"])
    if two:
        write_tokenizer(folder / "tokenizer_2", "!", configs["text_encoder_2"]["vocab_size"])
    mapper = FaceMapper(512, 4, width)
    with torch.no_grad():
        mapper.get_parameter("layers.3.weight").mul_(100)
    (folder / "face0").mkdir(exist_ok=True)
    save_file(mapper.to(dtype).state_dict(), folder / "face0" / "mapper.safetensors")
    card = card_json(layout, "0" * 64, dimension=512, tokens=4, steps=20, size=1024 if two else 512)
    write_json(folder / "face0" / "face0.json", {**card, "mapper_width": 768})
    write_json(folder / "model_index.json", INDEX_XL if two else INDEX)
    return folder


def _new_part(name: str, config: dict[str, Any]) -> Any:
    """Return a component with random weights."""
    import diffusers
    import transformers

    if name == "unet":
        return diffusers.UNet2DConditionModel.from_config(config)
    if name == "vae":
        return diffusers.AutoencoderKL.from_config(config)
    kind = transformers.CLIPTextModelWithProjection if name == "text_encoder_2" else transformers.CLIPTextModel
    return kind(transformers.CLIPTextConfig(**config))


def _shrink(config: dict[str, Any], divide: int) -> None:
    """Divide a config's channels and widths in place."""
    for name in ("block_out_channels", "norm_num_groups", "hidden_size", "intermediate_size", "cross_attention_dim",
                 "addition_time_embed_dim", "projection_dim"):  # fmt: skip
        if name in config:
            value = config[name]
            config[name] = [one // divide for one in value] if isinstance(value, list) else max(1, value // divide)
