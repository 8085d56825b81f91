"""LoRAs: small products that are added to a model's weights while these are read, so that a picture costs no more.

    weight + scale * (alpha / rank) * up @ down                      (Hu et al. 2021, arXiv 2106.09685)

Files of diffusers, of peft as diffusers writes it, and of kohya's trainer are understood, by diffusers' own names for
each other. What is not understood is refused: left out, it would be missed in the picture only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.render.survey import Lora, Survey
from face0_worker.render.tensors import read_tensors
from face0_worker.render.weight_files import FLOATS, Stored

_PRODUCT = re.compile(r"(lora_A|lora_B|lora_down|lora_up|lora(_linear_layer)?\.(down|up))\.weight$")
_KOHYA = re.compile(r"lora_(unet|te|te1|te2)_")
_PREFIX = re.compile(r"(unet|text_encoder|text_encoder_2)\.(.+)\.(lora_[AB])\.weight")
# where diffusers keeps peft's own settings in a file's metadata
_SETTINGS = "lora_adapter_metadata"


@dataclass(frozen=True)
class Change:
    """What is added to one weight: `scale * up @ down`; (out, rank) and (rank, in), of convolutions with h and w."""

    up: Stored
    down: Stored
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that it belongs to."""
        return (self.up.shape[0], *self.down.shape[1:])

    def add_to(self, weight: Tensor) -> None:
        """Add it to a float32 weight in place. Raises: ModelMissing: the file can't be read, or holds no numbers."""
        parts = dict(read_tensors({"up": self.up, "down": self.down}, torch.float32, f"LoRA {self.up.file}"))
        weight.flatten(1).addmm_(parts["up"].flatten(1), parts["down"].flatten(1), alpha=self.scale)


Changes = dict[str, list[Change]]
"""What is added to each weight of a component, by the weight's name."""


def add_all(changes: Sequence[Change], weight: Tensor) -> None:
    """Add all changes of one weight to it in place, float32 and contiguous. Raises: as Change.add_to."""
    for change in changes:
        change.add_to(weight)


def lora_changes(survey: Survey, name: str, wanted: Mapping[str, tuple[int, ...]]) -> Changes:
    """Return what the model's LoRAs add to component `name`, whose weights have the names and shapes `wanted`.

    Raises: BadInput: a LoRA is for another architecture or holds what is not understood; it names the first of these.
    """
    found: Changes = {}
    for lora in survey.loras:
        for weight, change in sorted(_by_weight(lora, survey, name, wanted).items()):
            check_change(f"LoRA {lora.file}", weight, change, wanted)
            found.setdefault(weight, []).append(change)
    return found


def check_change(what: str, weight: str, change: Change, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BadInput unless there is such a weight of this change's shape; `what` names the file."""
    if weight not in wanted:
        raise BadInput(f"{what} is for another architecture: it changes {weight}, which this model does not have")
    if change.shape != wanted[weight]:
        raise BadInput(
            f"{what} is for another architecture: it changes {weight} as {change.shape}, which is "
            f"{wanted[weight]} in this model"
        )


def _by_weight(lora: Lora, survey: Survey, component: str, wanted: Iterable[str]) -> dict[str, Change]:
    """Return the changes of one component, under the names that its weights have here."""
    products = _products(lora, survey)
    scales = _scales(lora)
    wraps = any(name.startswith("text_model.") for name in wanted)
    found = {}
    for (part, module), pair in products.items():
        if part not in survey.configs:
            raise BadInput(
                f"LoRA {lora.file} is for another architecture: it changes {part}.{module}, and this model has no "
                f"{part}"
            )
        if part != component:
            continue
        if pair.keys() != {"lora_A", "lora_B"}:
            raise BadInput(f"LoRA {lora.file} is not whole: {part}.{module} has only one of its two parts")
        # transformers moves its text models' weights in and out of a `text_model` from version to version
        place = module
        if part != "unet" and not module.startswith("text_projection"):
            place = ("text_model." if wraps else "") + module.removeprefix("text_model.")
        up, down = pair["lora_B"], pair["lora_A"]
        _check_pair(lora, f"{part}.{module}", up, down)
        scale = lora.scale * scales(part, module, down)
        found[f"{place}.weight"] = Change(up, down, scale)
    return found


def _check_pair(lora: Lora, module: str, up: Stored, down: Stored) -> None:
    # the upper part of a convolution's looks at one point only, so that both multiply like matrices
    fits = len(up.shape) == len(down.shape) >= 2 and up.shape[1] == down.shape[0] and math.prod(up.shape[2:]) == 1
    if not fits or {up.dtype, down.dtype} - FLOATS or not down.shape[0]:
        raise BadInput(f"LoRA {lora.file}: the parts of {module}, {up.shape} and {down.shape}, don't fit each other")


def _products(lora: Lora, survey: Survey) -> dict[tuple[str, str], dict[str, Stored]]:
    """Return both parts of each changed module, by component and module, in the names of diffusers and peft."""
    kept = {name: one for name, one in lora.header.tensors.items() if not _is_alpha(name)}
    strange = sorted(name for name in kept if not _PRODUCT.search(name))
    if strange or not kept:
        raise BadInput(
            f"LoRA {lora.file} holds {strange[0] if strange else 'no weights'}; only plain LoRAs of diffusers, peft "
            "and kohya's trainer can be added to a model (no DoRA, LoHa, LoKr)"
        )
    found: dict[tuple[str, str], dict[str, Stored]] = {}
    for name, stored in _renamed(lora, kept, survey).items():
        said = _PREFIX.fullmatch(name)
        if said is None:
            raise BadInput(f"LoRA {lora.file} holds {name}, which belongs to no part of a Stable Diffusion model")
        found.setdefault((said[1], said[2]), {})[said[3]] = stored
    if sum(map(len, found.values())) != len(kept):
        raise BadInput(f"LoRA {lora.file} changes a weight twice, under two names; it can't be meant")
    return found


def _is_alpha(name: str) -> bool:
    return name.endswith(".alpha") and _KOHYA.match(name) is not None


def _renamed(lora: Lora, kept: Mapping[str, Stored], survey: Survey) -> dict[str, Stored]:
    """Return the tensors under diffusers' names; its conversions only rename, so headers go through them too."""
    renamed: Any = dict(kept)
    if all(_KOHYA.match(name) for name in kept):
        layers = SimpleNamespace(layers_per_block=survey.of("unet", "layers_per_block") or 2)
        try:
            renamed, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(renamed, unet_config=layers)
        except Exception as error:  # the conversion raises whatever a foreign file leads it to
            raise BadInput(
                f"LoRA {lora.file} has names that are not understood, or half of a product ({type(error).__name__})"
            ) from error
    unet = {name: one for name, one in renamed.items() if name.startswith("unet.")}
    rest = {name: one for name, one in renamed.items() if name not in unet}
    for kind in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
        rest = convert_state_dict_to_peft(rest, kind)
    return {**convert_unet_state_dict_to_peft(unet), **rest}


def _scales(lora: Lora) -> Any:
    """Return a function of (component, module, its lower part) that says what its product is multiplied by."""
    tensors = lora.header.tensors
    alphas = {name.removesuffix(".alpha"): one for name, one in tensors.items() if _is_alpha(name)}
    values = dict(read_tensors(alphas, None, f"LoRA {lora.file}"))
    stems = {tensors[f"{stem}.lora_down.weight"]: stem for stem in alphas if f"{stem}.lora_down.weight" in tensors}
    if len(stems) != len(alphas):
        raise BadInput(f"LoRA {lora.file} is not whole: it has an alpha without the weights that it belongs to")
    settings = _settings(lora)

    def scale(component: str, module: str, down: Stored) -> float:
        rank = down.shape[0]
        if down in stems:
            return float(values[stems[down]]) / rank
        said = settings.get(component, {})
        # a pattern is a module's name, or its end; to peft it is a regular expression, which is not run here
        of_its_own = [
            value
            for pattern, value in (said.get("alpha_pattern") or {}).items()
            if f".{module}".endswith(f".{pattern.removeprefix('^')}")
        ]
        alpha = float((of_its_own or [said.get("lora_alpha", rank)])[0])
        return alpha / (math.sqrt(rank) if said.get("use_rslora") else rank)

    return scale


def _settings(lora: Lora) -> dict[str, dict[str, Any]]:
    """Return peft's settings of each component, where diffusers wrote them into the file."""
    if _SETTINGS not in lora.header.metadata:
        return {}
    found: dict[str, dict[str, Any]] = {}
    try:
        for name, value in json.loads(lora.header.metadata[_SETTINGS]).items():
            component, _, setting = name.partition(".")
            found.setdefault(component, {})[setting] = value
    except (ValueError, AttributeError) as error:
        raise BadInput(f"LoRA {lora.file}: its {_SETTINGS} makes no sense ({type(error).__name__})") from error
    if any(one.get("use_dora") for one in found.values()):
        raise BadInput(f"LoRA {lora.file} is a DoRA; only plain LoRAs can be added to a model")
    return found
