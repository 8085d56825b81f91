"""`face0-worker model`: look at models, and make model folders of single files, mappers, adapters and precisions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from face0_worker.contract.job import SAMPLERS
from face0_worker.settings import Settings

_PLACE = click.Path(path_type=Path)
_PRECISION = click.Choice(["float32", "float16", "bfloat16"])


def add_model_commands(group: click.Group, settings: Callable[[click.Context], Settings]) -> None:
    """Give `group` the commands of `face0-worker model`. `settings` reads those in force."""

    @group.command("inspect")
    @click.argument("model", required=False, type=_PLACE)
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    def inspect(ctx: click.Context, model: Path | None, as_json: bool) -> None:
        """Print what MODEL is and whether this worker would load it: a folder or a single .safetensors file.

        Without MODEL it is the one of this worker. Reads headers only, and needs no torch.
        """
        from face0_worker.models import model_folder
        from face0_worker.render.describe import describe

        chosen = settings(ctx)
        facts = describe(model_folder(model or chosen.model), chosen.allowed_models)
        click.echo(json.dumps(facts, ensure_ascii=False) if as_json else "\n".join(_lines(facts)))

    @group.command("import")
    @click.argument("source", type=_PLACE)
    @click.option(
        "--face0", "face", required=True, type=_PLACE, help="Folder with face0.json and its mapper or adapter."
    )
    @click.option("--out", required=True, type=_PLACE, help="Model folder to write; it must not exist.")
    @click.option("--layout", help="sd15, sd21, sd21_base, sdxl, or a folder of configs; default: by the file.")
    @click.option("--precision", type=_PRECISION, help="Store the weights in it; default: as they are.")
    def import_(source: Path, face: Path, out: Path, layout: str | None, precision: str | None) -> None:
        """Join SOURCE with a face mapper, or a face adapter, into a model folder.

        SOURCE is a single .safetensors file in the original Stable Diffusion layout, or a plain diffusers folder.
        The mapper must have been trained for it: one that was not fits all the same and paints nobody's face.
        A face adapter is written by import-adapter.
        """
        from face0_worker.render.convert import import_model

        digest = import_model(source, face, out, layout=layout, precision=precision)
        click.echo(f"wrote {out}, digest {digest}")

    @group.command("convert")
    @click.argument("model", type=_PLACE)
    @click.option("--precision", required=True, type=_PRECISION, help="Store the weights in it.")
    @click.option("--out", required=True, type=_PLACE, help="Model folder to write; it must not exist.")
    def convert(model: Path, precision: str, out: Path) -> None:
        """Write MODEL again with its weights in another precision, without shards and what is not used.

        The new folder is another model: its digest differs, and its pictures may a little.
        """
        from face0_worker.render.convert import convert_model

        click.echo(f"wrote {out}, digest {convert_model(model, out, precision)}")

    @group.command("average")
    @click.argument("first", type=_PLACE)
    @click.argument("second", type=_PLACE)
    @click.option("--out", required=True, type=_PLACE, help="Model folder to write; it must not exist.")
    def average(first: Path, second: Path, out: Path) -> None:
        """Write the mean of FIRST and SECOND, a model and what a further training made of it.

        It is often better than both (docs/training.md). They may differ in their weights only, and not in their VAE.
        Its gate has no bars until calibrate-gate sets them.
        """
        from face0_worker.render.average import average_models

        click.echo(f"wrote {out}, digest {average_models(first, second, out)}")

    _add_adapter_commands(group, settings)


def _add_adapter_commands(group: click.Group, settings: Callable[[click.Context], Settings]) -> None:
    @group.command("with-lora")
    @click.argument("model", type=_PLACE)
    @click.option(
        "--lora", required=True, type=_PLACE, help="A .safetensors file of diffusers, peft or kohya's trainer."
    )
    @click.option("--scale", default=1.0, show_default=True, help="How much of it is added.")
    @click.option("--out", required=True, type=_PLACE, help="Model folder to write; it must not exist.")
    @click.option("--name", help="The new model's name; default: MODEL's and the LoRA's.")
    @click.option("--steps", type=click.IntRange(1), help="Steps that the new model is offered with; few for LCM.")
    @click.option("--sampler", type=click.Choice(SAMPLERS), help="What its steps are made with; lcm for an LCM-LoRA.")
    @click.option("--guidance", "w", type=float, help="Strength of guidance (w) that it is offered with.")
    @click.option("--licence", default="", help="The LoRA's licence, for the card.")
    def with_lora(model: Path, lora: Path, out: Path, **said: Any) -> None:
        """Write MODEL again with a LoRA, which is added to the weights whenever the new model is loaded.

        The new folder is another model under its own name: the LoRA and its scale are part of its digest, so every
        picture is made anew. Several LoRAs: run it again on what it wrote. A LoRA for another architecture is refused.
        """
        from face0_worker.render.adapters import add_lora
        from face0_worker.render.loading import survey_model
        from face0_worker.render.survey import needs_face

        card = needs_face(survey_model(model))
        changes: dict[str, Any] = {"name": said["name"] or f"{card.name}+{lora.stem}"}
        changes |= {} if said["steps"] is None else {"steps": said["steps"]}
        changes |= {} if said["sampler"] is None else {"sampler": said["sampler"]}
        changes |= {} if said["w"] is None else {"guidance": asdict(replace(card.guidance, w=said["w"]))}
        digest = add_lora(model, lora, out, scale=said["scale"], licence=said["licence"], changes=changes)
        click.echo(f"wrote {out}, digest {digest}")

    @group.command("import-adapter")
    @click.argument("checkpoint", type=_PLACE)
    @click.option("--out", required=True, type=_PLACE, help="Face folder to write; it must not exist.")
    @click.option("--pack", type=_PLACE, help="The insightface pack that finds the faces; default: this worker's.")
    @click.option("--scale", default=1.0, show_default=True, help="How much the picture listens to the face.")
    @click.pass_context
    def import_adapter_(ctx: click.Context, checkpoint: Path, out: Path, pack: Path | None, scale: float) -> None:
        """Make a face folder of CHECKPOINT, an IP-Adapter-FaceID for SD 1.5 or SDXL (.bin or .safetensors).

        A .bin is a pickle: it is read once, in a process without network that loads nothing but weights, and stored
        as safetensors. `face0-worker model import SOURCE --face0 OUT` then joins it with a model.
        Its weights are for non-commercial use; the card says so.
        """
        from face0_worker.faces.packs import load_pack
        from face0_worker.render.adapters import import_adapter

        card = import_adapter(checkpoint, out, load_pack(pack or settings(ctx).pack), scale=scale, say=click.echo)
        click.echo(
            f"wrote {out}: {card['adapter']['tokens']} tokens of a face, embeddings of {card['embedder']['name']}"
        )
        for what, licence in card["licences"].items():
            click.echo(f"licence of the {what}: {licence}")


def _lines(facts: dict[str, Any]) -> list[str]:
    told = {name: value for name, value in facts.items() if name not in ("components", "notes", "problem", "bytes")}
    told["bytes"] = f"{facts['bytes']:,}"
    wide = max(len(name) for name in told)
    lines = [f"{name:>{wide}}  {_text(value)}" for name, value in told.items()]
    for name, part in facts["components"].items():
        rest = ", ".join(f"{key} {_text(value)}" for key, value in part.items() if key not in ("class", "parameters"))
        lines.append(f"{name:>{wide}}  {part['class']}, {part['parameters']:,} parameters, {rest}")
    lines += [f"{'note':>{wide}}  {note}" for note in facts["notes"]]
    lines.append(f"{'loads':>{wide}}  {'yes' if facts['problem'] is None else 'no: ' + facts['problem']}")
    if not facts["allowed"]:
        lines.append(f"{'but':>{wide}}  allowed_models does not name this digest: the worker will refuse it")
    return lines


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
