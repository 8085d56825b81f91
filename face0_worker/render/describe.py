"""What a model is, for people: digest, licences, components, shapes, and whether it would load. Needs no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.models import allowed_digests, digest_model, face_folder
from face0_worker.render.single_file import survey_single
from face0_worker.render.survey import CLASSES, Survey, check_fit, needs_face, survey_folder
from face0_worker.render.weight_files import WIDTHS, Stored

_FACES = {"mapper": "FaceMapper", "adapter": "IP-Adapter-FaceID"}
_TOLD = {
    "unet": ("in_channels", "cross_attention_dim", "block_out_channels"),
    "vae": ("latent_channels", "block_out_channels", "scaling_factor"),
    "text_encoder": ("hidden_size", "num_hidden_layers", "max_position_embeddings"),
    "text_encoder_2": ("hidden_size", "num_hidden_layers", "projection_dim"),
}


def describe(place: Path, allowed_models: str) -> dict[str, Any]:
    """Return the facts of a model folder or single file as plain JSON values, the card's own among them.

    `problem` is the sentence that a worker would refuse it with, or None. `allowed_models` is the setting.
    Raises: ModelMissing, BadInput: it can't even be surveyed, or the setting is wrong.
    """
    survey = survey_single(place) if place.is_file() else survey_folder(place)
    digest, allowed = digest_model(place), allowed_digests(allowed_models)
    scheduler = survey.configs["scheduler"]
    return {
        "digest": digest,
        "bytes": _bytes(place),
        **survey.card_data,
        "kind": survey.kind,
        "layout": "diffusers folder" if survey.layout is None else f"single file, {survey.layout.name}",
        "components": {
            name: {"class": CLASSES[survey.kind].get(name) or _FACES[name], **_stored(stored), **_shapes(survey, name)}
            for name, stored in survey.weights.items()
            if stored
        },
        "scheduler": {"class": scheduler.get("_class_name"), "prediction": scheduler.get("prediction_type", "epsilon")},
        "allowed": allowed is None or digest in allowed,
        "notes": list(survey.notes),
        "problem": _problem(survey),
    }


def _problem(survey: Survey) -> str | None:
    try:
        needs_face(survey)
        check_fit(survey)
    except (BadInput, ModelMissing) as error:
        return str(error)
    return None


def _bytes(place: Path) -> int:
    files = [place, *face_folder(place).rglob("*")] if place.is_file() else place.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def _stored(stored: Mapping[str, Stored]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for tensor in stored.values():
        counts[tensor.dtype] += math.prod(tensor.shape)
    return {
        "parameters": sum(counts.values()),
        "dtypes": sorted(counts, key=lambda dtype: -counts[dtype]),
        "bytes": sum(WIDTHS[dtype] * count for dtype, count in counts.items()),
    }


def _shapes(survey: Survey, name: str) -> dict[str, Any]:
    if name == "adapter":
        first = survey.weights[name].get("image_proj.proj.0.weight")
        return {} if first is None else {"in": first.shape[-1]}
    if name == "mapper":
        ends = [survey.weights[name].get(f"layers.{layer}.weight") for layer in (0, 3)]
        return {} if None in ends else {"in": ends[0].shape[-1], "out": ends[1].shape[0]}  # type: ignore[union-attr]
    return {key: survey.of(name, key) for key in _TOLD[name]}
