"""`face0`: the commands of the submitting side. The functions live in the rooms; the commands only speak for them."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from face0_worker.contract.errors import Face0Error

# name -> (where it lives, what --help says): a command's own imports happen when it runs, so that --help is quick
COMMANDS = {
    "init": ("producer.commands.machine:init", "Prepare this machine: config, keys, ledger, storage; safe to repeat."),
    "demo": ("producer.commands.machine:demo", "Show the whole thing with a sample person: pictures in out/."),
    "up": ("producer.commands.machine:up", "Start the embedded broker and ledger, and one worker."),
    "down": ("producer.commands.machine:down", "Stop what `face0 up` started."),
    "consent": ("producer.commands.consent:consent", "Grant, show, list and revoke consents."),
    "submit": ("producer.commands.submit:submit", "Render a product list with one person's photo."),
    "status": ("producer.commands.jobs:status", "Show where a job, or every job, stands."),
    "watch": ("producer.commands.jobs:watch", "Follow a job until it ends."),
    "cancel": ("producer.commands.jobs:cancel", "End a job; finished pictures stay."),
    "pause": ("producer.commands.jobs:pause", "Let a job wait; what has begun is finished."),
    "resume": ("producer.commands.jobs:resume", "Let a paused job go on."),
    "retry": ("producer.commands.jobs:retry", "Try a job's failed items again."),
    "results": ("producer.commands.results:results", "Bring a job's pictures to a folder."),
    "gallery": ("producer.commands.results:gallery", "Write one HTML page with a job's pictures."),
    "verify": ("producer.commands.results:verify", "Is this picture ours, unchanged, consented, still valid?"),
    "doctor": ("producer.commands.machine:doctor", "Check every part, and say how to mend what is wrong."),
}


class Commands(click.Group):
    """A group that imports a command only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "FACE0"},
    epilog="Exit codes: 0 done, 1 some work failed, 2 wrong input, 3 refused (consent, policy), 4 a service is down.",
)
@click.option("--config", type=click.Path(path_type=Path), help="Config file; default: face0.toml in the home folder.")
@click.option("--home", type=click.Path(path_type=Path), help="Home folder; default: ~/.face0.")
@click.version_option(package_name="face0", prog_name="face0")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, home: Path | None) -> None:
    """Render a catalogue of pictures of one consenting person, from one photo and a product list.

    Try it first: `face0 demo`. Then: `face0 init`, `face0 up`, `face0 consent grant`, `face0 submit`.
    """
    chosen = ctx.ensure_object(dict)
    chosen["config"], chosen["home"] = config, home


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; every error ends in one sentence on stderr, never in a traceback."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (design.md, section 6)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # a SKU may be Japanese and the terminal may not
            stream.reconfigure(errors="backslashreplace")
    chosen: dict[str, Any] = {}
    try:
        code: Any = cli.main(args=None if arguments is None else list(arguments), standalone_mode=False, obj=chosen)
        return code if isinstance(code, int) else 0
    except Face0Error as error:
        click.echo(f"face0: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("face0: stopped", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone, as in `face0 status | head`
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person never sees a traceback
        click.echo(f"face0: unexpected {type(error).__name__}; {_keep_traceback(error, chosen)}", err=True)
        return 1


def _keep_traceback(error: Exception, chosen: dict[str, Any]) -> str:
    """Write the traceback where only this user can read it, and say where."""
    from face0_worker.embedded import run_folder
    from face0_worker.settings import load_settings

    try:
        folder = run_folder(load_settings(**chosen).home_dir)
        file = folder / f"error-{datetime.now():%Y%m%d-%H%M%S}.txt"
        file.touch(mode=0o600)
        # frames only: the message and the values could be a person's
        frames = "".join(traceback.format_tb(error.__traceback__))
        file.write_text(f"{frames}{type(error).__name__}\n", encoding="utf-8")
    except (OSError, Face0Error):
        return "its traceback could not be written"
    return f"please report it with {file}"


if __name__ == "__main__":
    main()
