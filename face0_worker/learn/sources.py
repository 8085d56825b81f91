"""Where training pictures come from: no folder is read that does not say by what right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.learn.dataset import CARD, read_index

# Takes a consent's id and raises ConsentRefused unless that person allows to be learned from now.
Permit = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """One data folder and the right to learn from it, as its card.json states it: a licence, or a person's consent."""

    folder: Path
    licence: str = ""
    consent: str = ""

    @property
    def right(self) -> str:
        """What the card of a model says: the licence, or that there was a consent; never whose."""
        return self.licence or "a person's consent"


def refuse(consent_id: str) -> None:
    """The permit of whoever has no ledger to ask. Raises: ConsentRefused: always."""
    raise ConsentRefused("pictures under a consent are learned from only where the ledger can be asked", "unknown")


def read_source(folder: Path, permit: Permit = refuse) -> Source:
    """Return the source that a data folder is: `licence` in its card.json, or `consent`, the id of one person's.

    Raises: BadInput: it has no card.json, that states neither or both, or a consented folder shows several people.
    ConsentRefused: as `permit`.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        stated = [str(card.get(name) or "").strip() for name in ("licence", "consent")]
    except FileNotFoundError as error:
        raise BadInput(
            f'{folder} has no {CARD}; write {{"licence": "..."}} or {{"consent": "ID"}} into it: pictures are learned '
            "from under a licence or a consent"
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} can't be read as a JSON object ({type(error).__name__})") from error
    licence, consent = stated
    if bool(licence) == bool(consent):
        said = "both a licence and a consent" if licence else "no licence and no consent"
        raise BadInput(f"{path} states {said}; pictures are learned from under exactly one of them")
    if consent:
        people = {line.person for line in read_index(folder)}
        if len(people) > 1:
            raise BadInput(f"{folder} shows {len(people)} people under one consent; give each a folder of their own")
        permit(consent)
    return Source(folder, licence, consent)
