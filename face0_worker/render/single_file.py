"""One safetensors file in the original Stable Diffusion layout, with a face mapper's folder beside it. No torch.

For `portrait.safetensors` that is `portrait.face0/` with `face0.json` and `mapper.safetensors`. Such a file says
little of its configuration: it is matched with one of the layouts that ship (models/layouts).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput
from face0_worker.models import LAYOUTS, sidecar
from face0_worker.render.survey import CLASSES, PREDICTIONS, SD, SDXL, Survey, read_config, read_face
from face0_worker.render.weight_files import Header, check_contents, read_header

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
FIRST_OF_TWO, SECOND_OF_TWO = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
_FIRST_LAYER = f"{UNET}input_blocks.0.0.weight"
_PREDICTIONS = {"v": "v_prediction", "eps": "epsilon", **{name: name for name in PREDICTIONS}}


def survey_single(file: Path, layout: str | None = None) -> Survey:
    """Survey a single file. `layout`: the name of one that ships, or a folder of configs; None: by what it holds.

    Raises: ModelMissing: the file, or one beside it, is absent or damaged. BadInput: it is no safetensors file, no
    whole model, or of a kind that does not say how it predicts.
    """
    header = read_header(file)
    beside = sidecar(file)
    if beside.is_dir():
        check_contents(beside)
    face = read_face(beside)
    if face.card is not None and (face.loras or face.card.adapter is not None):
        raise BadInput(
            f"{beside / 'face0.json'} names adapters, which need a model folder: "
            "`face0-worker model import` writes one from a single file"
        )
    _check_whole(file, header)
    folder = _layout_folder(file, header, layout or _said_layout(beside, face.data))
    prefixes = _prefixes(header)
    kind = SDXL if "text_encoder_2" in prefixes else SD
    configs = {name: read_config(folder / name / "config.json", CLASSES[kind][name]) for name in prefixes}
    configs["scheduler"] = read_config(folder / "scheduler" / "scheduler_config.json", None)
    _say_prediction(file, header, configs["scheduler"], asked=layout is not None)
    weights = {
        name: {key: tensor for key, tensor in header.tensors.items() if key.startswith(prefix)}
        for name, prefix in prefixes.items()
    }
    used = sum(len(part) for part in weights.values())
    notes = (f"{len(header.tensors) - used} other weights are there and are not used",)
    return Survey(
        file,
        kind,
        configs,
        {**weights, **face.weights},
        face.card,
        face.data,
        layout=folder,
        notes=notes if used < len(header.tensors) else (),
        force_zeros_for_empty_prompt=kind == SDXL,
    )


def pad_token(survey: Survey, tokenizer: str) -> str:
    """Return what fills up short prompts: CLIP's own encoders were trained with the end token, OpenCLIP's with "!"."""
    return "!" if survey.of(tokenizer.replace("tokenizer", "text_encoder"), "pad_token_id") == 0 else "<|endoftext|>"


def _prefixes(header: Header) -> dict[str, str]:
    """Return which part of the file each component is."""
    both = {"unet": UNET, "vae": VAE}
    if _has(header, SECOND_OF_TWO):
        return {**both, "text_encoder": FIRST_OF_TWO, "text_encoder_2": SECOND_OF_TWO}
    return {**both, "text_encoder": OPEN_CLIP if _has(header, OPEN_CLIP) else CLIP}


def _has(header: Header, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in header.tensors)


def _check_whole(file: Path, header: Header) -> None:
    if any("lora" in name.lower() for name in header.tensors):
        raise BadInput(
            f"{file} holds LoRA weights, not a model; `face0-worker model with-lora` adds them to a model folder"
        )
    if _has(header, "down_blocks.") or _has(header, "encoder.down_blocks."):
        raise BadInput(f"{file} is one component of a diffusers folder; name the whole folder instead")
    for name, prefix in _prefixes(header).items():
        if not _has(header, prefix):
            raise BadInput(f"{file} is no whole Stable Diffusion model: it holds no {name} ({prefix}*)")
    channels = header.tensors[_FIRST_LAYER].shape[1:2] if _FIRST_LAYER in header.tensors else ()
    if channels == (9,):
        raise BadInput(f"{file} is a model for inpainting (9 input channels); take the base model")


def _said_layout(beside: Path, data: Mapping[str, Any]) -> str | None:
    """Return the layout that the files beside the model name: a folder of theirs, or one that ships."""
    if (beside / "layout").is_dir():
        return str(beside / "layout")
    said = data.get("layout")
    if said is not None and not (LAYOUTS / Path(str(said)).name).is_dir():
        # another folder would not be part of the digest
        raise BadInput(f"{beside / 'face0.json'}: layout {said!r} is none of those that ship")
    return None if said is None else Path(str(said)).name


def _layout_folder(file: Path, header: Header, asked: str | None) -> Path:
    if asked is not None:
        shipped = LAYOUTS / asked
        folder = shipped if Path(asked).name == asked and shipped.is_dir() else Path(asked).expanduser()
        if not (folder / "unet" / "config.json").is_file():
            known = ", ".join(sorted(path.name for path in LAYOUTS.iterdir() if path.is_dir()))
            raise BadInput(
                f"layout {asked!r} is unknown; use {known}, or a folder with unet/config.json and the others"
            )
        return folder
    if _has(header, SECOND_OF_TWO):
        return LAYOUTS / "sdxl"
    if not _has(header, OPEN_CLIP):
        return LAYOUTS / "sd15"
    said = _said_prediction(header)
    if said is None:
        raise BadInput(
            f"{file} is an SD 2.x model, and such a file does not say what it predicts: say --layout sd21 (velocity, "
            'trained at 768 px) or --layout sd21_base (noise, 512 px), or write "layout" into its face0.json'
        )
    return LAYOUTS / ("sd21" if said == "v_prediction" else "sd21_base")


def _said_prediction(header: Header) -> str | None:
    if "v_pred" in header.tensors:
        return "v_prediction"
    return _PREDICTIONS.get(str(header.metadata.get("modelspec.prediction_type")))


def _say_prediction(file: Path, header: Header, scheduler: dict[str, Any], *, asked: bool) -> None:
    """What the file says of its prediction decides, unless a layout was named that says otherwise."""
    said = _said_prediction(header)
    if said is not None and said != scheduler.get("prediction_type"):
        if asked:
            raise BadInput(
                f"{file} says that it predicts {said}, the layout {scheduler.get('prediction_type')}; name another one"
            )
        scheduler["prediction_type"] = said
    if "ztsnr" in header.tensors:
        scheduler.update(rescale_betas_zero_snr=True, timestep_spacing="trailing", set_alpha_to_one=True)
