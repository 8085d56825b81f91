"""`face0 completion`: what makes a shell complete commands, options, and the ids of jobs and consents."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from face0_worker.contract.errors import Face0Error

_MANY = 50
_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.option(
    "--program", type=click.Choice(["face0", "face0-worker"]), default="face0", show_default=True, help="For which."
)
def completion(shell: str, program: str) -> None:
    """Print the lines that make SHELL complete commands, options, and the ids of jobs and consents.

    \b
    bash  eval "$(face0 completion bash)"  in ~/.bashrc
    zsh   eval "$(face0 completion zsh)"  in ~/.zshrc
    fish  face0 completion fish > ~/.config/fish/completions/face0.fish
    """
    source = get_completion_class(shell)
    if source is None:
        raise click.BadParameter(f"{shell} is not known", param_hint="SHELL")
    click.echo(source(click.Group(), {}, program, complete_variable(program)).source())


def complete_variable(program: str) -> str:
    """Return the variable by which the shell asks for completions."""
    return f"_{program.replace('-', '_').upper()}_COMPLETE"


def known_jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a job: the newest ones, with how far they are. Nothing when the ledger does not answer."""
    from face0_worker.contract.job import ItemState
    from face0_worker.records.progress import list_jobs
    from producer.commands.setting import opened

    try:
        with opened(ctx) as services:
            found = list_jobs(services.ledger, _MANY)
    except Face0Error:  # no place to say so: the person is in the middle of a line
        return []
    return [
        CompletionItem(one.id, help=f"{one.counts[ItemState.DONE]} of {one.total} done")
        for one in found
        if one.id.startswith(incomplete)
    ]


def known_consents(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a consent, with its state. Nothing when the ledger does not answer."""
    from face0_worker.records import consents
    from producer.commands.setting import opened

    try:
        with opened(ctx) as services:
            found = consents.list_all(services.ledger)
    except Face0Error:
        return []
    return [CompletionItem(one.id, help=str(one.state)) for one in found if one.id.startswith(incomplete)]
