"""The card of a model, `face0/face0.json`: what its face mapper or face adapter was trained for, and its LoRAs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from face0_worker.contract.bars import Calibration
from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.contract.job import SAMPLERS, Guidance, RenderItem

# 2 has adapters: a worker that reads only 1 refuses such a card, instead of rendering without them
CARD_FORMATS = (1, 2)
FACE_ID = "ip-adapter-faceid"


@dataclass(frozen=True)
class LoraFile:
    """A LoRA of the model: a file in `face0/loras/`, and how much of it is added to the weights."""

    file: str
    scale: float


@dataclass(frozen=True)
class FaceAdapter:
    """An IP-Adapter-FaceID in place of the mapper: so many tokens beside the text, listened to by so much.

    `lora_scale` is how much of the LoRA that belongs to it is added to the weights.
    """

    tokens: int
    scale: float = 1.0
    lora_scale: float = 1.0


@dataclass(frozen=True)
class Card:
    """What `face0/face0.json` says. `size` is the pictures' side in pixels, `tokens` the face's share of the text.

    `sampler` is what its steps are made with where a list names none. `aspect`: how long pictures may be, as long side
    by short side; 1: the model was trained on squares only.

    With an `adapter` there is no mapper and the text keeps all its tokens. `gate`: the bars of the quality gate, None
    where the model was not calibrated.
    """

    name: str
    embedder_digest: str
    embedder_dim: int
    tokens: int
    mapper_width: int
    guidance: Guidance
    steps: int
    size: int
    licences: dict[str, str] = field(default_factory=dict)
    loras: tuple[LoraFile, ...] = ()
    adapter: FaceAdapter | None = None
    gate: Calibration | None = None
    aspect: float = 1.0
    sampler: str = RenderItem.sampler


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model. Raises: ModelMissing: absent or damaged. BadInput: not an object."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelMissing(f"{path} is missing; copy the model folder again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelMissing(f"{path} can't be read ({type(error).__name__}); copy the model folder again") from error
    if not isinstance(data, dict):
        raise BadInput(f"{path} is not a JSON object")
    return data


def parse_card(data: Mapping[str, Any], path: Path) -> Card:
    """Return the card that `data`, read from `path`, holds. Raises: BadInput: another format, or a wrong field."""
    if data.get("format") not in CARD_FORMATS:
        raise BadInput(f"{path} has format {data.get('format')!r}; this worker reads formats 1 and 2")
    if data["format"] == 1 and ("loras" in data or "adapter" in data):
        raise BadInput(f"{path} names adapters, which format 1 does not know; they need format 2")
    try:
        adapter = _adapter(data["adapter"]) if "adapter" in data else None
        card = Card(
            name=str(data["name"]),
            embedder_digest=str(data["embedder"]["digest"]),
            embedder_dim=int(data["embedder"]["dimension"]),
            tokens=int(data["tokens"]) if adapter is None else 0,
            mapper_width=int(data["mapper_width"]) if adapter is None else 0,
            guidance=Guidance(**{name: float(value) for name, value in data["guidance"].items()}),
            steps=int(data["steps"]),
            size=int(data["size"]),
            licences={str(what): str(licence) for what, licence in data.get("licences", {}).items()},
            loras=tuple(LoraFile(str(one["file"]), float(one["scale"])) for one in data.get("loras", [])),
            adapter=adapter,
            gate=Calibration(**data["gate"]) if data.get("gate") else None,
            aspect=float(data.get("aspect", 1.0)),
            sampler=str(data.get("sampler", RenderItem.sampler)),
        )
        if card.gate is not None:
            card.gate.bars()
    except KeyError as error:
        raise BadInput(f"{path} lacks {error.args[0]!r}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(f"{path} has a field of the wrong kind: {error}") from error
    _check_numbers(card, path)
    return card


def _adapter(data: Mapping[str, Any]) -> FaceAdapter:
    if data["kind"] != FACE_ID:
        raise ValueError(f"adapter kind {data['kind']!r} is unknown, {FACE_ID} is known")
    scales = {name: float(data[name]) for name in ("scale", "lora_scale") if name in data}
    return FaceAdapter(int(data["tokens"]), **scales)


def _check_numbers(card: Card, path: Path) -> None:
    if min(card.embedder_dim, card.steps, card.size) < 1 or card.tokens < 0:
        raise BadInput(f"{path}: embedder dimension, steps and size must be positive, tokens at least 0")
    if not 1.0 <= card.aspect <= 4.0:
        raise BadInput(f"{path}: aspect is the longest side by the shortest that the model was trained on, from 1 to 4")
    if card.sampler not in SAMPLERS:
        raise BadInput(f"{path}: sampler {card.sampler!r} is unknown; known are {', '.join(SAMPLERS)}")
    if card.adapter is None and card.mapper_width < 1:
        raise BadInput(f"{path}: mapper_width must be positive")
    if card.adapter is not None and card.adapter.tokens < 1:
        raise BadInput(f"{path}: the adapter's tokens must be positive")
    scales = [lora.scale for lora in card.loras]
    scales += [] if card.adapter is None else [card.adapter.scale, card.adapter.lora_scale]
    if not all(math.isfinite(scale) for scale in scales):
        raise BadInput(f"{path}: the scale of an adapter is not a finite number")
    for lora in card.loras:
        if Path(lora.file).name != lora.file or not lora.file.endswith(".safetensors"):
            raise BadInput(f"{path} names the LoRA {lora.file!r}; only safetensors files in face0/loras are loaded")
