"""The small model that ships with the product, where a worker's own model is looked for, and which are allowed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from face0_worker.contract.errors import BadInput, ModelMissing, Refused
from face0_worker.contract.licence import Licence
from face0_worker.faces.packs import digest_folder

SHIPPED = Path(__file__).with_name("face0_small")
# configurations of the public families, for single files, which carry none
LAYOUTS = Path(__file__).with_name("layouts")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def model_folder(named: Path | None) -> Path:
    """Return the model to load: the named folder or single safetensors file, else the shipped folder.

    Raises: ModelMissing: it is neither.
    """
    place = SHIPPED if named is None else named.expanduser().absolute()
    if not (place / "model_index.json").is_file() and not (place.suffix == ".safetensors" and place.is_file()):
        raise ModelMissing(
            f"model folder {place} has no model_index.json; FACE0_MODEL must name a diffusers folder "
            "or a single .safetensors file"
        )
    return place


def sidecar(file: Path) -> Path:
    """Return the folder beside a single file that holds its face mapper: `portrait.face0` for portrait.safetensors."""
    return file.with_suffix(".face0")


def face_folder(place: Path) -> Path:
    """Return where a model's `face0.json` and `mapper.safetensors` lie."""
    return sidecar(place) if place.is_file() else place / "face0"


def digest_model(place: Path) -> str:
    """Return the sha256 hex that names a model: over a folder's files, or over a single file and the folder beside it.

    Raises: ModelMissing: nothing is there.
    """
    if not place.is_file():
        return digest_folder(place)
    with place.open("rb") as opened:
        whole = hashlib.sha256(hashlib.file_digest(opened, "sha256").hexdigest().encode())
    beside = sidecar(place)
    if beside.is_dir():
        whole.update(f"\n{digest_folder(beside)}".encode())
    return whole.hexdigest()


def allowed_digests(setting: str) -> frozenset[str] | None:
    """Return the digests that the setting `allowed_models` allows; None where it is empty: any local model.

    The setting is a list of digests, or a file with one digest at the start of each line and remarks after it.
    Raises: BadInput: it holds something else, or the file can't be read.
    """
    if not setting.strip():
        return None
    words = [word.strip().lower() for word in setting.split(",") if word.strip()]
    if all(_DIGEST.fullmatch(word) for word in words):
        return frozenset(words)
    file = Path(setting.strip()).expanduser()
    try:
        lines = [line.split("#")[0].split() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"allowed_models is neither a list of digests (64 hexadecimal digits each, with commas between) nor a "
            f"file that can be read ({file}); `face0-worker model inspect` prints a model's digest"
        ) from error
    digests = [line[0].lower() for line in lines if line]
    wrong = [number for number, line in enumerate(lines, 1) if line and not _DIGEST.fullmatch(line[0].lower())]
    if wrong:
        raise BadInput(f"{file}, line {wrong[0]}: expected a digest of 64 hexadecimal digits at its start")
    return frozenset(digests)


def model_licences(place: Path) -> tuple[Licence, ...]:
    """Return the licences that a model's card states, for `require_licences`; none where it has no card to read."""
    file = face_folder(place) / "face0.json"
    try:
        card = json.loads(file.read_text("utf-8"))
        return stated_licences(str(card["name"]), card.get("licences", {}), str(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()  # whoever loads it says what is wrong with it


def stated_licences(model: str, licences: Mapping[str, str], where: str) -> tuple[Licence, ...]:
    """Return the licences of a model by part, as its card or a worker's offer states them."""
    return tuple(Licence(f"{what} of model {model}", str(text), where) for what, text in licences.items())


def require_allowed(place: Path, digest: str, setting: str) -> None:
    """Raise Refused unless the setting `allowed_models` is empty or names this digest. Raises: BadInput: its form."""
    allowed = allowed_digests(setting)
    if allowed is not None and digest not in allowed:
        raise Refused(
            f"model {place} has digest {digest}, which allowed_models does not name; "
            "have it checked and added there (FACE0_ALLOWED_MODELS), or choose another model"
        )
