"""Write a tuned model: the base's other parts as they were, the UNet that has learned, mapper and card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from face0_worker.learn.base_model import LORA, Base, finished_unet, lora_weights
from face0_worker.learn.model_folder import complete_tokenizer, replaced, write_face, write_index

CARD = """---
license: {licence}
---

# {name}

A Face0 model: {base[name]} (digest {base[digest]}), taught whose face to paint.

- **Makes** {size} x {size} px pictures after a prompt and one photo of a face.
- **Faces** come from the pack {embedder[name]} (digest {embedder[digest]}).
- **Trained** {how} and the face mapper, on {training[pictures]} pictures of {training[people]} people for
  {training[step]} of {training[steps]} steps of {a_step} pictures ({training[hours]} hours on {training[device]});
  text encoder and VAE are the base's. The people of the held-out part were never seen.
- **Licences**: base {licences[base]}; pictures {licences[pictures]}. The base's licence carries on to this model.
"""
_LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt")


def lora_path(out: Path) -> Path:
    """Return where the LoRAs of a model that was trained by them lie: beside it, as it has them in it already."""
    return out.with_name(out.name + ".lora.safetensors")


def write_tuned(out: Path, base: Base, parts: torch.nn.ModuleDict, facts: dict[str, Any]) -> None:
    """Write the model folder `out`, as `replaced` does, and its LoRAs beside it where there are some.

    `parts` (unet, mapper) stay as they are. UNet in the precision of the base's, mapper in float32.
    """
    with replaced(out) as fresh:
        for name in ("tokenizer", "text_encoder", "vae", "scheduler"):
            shutil.copytree(base.folder / name, fresh / name)
        complete_tokenizer(fresh / "tokenizer")
        (fresh / "unet").mkdir()
        shutil.copyfile(base.folder / "unet" / "config.json", fresh / "unet" / "config.json")
        weights = finished_unet(base, parts["unet"])
        save_file(weights, fresh / "unet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        write_face(fresh, parts["mapper"], facts, torch.float32)
        write_index(fresh, str(base.survey.configs["scheduler"].get("_class_name", "DDIMScheduler")))
        for name in _LICENCES:
            if (base.folder / name).is_file():
                shutil.copyfile(base.folder / name, fresh / name)
        (fresh / "README.md").write_text(_told(base, facts), encoding="utf-8")
    if facts["training"]["method"] == LORA:
        kept = lora_path(out)
        save_file(lora_weights(parts["unet"]), kept.with_suffix(".new"), metadata={"format": "pt"})
        kept.with_suffix(".new").replace(kept)


def _told(base: Base, facts: dict[str, Any]) -> str:
    training = facts["training"]
    how = (
        f"by LoRA of rank {training['rank']} on the UNet's attention"
        if training["method"] == LORA
        else "the whole UNet"
    )
    plan = training["plan"]
    return CARD.format(**facts, licence=base.licence, how=how, a_step=plan["mix"]["batch"] * plan["accumulate"])
