"""Write model folders: from a single file or a plain folder joined with a face mapper, and in another precision."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.models import digest_model
from face0_worker.render.clip_words import write_clip_tokenizer
from face0_worker.render.loading import check_adapters, load_component, survey_model
from face0_worker.render.single_file import pad_token, survey_single
from face0_worker.render.survey import (
    ADAPTER,
    CLASSES,
    LORAS,
    MAPPER,
    SDXL,
    Survey,
    check_fit,
    needs_face,
    read_face,
)

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def import_model(
    source: Path, face: Path, out: Path, *, layout: str | None = None, precision: str | None = None
) -> str:
    """Join a single file, or a plain diffusers folder, with a face mapper or face adapter into the model folder `out`.

    `face` holds face0.json and what belongs to it, or is a model folder whose `face0/` does. Weights keep their
    precision unless one is named. The card notes what it was made of. Returns the new model's digest.
    Raises: ModelMissing, BadInput: as read_parts; BadInput: `out` exists, or mapper and model don't fit.
    """
    dtype = _dtype(precision)
    survey = survey_single(source, layout) if source.is_file() else survey_model(source)
    theirs = face / "face0" if (face / "face0").is_dir() else face
    found = read_face(theirs)
    if found.card is None:
        raise ModelMissing(f"{face} is not a folder; name one with face0.json and mapper.safetensors")
    plain = {name: one for name, one in survey.weights.items() if name not in ("mapper", "adapter")}
    survey = replace(survey, card=found.card, weights={**plain, **found.weights}, loras=found.loras)
    check_fit(survey)
    made_of = {"digest": digest_model(source), "layout": survey.layout.name if survey.layout else "diffusers"}
    with new_folder(out) as fresh:
        _write_components(survey, fresh, dtype)
        (fresh / "face0").mkdir()
        write_json(fresh / "face0" / "face0.json", {**found.data, "imported_from": made_of})
        files = [MAPPER if found.card.adapter is None else ADAPTER]
        for file in [*files, *(f"{LORAS}/{one.file}" for one in found.card.loras)]:
            (fresh / "face0" / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(theirs / file, fresh / "face0" / file)
        check_written(fresh)
    return digest_model(out)


def convert_model(folder: Path, out: Path, precision: str) -> str:
    """Write a model folder again with UNet, VAE and text encoders in `precision`, each in one plain safetensors file.

    The mapper keeps its own: it is small, and a face hangs on it. Returns the new model's digest, which is another
    one: rounded weights make other pictures.
    Raises: ModelMissing, BadInput: as read_parts; BadInput: `out` exists, or a weight does not fit the precision.
    """
    dtype = _dtype(precision)
    survey = survey_model(folder)
    if survey.layout is not None:
        raise BadInput(f"{folder} is a single file; `face0-worker model import --precision` writes a folder from it")
    needs_face(survey)
    check_fit(survey)
    with new_folder(out) as fresh:
        _write_components(survey, fresh, dtype)
        shutil.copytree(folder / "face0", fresh / "face0")
        for name in ("README.md", "LICENSE", "LICENSE.md"):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, fresh / name)
        check_written(fresh)
    return digest_model(out)


def _dtype(precision: str | None) -> torch.dtype | None:
    if precision is not None and precision not in PRECISIONS:
        raise BadInput(f"precision {precision!r} is unknown; use {', '.join(PRECISIONS)}")
    return None if precision is None else PRECISIONS[precision]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Lend a folder that becomes `out` only when all of it is written: half a model never stands there."""
    if out.exists():
        raise BadInput(f"{out} exists already; name a new folder with --out")
    fresh = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        fresh.rename(out)
    except OSError as error:
        raise BadInput(
            f"{out} can't be written ({error.strerror or type(error).__name__}); name another --out"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_components(survey: Survey, fresh: Path, dtype: torch.dtype | None) -> None:
    """Write each component's config and weights, one component in memory at a time; adapters stay beside them."""
    survey = replace(survey, card=None, loras=())
    classes = CLASSES[survey.kind]
    for name, kind in classes.items():
        if name.startswith("tokenizer"):
            _write_tokenizer(survey, name, fresh / name)
            continue
        (fresh / name).mkdir()
        stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
        config = {key: value for key, value in survey.configs[name].items() if key != "_name_or_path"}
        if name.startswith("text_encoder"):
            config = {**config, "architectures": [kind]}
        write_json(fresh / name / "config.json", config)
        save_file(_weights(survey, name, dtype), fresh / name / f"{stem}.safetensors", metadata={"format": "pt"})
    (fresh / "scheduler").mkdir()
    scheduler = survey.configs["scheduler"]
    write_json(fresh / "scheduler" / "scheduler_config.json", scheduler)
    write_json(fresh / "model_index.json", _index(survey, str(scheduler.get("_class_name", "DDIMScheduler"))))


def _weights(survey: Survey, name: str, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    module = load_component(survey, name, dtype)
    return {key: value.contiguous() for key, value in module.state_dict().items()}


def _write_tokenizer(survey: Survey, name: str, folder: Path) -> None:
    if survey.layout is None:
        shutil.copytree(survey.place / name, folder)
    else:
        write_clip_tokenizer(folder, pad=pad_token(survey, name))


def _index(survey: Survey, scheduler: str) -> dict[str, Any]:
    libraries = {"unet": "diffusers", "vae": "diffusers"}
    index: dict[str, Any] = {"_class_name": survey.kind}
    index.update({name: [libraries.get(name, "transformers"), kind] for name, kind in CLASSES[survey.kind].items()})
    index["scheduler"] = ["diffusers", scheduler]
    if survey.kind == SDXL:
        return {**index, "force_zeros_for_empty_prompt": survey.force_zeros_for_empty_prompt}
    nothing = [None, None]
    return {**index, "safety_checker": nothing, "feature_extractor": nothing, "requires_safety_checker": False}


def check_written(folder: Path) -> None:
    """Survey what was written as a worker will, before it gets its name."""
    survey = survey_model(folder)
    needs_face(survey)
    check_fit(survey)
    check_adapters(survey)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
