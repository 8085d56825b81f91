"""The card of a model, `face0/face0.json`: what its face mapper was trained for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.contract.job import Guidance

CARD_FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What `face0/face0.json` says. `size` is the pictures' side in pixels, `tokens` the face's share of the text."""

    name: str
    embedder_digest: str
    embedder_dim: int
    tokens: int
    mapper_width: int
    guidance: Guidance
    steps: int
    size: int
    licences: dict[str, str] = field(default_factory=dict)


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
    if data.get("format") != CARD_FORMAT:
        raise BadInput(f"{path} has format {data.get('format')!r}; this worker reads format {CARD_FORMAT}")
    try:
        card = Card(
            name=str(data["name"]),
            embedder_digest=str(data["embedder"]["digest"]),
            embedder_dim=int(data["embedder"]["dimension"]),
            tokens=int(data["tokens"]),
            mapper_width=int(data["mapper_width"]),
            guidance=Guidance(**{name: float(value) for name, value in data["guidance"].items()}),
            steps=int(data["steps"]),
            size=int(data["size"]),
            licences={str(what): str(licence) for what, licence in data.get("licences", {}).items()},
        )
    except KeyError as error:
        raise BadInput(f"{path} lacks {error.args[0]!r}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(f"{path} has a field of the wrong kind: {error}") from error
    if min(card.embedder_dim, card.mapper_width, card.steps, card.size) < 1 or card.tokens < 0:
        raise BadInput(f"{path}: embedder dimension, mapper_width, steps and size must be positive, tokens at least 0")
    return card
