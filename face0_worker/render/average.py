"""The mean of two models: of one, and of what a further training made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from face0_worker.contract.errors import BadInput
from face0_worker.models import digest_model
from face0_worker.render.convert import check_written, new_folder, write_json
from face0_worker.render.loading import survey_model
from face0_worker.render.survey import Survey, check_fit, needs_face

_CARD = Path("face0") / "face0.json"
# which token stands for which word: in one file, or in two, or both
_WORDS = ("tokenizer.json", "vocab.json", "merges.txt")
# what a config says of how it was written, and not of the model
_WRITTEN = frozenset({"_name_or_path", "_diffusers_version", "transformers_version", "_commit_hash"})


def average_models(first: Path, second: Path, out: Path) -> str:
    """Write the model folder `out` whose weights are the means of those of two, which differ in their training only.

    Weights of one training and of another that went on from it often lie around a better place than either found
    (model soups, Wortsman et al. 2022, arXiv 2203.05482). Everything else is `second`'s; the card holds both trainings,
    and no bars, which belong to weights. Returns the new model's digest.
    Raises: ModelMissing, BadInput: as read_parts; BadInput: `out` exists, or the two don't have the same parts, the
    same VAE and the same face pack, so that a mean would mean nothing.
    """
    mine, theirs = (_surveyed(folder) for folder in (first, second))
    _check_alike(mine, theirs)
    with new_folder(out) as fresh:
        shutil.copytree(second, fresh, dirs_exist_ok=True)
        for path in sorted(second.rglob("*.safetensors")):
            file = path.relative_to(second)
            _write_mean(first / file, path, fresh / file, same="vae" in file.parts)
        write_json(fresh / _CARD, _card(mine.card_data, theirs.card_data))
        if (fresh / "README.md").is_file():
            with (fresh / "README.md").open("a", encoding="utf-8") as readme:
                readme.write(
                    "- **Averaged**: half of each weight is that of another training's; the card tells both.\n"
                )
        check_written(fresh)
    return digest_model(out)


def _surveyed(folder: Path) -> Survey:
    survey = survey_model(folder)
    if survey.layout is not None:
        raise BadInput(f"{folder} is a single file; `face0-worker model import` writes a folder from it first")
    card = needs_face(survey)
    if card.adapter is not None or card.loras:
        raise BadInput(f"{folder} has adapters; only models without are averaged")
    check_fit(survey)
    return survey


def _check_alike(mine: Survey, theirs: Survey) -> None:
    """Raises: BadInput: something else than weights differs."""
    named = f"{mine.place} and {theirs.place}"
    if mine.kind != theirs.kind or _told(mine.configs) != _told(theirs.configs):
        raise BadInput(
            f"{named} have different parts, or the same in another shape; only models of one kind are averaged"
        )
    for path in sorted(theirs.place.glob("tokenizer*/*")):
        other = mine.place / path.relative_to(theirs.place)
        if path.name in _WORDS and other.is_file() and other.read_bytes() != path.read_bytes():
            raise BadInput(f"{other} and {path} differ: a token means another word to each, and nothing to their mean")
    for name in ("embedder", "tokens", "mapper_width", "size"):
        if mine.card_data.get(name) != theirs.card_data.get(name):
            raise BadInput(f"{named} have another {name} each; only models of one kind are averaged")


def _told(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what configs say of a model, in one text that can be compared."""
    kept = {part: {key: value for key, value in told.items() if key not in _WRITTEN} for part, told in configs.items()}
    return json.dumps(kept, sort_keys=True)


def _write_mean(one: Path, other: Path, out: Path, *, same: bool) -> None:
    """Write the means of two files' tensors, each in its own precision; `same`: they have to be equal already."""
    if not one.is_file():
        raise BadInput(f"{one} is missing, and {other} is there; only models of one kind are averaged")
    mine, theirs = load_file(one), load_file(other)
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (mine, theirs)]
    if shapes[0] != shapes[1]:
        raise BadInput(f"{one} and {other} hold different tensors; only models of one kind are averaged")
    if same:
        if not all(torch.equal(mine[name], theirs[name]) for name in theirs):
            raise BadInput(f"{one} and {other} differ: latents of one VAE mean nothing to another, nor does their mean")
        return
    means = {name: ((mine[name].float() + tensor.float()) / 2).to(tensor.dtype) for name, tensor in theirs.items()}
    with safe_open(other, "pt") as opened:
        told = opened.metadata()
    save_file(means, out, metadata=told)


def _card(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    card = {name: value for name, value in theirs.items() if name != "gate"}
    licences = dict(theirs.get("licences", {}))
    for what, licence in mine.get("licences", {}).items():
        known = licences.setdefault(what, licence)
        licences[what] = known if known == licence else f"{licence}, {known}"
    return {**card, "licences": licences, "training": {"average_of": [mine.get("training"), theirs.get("training")]}}
