"""`face0-worker model`: look at models, and make model folders of single files, mappers and other precisions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from face0_worker.settings import Settings

_PLACE = click.Path(path_type=Path)
_PRECISION = click.Choice(["float32", "float16", "bfloat16"])


def add_model_commands(group: click.Group, settings: Callable[[click.Context], Settings]) -> None:
    """Give `group` the commands inspect, import and convert. `settings` reads those in force."""

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
    @click.option("--face0", "face", required=True, type=_PLACE, help="Folder with face0.json and mapper.safetensors.")
    @click.option("--out", required=True, type=_PLACE, help="Model folder to write; it must not exist.")
    @click.option("--layout", help="sd15, sd21, sd21_base, sdxl, or a folder of configs; default: by the file.")
    @click.option("--precision", type=_PRECISION, help="Store the weights in it; default: as they are.")
    def import_(source: Path, face: Path, out: Path, layout: str | None, precision: str | None) -> None:
        """Join SOURCE with a face mapper into a model folder.

        SOURCE is a single .safetensors file in the original Stable Diffusion layout, or a plain diffusers folder.
        The mapper must have been trained for it: one that was not fits all the same and paints nobody's face.
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
