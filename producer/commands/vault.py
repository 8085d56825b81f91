"""`face0 vault`: replace the master key."""

from __future__ import annotations

import click

from producer.commands.setting import opened
from producer.show import as_json_option, print_json, say


@click.group()
def vault() -> None:
    """The keys under which photos and embeddings are sealed, one for each consent, wrapped by one master key."""


@vault.command()
@as_json_option
@click.pass_context
def rotate(ctx: click.Context, as_json: bool) -> None:
    """Replace the master key and wrap every data key anew. Workers go on; a rotation that was cut off is finished."""
    with opened(ctx) as services:
        number = services.vault.rotate()
    if as_json:
        print_json({"rewrapped": number})
    else:
        say(f"The master key is replaced; {number} data keys are wrapped anew. Save vault/master.key again.")
