"""`face0-worker`: the commands of the machine that renders."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from face0_worker.contract.errors import Face0Error
from face0_worker.settings import Settings, load_settings


class Commands(click.Group):
    """Commands that end with one sentence and the error's exit code, never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Face0Error as error:
            click.echo(f"face0-worker: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="Config file; default: face0.toml in the home folder.")
@click.option("--home", type=click.Path(path_type=Path), help="Home folder; default: ~/.face0.")
@click.version_option(package_name="face0")
@click.pass_context
def main(ctx: click.Context, config: Path | None, home: Path | None) -> None:
    """Render catalogue jobs on this machine."""
    ctx.obj = (config, home)


def _settings(ctx: click.Context) -> Settings:
    config, home = ctx.obj
    return load_settings(config, home=home)


@main.command()
@click.pass_context
def run(ctx: click.Context) -> None:
    """Take batches and render them until told to stop (Ctrl-C or SIGTERM finishes the running batch).

    Without FACE0_BROKER_URL and FACE0_LEDGER_URL the embedded Valkey and PostgreSQL of the home folder are used,
    and started here when they are not running; what was started here is stopped here.
    """
    from face0_worker.service import serve

    serve(_settings(ctx))


@main.group()
def model() -> None:
    """Look at model folders."""


@model.command("inspect")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def model_inspect(ctx: click.Context, folder: Path | None, as_json: bool) -> None:
    """Print digest, sizes, training facts and licences of FOLDER (default: the model of this worker)."""
    from face0_worker.faces.packs import digest_folder
    from face0_worker.models import model_folder

    where = model_folder(folder or _settings(ctx).model)
    card = json.loads((where / "face0" / "face0.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in where.rglob("*") if path.is_file())
    facts = {"digest": digest_folder(where), "bytes": size, **card}
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        click.echo(f"{name:>10}  {json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value}")


@main.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with people.jsonl and pictures.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write; resumes from it.")
@click.option("--vae-steps", default=4000, show_default=True, help="Steps of the VAE, where there is none yet.")
@click.option("--steps", default=8000, show_default=True, help="Optimiser steps of the denoiser, over all sittings.")
@click.option("--minutes", default=90.0, show_default=True, help="Time for this sitting.")
@click.option("--crop", default=None, help="left,top,right,bottom of every picture, in its pixels.")
def train(data: Path, out: Path, vae_steps: int, steps: int, minutes: float, crop: str | None) -> None:
    """Train a small model from captioned portraits: VAE, then text encoder, denoiser and FaceMapper."""
    from face0_worker.learn.small_model import train_small

    box = None if crop is None else _box(crop)
    train_small(data, out, vae_steps=vae_steps, steps=steps, minutes=minutes, crop=box, say=click.echo)


def _box(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is not left,top,right,bottom", param_hint="--crop")
    left, top, right, bottom = (int(part) for part in parts)
    return left, top, right, bottom


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
