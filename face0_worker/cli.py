"""`face0-worker`: the commands of the machine that renders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from face0_worker.bench.command import bench
from face0_worker.commandline import EXIT_CODES, chosen_settings, run_group, setting_options
from face0_worker.evaluate_command import add_evaluate_command
from face0_worker.gate_commands import add_gate_commands
from face0_worker.learn.people.command import add_people_command
from face0_worker.learn.train_commands import add_train_commands
from face0_worker.model_commands import add_model_commands
from face0_worker.settings import Settings, load_settings
from face0_worker.training_permit import training_permit


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
add_gate_commands(commands, model, _settings)


commands.add_command(bench)
add_people_command(commands)
add_train_commands(commands, lambda ctx: training_permit(_settings(ctx)))


@commands.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with people.jsonl and pictures.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write: characters.json of a pack.")
@click.pass_context
def characters(ctx: click.Context, data: Path, out: Path) -> None:
    """Fit the mixture that `face0 character new` draws from, to portraits seen by this machine's face pack."""
    from face0_worker.learn.characters import fit_portraits

    settings = _settings(ctx)
    fit_portraits(data, out, pack=settings.pack, permit=training_permit(settings), say=click.echo)


add_evaluate_command(commands, _settings)


if __name__ == "__main__":
    main()
