"""Small models in the original Stable Diffusion layout: the names diffusers' folders had before they were folders."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def with_clip_words(folder: Path) -> Path:
    """Give a tiny model folder CLIP's whole vocabulary, as a single file always has, and return the folder."""
    from face0_worker.render.clip_words import write_clip_tokenizer

    for encoder, tokenizer in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
        config = folder / encoder / "config.json"
        if not config.is_file():
            continue
        said = json.loads(config.read_text())
        pad = "!" if said["pad_token_id"] == 0 else "<|endoftext|>"
        shutil.rmtree(folder / tokenizer)
        write_clip_tokenizer(folder / tokenizer, pad=pad)
        weights = load_file(folder / encoder / "model.safetensors")
        name = next(name for name in weights if name.endswith("token_embedding.weight"))
        drawn = torch.Generator().manual_seed(5)
        weights[name] = torch.randn((49408, weights[name].shape[1]), generator=drawn) / 16
        save_file(weights, folder / encoder / "model.safetensors", metadata={"format": "pt"})
        config.write_text(json.dumps({**said, "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}))
    return folder


def write_single_file(folder: Path, file: Path) -> Path:
    """Write a diffusers model folder as one file in the original layout, its `face0/` beside it, and return the file.

    The configs go to the sidecar's `layout/`, because the layouts that ship are of the full size.
    """
    weights = {f"model.diffusion_model.{name}": value for name, value in _unet(folder).items()}
    weights |= {f"first_stage_model.{name}": value for name, value in _vae(folder).items()}
    text = load_file(folder / "text_encoder" / "model.safetensors")
    text = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}
    if (folder / "text_encoder_2").is_dir():
        weights |= {f"conditioner.embedders.0.transformer.{name}": value for name, value in text.items()}
        second = load_file(folder / "text_encoder_2" / "model.safetensors")
        weights |= {f"conditioner.embedders.1.model.{name}": value for name, value in _open_clip(second).items()}
    elif json.loads((folder / "text_encoder" / "config.json").read_text())["hidden_act"] == "gelu":
        weights |= {f"cond_stage_model.model.{name}": value for name, value in _open_clip(text).items()}
    else:
        weights |= {f"cond_stage_model.transformer.{name}": value for name, value in text.items()}
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, file)
    beside = file.with_suffix(".face0")
    shutil.copytree(folder / "face0", beside)
    for config in folder.glob("*/*config.json"):
        if config.name != "tokenizer_config.json":
            (beside / "layout" / config.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(config, beside / "layout" / config.parent.name / config.name)
    return file


def _unet(folder: Path) -> dict[str, Tensor]:
    config = json.loads((folder / "unet" / "config.json").read_text())
    levels, layers = len(config["block_out_channels"]), int(config["layers_per_block"])
    attends = [kind.startswith("CrossAttn") for kind in config["up_block_types"]]

    def rename(name: str) -> str:
        for new, old in _ENDS.items():
            if name.startswith(f"{new}."):
                return old + name.removeprefix(new)
        if name.startswith("mid_block."):
            kind, number, rest = re.fullmatch(r"mid_block\.(\w+)\.(\d)\.(.+)", name).groups()  # type: ignore[union-attr]
            place = "middle_block.1" if kind == "attentions" else f"middle_block.{2 * int(number)}"
            return f"{place}.{_resnet(rest) if kind == 'resnets' else rest}"
        found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
        assert found is not None, name
        way, level, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        if way == "down":
            block = f"input_blocks.{1 + level * (layers + 1) + (layers if kind == 'downsamplers' else layer)}"
            end = rest.replace("conv.", "0.op.") if kind == "downsamplers" else rest
        else:
            block = f"output_blocks.{level * (layers + 1) + (layers if kind == 'upsamplers' else layer)}"
            end = f"{2 if attends[level] else 1}.{rest}" if kind == "upsamplers" else rest
        if kind == "resnets":
            return f"{block}.0.{_resnet(rest)}"
        return f"{block}.1.{rest}" if kind == "attentions" else f"{block}.{end}"

    assert levels == len(attends)
    stored = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return {rename(name): value for name, value in stored.items()}


def _resnet(rest: str) -> str:
    part = rest.rpartition(".")[0]
    return rest.replace(part, _RESNET[part])


def _vae(folder: Path) -> dict[str, Tensor]:
    stored = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    last = len(json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"]) - 1

    def rename(name: str) -> str:
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            for new, old in _ATTENTION.items():
                name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
        name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
        name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{last - int(found[1])}", name)
        name = re.sub(r"resnets\.(\d)", r"block.\1", name)
        name = name.replace("samplers.0.conv", "sample.conv").replace("conv_shortcut", "nin_shortcut")
        return name.replace("conv_norm_out", "norm_out")

    renamed = {rename(name): value for name, value in stored.items()}
    # attention was a convolution then
    kernels = re.compile(r".*attn_1\.(q|k|v|proj_out)\.weight")
    return {name: value[:, :, None, None] if kernels.fullmatch(name) else value for name, value in renamed.items()}


def _open_clip(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    plain = {name.removeprefix("text_model."): value for name, value in stored.items()}
    renamed = {
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "ln_final.weight": plain["final_layer_norm.weight"],
        "ln_final.bias": plain["final_layer_norm.bias"],
    }
    if "text_projection.weight" in plain:
        renamed["text_projection"] = plain["text_projection.weight"].T
    for name, value in plain.items():
        found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if found is None or found[2].endswith(("k_proj", "v_proj")):
            continue
        block = f"transformer.resblocks.{found[1]}"
        if found[2].endswith("q_proj"):
            parts = [plain[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            renamed[f"{block}.attn.in_proj_{found[3]}"] = torch.cat(parts)
        else:
            renamed[f"{block}.{_OPEN[found[2]]}.{found[3]}"] = value
    return renamed
