"""`face0-worker`: the commands of the machine that renders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from face0_worker.commandline import EXIT_CODES, chosen_settings, run_group, setting_options
from face0_worker.model_commands import add_model_commands
from face0_worker.settings import Settings, load_settings


@setting_options
@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="face0", prog_name="face0-worker")
@click.pass_context
def commands(ctx: click.Context, config: Path | None, home: Path | None, settings: tuple[str, ...]) -> None:
    """Render catalogue jobs on this machine."""
    ctx.ensure_object(dict).update(chosen_settings(config, home, settings))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code."""
    sys.exit(run_group(commands, "face0-worker", arguments))


def _settings(ctx: click.Context, **said: object) -> Settings:
    return load_settings(
        **{**ctx.find_root().obj, **{name: value for name, value in said.items() if value is not None}}
    )


@commands.command()
@click.option("--model", help="Model folder; default: the one that ships.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", help="auto, float32, bfloat16 or float16.")
@click.option("--batch", help="Pictures in one render batch.")
@click.option("--allow-weak-store", is_flag=True, default=None, help="Accept a store that ignores conditional writes.")
@click.pass_context
def run(ctx: click.Context, /, **said: str | bool | None) -> None:
    """Take batches and render them until told to stop (Ctrl-C or SIGTERM finishes the running batch).

    Without FACE0_BROKER_URL and FACE0_LEDGER_URL the embedded Valkey and PostgreSQL of the home folder are used,
    and started here when they are not running; what was started here is stopped here.
    """
    from face0_worker.service import serve

    serve(_settings(ctx, **said))


@commands.group()
def model() -> None:
    """Look at models, and make model folders."""


add_model_commands(model, _settings)


@commands.command()
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


@commands.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with people.jsonl and pictures.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write: characters.json of a pack.")
@click.option("--crop", default=None, help="left,top,right,bottom of every picture, in its pixels.")
@click.pass_context
def characters(ctx: click.Context, data: Path, out: Path, crop: str | None) -> None:
    """Fit the mixture that `face0 character new` draws from, to portraits seen by this machine's face pack."""
    from face0_worker.learn.characters import fit_portraits

    fit_portraits(data, out, pack=_settings(ctx).pack, crop=None if crop is None else _box(crop), say=click.echo)


def _box(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is not left,top,right,bottom", param_hint="--crop")
    left, top, right, bottom = (int(part) for part in parts)
    return left, top, right, bottom


if __name__ == "__main__":
    main()
