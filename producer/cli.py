"""`face0`: the commands of the submitting side. The functions live in the rooms; the commands only speak for them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from face0_worker.commandline import EXIT_CODES, chosen_settings, run_group, setting_options

# name -> (where it lives, what --help says): a command's own imports happen when it runs, so that --help is quick
COMMANDS = {
    "init": ("producer.commands.machine:init", "Prepare this machine: config, keys, ledger, storage; safe to repeat."),
    "demo": ("producer.commands.machine:demo", "Show the whole thing with a sample person: pictures in out/."),
    "up": ("producer.commands.machine:up", "Start the embedded broker and ledger, and one worker."),
    "down": ("producer.commands.machine:down", "Stop what `face0 up` started."),
    "consent": ("producer.commands.consent:consent", "Grant, show, list and revoke consents."),
    "character": ("producer.commands.character:character", "Make people who do not exist, from a seed."),
    "submit": ("producer.commands.submit:submit", "Render a product list with one person's photo."),
    "status": ("producer.commands.jobs:status", "Show where a job, or every job, stands."),
    "watch": ("producer.commands.jobs:watch", "Follow a job until it ends."),
    "cancel": ("producer.commands.jobs:cancel", "End a job; finished pictures stay."),
    "pause": ("producer.commands.jobs:pause", "Let a job wait; what has begun is finished."),
    "resume": ("producer.commands.jobs:resume", "Let a paused job go on."),
    "retry": ("producer.commands.jobs:retry", "Try a job's failed items again."),
    "results": ("producer.commands.results:results", "Bring a job's pictures to a folder, zip or bucket; links."),
    "nightly": ("producer.commands.nightly:nightly", "Render what changed of a catalogue, every night."),
    "gallery": ("producer.commands.gallery:gallery", "Write one HTML page with a job's pictures."),
    "webhook": ("producer.commands.webhook:webhook", "Tell other systems when jobs end and consents are revoked."),
    "review": ("producer.commands.review:review", "Look at rejected pictures, and accept or reject each."),
    "pilot": ("producer.commands.pilot:pilot", "Try it on a few people and products; a report to decide by."),
    "erasure": ("producer.commands.erasure:erasure_group", "What was erased, how far it is, and proof of it."),
    "audit": ("producer.commands.audit:audit", "Verify and export the audit log."),
    "vault": ("producer.commands.vault:vault", "Replace the vault's master key."),
    "verify": ("producer.commands.results:verify", "Is this picture ours, unchanged, consented, still valid?"),
    "doctor": ("producer.commands.machine:doctor", "Check every part, and say how to mend what is wrong."),
    "config": ("producer.commands.machine:config", "Show every setting in force and where it comes from."),
    "completion": ("producer.commands.completion:completion", "Print what makes your shell complete face0's words."),
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


@setting_options
@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "FACE0"},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="face0", prog_name="face0")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, home: Path | None, settings: tuple[str, ...]) -> None:
    """Render a catalogue of pictures of one consenting person, from one photo and a product list.

    Try it first: `face0 demo`. Then: `face0 init`, `face0 up`, `face0 consent grant`, `face0 submit`.
    """
    ctx.ensure_object(dict).update(chosen_settings(config, home, settings))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; every error ends in one sentence on stderr, never in a traceback."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (design.md, section 6)."""
    return run_group(cli, "face0", arguments)


if __name__ == "__main__":
    main()
