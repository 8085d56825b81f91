"""Where training pictures come from: no folder is read that does not say by what right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from face0_worker.contract.errors import BadInput

CARD = "card.json"


@dataclass(frozen=True)
class Source:
    """One data folder and its licence, as its card.json states it."""

    folder: Path
    licence: str


def read_source(folder: Path) -> Source:
    """Return the source that a data folder is.

    Raises: BadInput: it has no card.json, or that states no licence.
    """
    path = folder / CARD
    try:
        licence = json.loads(path.read_text(encoding="utf-8")).get("licence")
    except FileNotFoundError as error:
        raise BadInput(
            f'{folder} has no {CARD}; write {{"licence": "..."}} into it: pictures are learned from under a licence'
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} can't be read as a JSON object ({type(error).__name__})") from error
    if not isinstance(licence, str) or not licence.strip():
        raise BadInput(f"{path} states no licence; pictures without one are not learned from")
    return Source(folder, licence.strip())
