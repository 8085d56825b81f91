"""LoRAs and face adapters of the real shapes with random weights: what no package carries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from face0_worker.faces.packs import FacePack
from face0_worker.render.adapters import import_adapter
from face0_worker.render.convert import import_model

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_OTHER = ("proj_in", "ff.net.2", "conv1", "time_emb_proj")
_TEXT = ("q_proj", "v_proj", "out_proj", "fc1")


def write_lora(
    file: Path, folder: Path, form: str, *, rank: int = 4, alpha: float | None = 2.0, seed: int = 1, loud: float = 0.3
) -> Path:
    """Write a LoRA for the UNet and every text encoder of a model folder, and return its file.

    `form` is diffusers, peft or kohya. `alpha` stands where the form has a place for it; an older form has none.
    """
    numbers = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for part, module, shape in _changed(folder):
        down = torch.randn((rank, *shape[1:]), generator=numbers) * loud / rank
        up = torch.randn((shape[0], rank, *(1 for _ in shape[2:])), generator=numbers) * loud
        stem, ends = _named(folder, part, module, form)
        tensors |= {f"{stem}.{end}": one for end, one in zip(ends, (down, up), strict=True)}
        if form == "kohya" and alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    metadata = {"format": "pt"}
    if form == "peft" and alpha is not None:
        parts = sorted({part for part, _, _ in _changed(folder)})
        said = {f"{part}.{name}": value for part in parts for name, value in _settings(folder, part, rank, alpha)}
        metadata["lora_adapter_metadata"] = json.dumps(said)
    save_file(tensors, file, metadata=metadata)
    return file


def _settings(folder: Path, part: str, rank: int, alpha: float) -> Iterator[tuple[str, Any]]:
    yield from {"r": rank, "lora_alpha": alpha, "peft_type": "LORA", "use_rslora": True}.items()
    yield "target_modules", [module for of, module, _ in _changed(folder) if of == part]


def _changed(folder: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield (component, module, the shape of its weight) of all that is changed."""
    for part, wanted in (("unet", _ATTENTION + _OTHER), ("text_encoder", _TEXT), ("text_encoder_2", _TEXT)):
        if not (folder / part).is_dir():
            continue
        (weights,) = (folder / part).glob("*.safetensors")
        for name, one in sorted(load_file(weights).items()):
            module = name.removesuffix(".weight")
            if module != name and module.endswith(tuple(f".{end}" for end in wanted)):
                yield part, module, tuple(one.shape)


def _named(folder: Path, part: str, module: str, form: str) -> tuple[str, tuple[str, str]]:
    """Return the stem of a module's tensors, and how the lower and the upper one end."""
    if part != "unet" and not module.startswith("text_model."):
        module = f"text_model.{module}"
    if form == "kohya":
        two = (folder / "text_encoder_2").is_dir()
        prefix = {"unet": "unet", "text_encoder": "te1" if two else "te", "text_encoder_2": "te2"}[part]
        return f"lora_{prefix}_{module.replace('.', '_')}", ("lora_down.weight", "lora_up.weight")
    if form == "peft":
        return f"{part}.{module}", ("lora_A.weight", "lora_B.weight")
    middle = "lora" if part == "unet" else "lora_linear_layer"
    return f"{part}.{module}", (f"{middle}.down.weight", f"{middle}.up.weight")


def face_id_tensors(
    unet: Any, *, embedding: int = 512, width: int = 512, rank: int = 4, loud: float = 1.0
) -> dict[str, dict[str, Tensor]]:
    """Return an IP-Adapter-FaceID checkpoint for a UNet, as its authors pickle it: 4 tokens of a face and a LoRA."""
    numbers = torch.Generator().manual_seed(3)
    text = unet.config.cross_attention_dim

    def new(*shape: int) -> Tensor:
        return torch.randn(shape, generator=numbers).mul_(loud / shape[-1] ** 0.5)

    projection = {
        "proj.0.weight": new(width, embedding) * 4,
        "proj.0.bias": new(width),
        "proj.2.weight": new(4 * text, width) * 4,
        "proj.2.bias": new(4 * text),
        "norm.weight": new(text) + 1,
        "norm.bias": new(text),
    }
    layers: dict[str, Tensor] = {}
    for number, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        hidden, heard = attention.to_q.out_features, attention.to_k.in_features
        for part, wide in (("q", hidden), ("k", heard), ("v", heard), ("out", hidden)):
            layers[f"{number}.to_{part}_lora.down.weight"] = new(rank, wide) / 4
            layers[f"{number}.to_{part}_lora.up.weight"] = new(hidden, rank)
        if "attn2" in name:
            layers[f"{number}.to_k_ip.weight"] = new(hidden, text)
            layers[f"{number}.to_v_ip.weight"] = new(hidden, text) * 4
    return {"image_proj": projection, "ip_adapter": layers}


def write_face_id(file: Path, folder: Path, **how: Any) -> Path:
    """Write a random IP-Adapter-FaceID for a model folder, pickled where the file's name says .bin, and return it."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True)
    nested = face_id_tensors(unet, **how)
    if file.suffix == ".safetensors":
        save_file(flattened(nested), file)
    else:
        torch.save(nested, file)
    return file


def face_pack(**changes: Any) -> FacePack:
    """Return a pack of 512 numbers, as insightface's are, of which only the facts are used."""
    pack = FacePack(Path("buffalo_l"), "buffalo_l", "b" * 64, "unknown", 512, np.zeros(512, np.float32))
    return replace(pack, **changes)


def with_face_id(base: Path, place: Path, *, scale: float = 1.0) -> Path:
    """Write base model's adapter, its face folder and the model of both into `place`; return the model's folder."""
    import_adapter(
        write_face_id(place / "ip-adapter-faceid.safetensors", base), place / "face", face_pack(), scale=scale
    )
    import_model(base, place / "face", place / "model")
    return place / "model"


def flattened(nested: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors under names joined by dots."""
    return {f"{part}.{name}": one for part, tensors in nested.items() for name, one in tensors.items()}
