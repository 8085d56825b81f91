"""An existing Stable Diffusion model as what a training begins with: read, checked, and made to learn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.faces.packs import digest_folder
from face0_worker.learn.model_folder import FACE_TOKENS
from face0_worker.learn.straight_mapper import straighten
from face0_worker.models import digest_model
from face0_worker.render.conditioning import FaceMapper
from face0_worker.render.loading import load_component, survey_model
from face0_worker.render.survey import MAPPER, SDXL, Survey, check_fit, latent_factor, text_width
from face0_worker.render.tensors import DTYPES
from face0_worker.render.text import TextEncoder

FULL, LORA = "full", "lora"
MAPPER_WIDTH = 768
DTYPE_OF = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Base:
    """A model folder to begin with: its survey, its digest, and the licence that what is made of it carries on."""

    folder: Path
    survey: Survey
    digest: str
    licence: str

    @property
    def size(self) -> int:
        """The side in pixels of the pictures that it was made for."""
        return int(self.survey.of("unet", "sample_size") or 64) * latent_factor(self.survey)

    @property
    def stored(self) -> torch.dtype:
        """The precision that its UNet is stored in."""
        return DTYPES[next(iter(self.survey.weights["unet"].values())).dtype]

    def digest_of(self, *parts: str) -> str:
        """Return the digest of some of its component folders: what was encoded by others is not theirs."""
        return hashlib.sha256("".join(digest_folder(self.folder / part) for part in parts).encode()).hexdigest()


def read_base(folder: Path, licence: str | None = None) -> Base:
    """Survey the diffusers folder that a training begins with. `licence` None: as the model states it.

    Raises: ModelMissing, BadInput: as survey_model and check_fit. BadInput: it is of a kind that is not trained here,
    or states no licence.
    """
    if not folder.is_dir():
        what = "a single file; save it as a diffusers folder" if folder.is_file() else "not there; name a model folder"
        raise BadInput(f"--base {folder} is {what}")
    survey = survey_model(folder)
    check_fit(survey)
    if survey.kind == SDXL:
        raise BadInput(f"{folder} is an SDXL model; training begins with Stable Diffusion 1.x or 2.x")
    if survey.card is not None and (survey.card.adapter is not None or survey.loras):
        raise BadInput(f"{folder} has a face adapter or LoRAs of its own; begin with the model without them")
    found = licence or _stated_licence(survey)
    if not found:
        raise BadInput(
            f"{folder} states no licence (no `license:` at the top of its README.md); what is made of it carries its "
            "licence on, so say it: --base-licence NAME"
        )
    return Base(folder, survey, digest_model(folder), found)


def _stated_licence(survey: Survey) -> str:
    """Return the licence in a model's card, or in its README's front matter; "" where neither says one."""
    if survey.card is not None and survey.card.licences.get("weights"):
        return survey.card.licences["weights"]
    try:
        lines = (survey.place / "README.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    if not lines or lines[0].strip() != "---":
        return ""
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if line.strip() == "---":
            break
        if name.strip() == "license":
            return value.strip().strip("\"'")
    return ""


def text_encoder(base: Base, device: torch.device) -> TextEncoder:
    """Return the frozen text encoder and its tokenizer. Raises: ModelMissing: one can't be loaded."""
    try:
        tokenizer = CLIPTokenizer.from_pretrained(base.folder / "tokenizer", local_files_only=True)
    except Exception as error:  # the tokenizer's parser raises bare Exceptions
        raise ModelMissing(f"the tokenizer in {base.folder} can't be loaded; copy the model again") from error
    return TextEncoder(tokenizer, load_component(base.survey, "text_encoder", torch.float32).to(device))


def learning_parts(
    base: Base, embedder: dict[str, object], method: str, rank: int, precision: str, *, checkpointing: bool
) -> torch.nn.ModuleDict:
    """Return UNet and mapper as they learn: all of the UNet in float32, or LoRAs on its attention with the rest still.

    What stands still is held in the precision that is computed in. A base that has a mapper goes on with it.
    Raises: as load_component. BadInput: the base's mapper is for another face pack.
    """
    frozen = method == LORA
    unet = load_component(base.survey, "unet", DTYPE_OF[precision] if frozen else torch.float32)
    if frozen:
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=_ATTENTION))
        for value in unet.parameters():
            if value.requires_grad:
                value.data = value.data.float()
    else:
        unet.requires_grad_(True)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    return torch.nn.ModuleDict({"unet": unet, "mapper": _mapper(base, embedder)})


def _mapper(base: Base, embedder: dict[str, object]) -> FaceMapper:
    card = base.survey.card
    if card is None:
        fresh = FaceMapper(int(str(embedder["dimension"])), FACE_TOKENS, text_width(base.survey), MAPPER_WIDTH)
        return straighten(fresh)
    if card.embedder_digest != embedder["digest"] or card.tokens != FACE_TOKENS:
        raise BadInput(
            f"{base.folder} has a face mapper of {card.tokens} tokens for face pack {card.embedder_digest[:12]}; the "
            f"data's faces are of {embedder['name']} ({str(embedder['digest'])[:12]}), and {FACE_TOKENS} are trained"
        )
    mapper = FaceMapper(card.embedder_dim, card.tokens, text_width(base.survey), card.mapper_width)
    mapper.load_state_dict({key: value.float() for key, value in load_file(base.folder / "face0" / MAPPER).items()})
    return mapper


def finished_unet(base: Base, unet: Any) -> dict[str, Tensor]:
    """Return the UNet's weights as an ordinary UNet has them, on the CPU in the base's precision.

    LoRAs are added to the base's own weights as they are on disk, not as the training rounded them.
    """
    changes = {name: module for name, module in unet.named_modules() if isinstance(module, LoraLayer)}
    if not changes:
        state: dict[str, Tensor] = unet.state_dict()
        return {key: value.detach().to("cpu", base.stored).contiguous() for key, value in state.items()}
    weights: dict[str, Tensor] = load_component(base.survey, "unet", torch.float32).state_dict()
    with torch.no_grad():
        for name, module in changes.items():
            weights[f"{name}.weight"] += module.get_delta_weight("default").to("cpu", torch.float32)
    return {key: value.to(base.stored).contiguous() for key, value in weights.items()}


def lora_weights(unet: Any) -> dict[str, Tensor]:
    """Return the LoRAs alone, under the names that diffusers loads; their scale is one."""
    state: dict[str, Tensor] = get_peft_model_state_dict(unet)
    return {f"unet.{key}": value.detach().to("cpu", torch.float32).contiguous() for key, value in state.items()}
