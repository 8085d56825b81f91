"""Write models with adapters: a LoRA beside a model's weights, and an IP-Adapter-FaceID as a face folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput
from face0_worker.faces.packs import FacePack
from face0_worker.models import digest_model
from face0_worker.render.card import FACE_ID
from face0_worker.render.convert import check_written, new_folder, write_json
from face0_worker.render.face_adapter import PROJECTION
from face0_worker.render.loading import check_adapters, survey_model
from face0_worker.render.sandbox import unpickle
from face0_worker.render.survey import ADAPTER, LORAS, Lora, needs_face
from face0_worker.render.tensors import read_tensors
from face0_worker.render.weight_files import Stored, read_header

_FACE_ID_LICENCE = "non-commercial research only (IP-Adapter-FaceID: trained on insightface's face models)"
# what its authors' own examples render with
_STEPS, _W, _SIZE, _XL_SIZE, _XL_WIDTH = 30, 7.5, 512, 1024, 2048


def add_lora(
    folder: Path, file: Path, out: Path, *, scale: float = 1.0, licence: str = "", changes: Mapping[str, Any]
) -> str:
    """Write the model `folder` again as `out`, with the LoRA `file` in it; a worker adds it while it loads.

    `changes` are fields of the card that the new model has instead: its name, steps or guidance. Returns the new
    model's digest, in which file and scale are.
    Raises: ModelMissing, BadInput: as read_parts; BadInput: `out` exists, or the LoRA is for another architecture.
    """
    if not math.isfinite(scale):
        raise BadInput(f"scale is {scale}; a finite number is needed")
    if not file.is_file():
        raise BadInput(f"{file} does not exist; name the LoRA's .safetensors file")
    survey = survey_model(folder)
    if survey.layout is not None:
        raise BadInput(f"{folder} is a single file; `face0-worker model import` writes a folder from it first")
    needs_face(survey)
    lora = Lora(file, read_header(file), scale)
    check_adapters(replace(survey, loras=(*survey.loras, lora)))
    _check_numbers(lora.header.tensors, f"LoRA {file}")
    taken = {one.file.name for one in survey.loras}
    name = next(one for one in _names(file.stem) if one not in taken)
    # bars that were set by another model's pictures are not this one's
    base = {name: value for name, value in survey.card_data.items() if name != "gate"}
    card = {
        **base,
        "format": 2,
        **changes,
        "loras": [*survey.card_data.get("loras", []), {"file": name, "scale": scale}],
        "licences": {**survey.card_data.get("licences", {}), f"lora {Path(name).stem}": licence or "not stated"},
    }
    with new_folder(out) as fresh:
        shutil.copytree(folder, fresh, dirs_exist_ok=True)
        (fresh / "face0" / LORAS).mkdir(exist_ok=True)
        shutil.copyfile(file, fresh / "face0" / LORAS / name)
        write_json(fresh / "face0" / "face0.json", card)
        check_written(fresh)
    return digest_model(out)


def _names(stem: str) -> list[str]:
    return [f"{stem}.safetensors", *(f"{stem}-{number}.safetensors" for number in range(2, 100))]


def import_adapter(
    source: Path, out: Path, pack: FacePack, *, scale: float = 1.0, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write an IP-Adapter-FaceID checkpoint as a face folder, which `import_model` joins with a model; return its card.

    A `.safetensors` is copied, anything else is unpickled in a sandbox; what that could not do is said. `pack` is the
    one that finds the faces.
    Raises: BadInput: it is no such checkpoint, the pack's embeddings are not what it takes, or `out` exists.
    """
    if not math.isfinite(scale):
        raise BadInput(f"scale is {scale}; a finite number is needed")
    if not source.is_file():
        raise BadInput(f"{source} does not exist; name the checkpoint's .bin or .safetensors file")
    with new_folder(out) as fresh:
        target = fresh / ADAPTER
        if source.suffix == ".safetensors":
            read_header(source)
            shutil.copyfile(source, target)
        elif not unpickle(source, target):
            say(
                "note: this system cuts no program off from the network; the pickle was read with the other limits only"
            )
        stored = read_header(target).tensors
        dimension, tokens, width = face_id_shape(stored, source)
        _check_pack(source, pack, dimension)
        _check_numbers(stored, f"face adapter {source}")
        card = {
            "format": 2,
            "name": source.stem,
            "adapter": {"kind": FACE_ID, "tokens": tokens, "scale": scale, "lora_scale": 1.0},
            "embedder": {"name": pack.name, "digest": pack.digest, "dimension": dimension},
            "guidance": {"w": _W, "c": 1.0, "a": 0.0, "start": 0.0, "stop": 1.0},
            "steps": _STEPS,
            "size": _XL_SIZE if width == _XL_WIDTH else _SIZE,
            "licences": {"face adapter": _FACE_ID_LICENCE, "face pack": pack.licence},
        }
        write_json(fresh / "face0.json", card)
    return card


def face_id_shape(stored: Mapping[str, Stored], source: Path) -> tuple[int, int, int]:
    """Return (embedding, tokens, text width) of an IP-Adapter-FaceID. Raises: BadInput: `source` is something else."""
    if any(name.startswith(f"{PROJECTION}perceiver_resampler") for name in stored):
        raise BadInput(
            f"{source} is an IP-Adapter-FaceID Plus, which looks at the photo through a CLIP image encoder too; "
            "take the plain ip-adapter-faceid"
        )
    first, last, norm = (
        stored[name].shape if name in stored else ()
        for name in (f"{PROJECTION}{end}.weight" for end in ("proj.0", "proj.2", "norm"))
    )
    if (len(first), len(last), len(norm)) != (2, 2, 1) or first[0] != last[1] or last[0] % norm[0]:
        raise BadInput(
            f"{source} is no IP-Adapter-FaceID: image_proj.proj.0, proj.2 and norm are {first}, {last} and {norm}"
        )
    return first[1], last[0] // norm[0], norm[0]


def _check_pack(source: Path, pack: FacePack, dimension: int) -> None:
    if pack.dimension != dimension:
        raise BadInput(
            f"{source} takes face embeddings of {dimension} numbers, and the pack {pack.name} gives {pack.dimension}; "
            "name the insightface pack that it was trained with (buffalo_l) with --pack or FACE0_PACK"
        )
    if pack.mean.any():
        raise BadInput(
            f"{source} takes embeddings as insightface gives them; the pack {pack.name} moves them by a mean"
        )


def _check_numbers(stored: Mapping[str, Stored], what: str) -> None:
    for _ in read_tensors(stored, None, what):
        pass
