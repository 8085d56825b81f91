"""What every command begins with: the settings in force, and the opened parts of the installation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from face0_worker.commandline import chosen_settings
from face0_worker.settings import Origin, Settings, explain, load_settings
from producer.services import Services


def settings_of(ctx: click.Context, **said: object) -> Settings:
    """Return the settings by the group's options and by what the command `said` (None: nothing). Raises: BadInput."""
    return load_settings(**_chosen(ctx) | {name: value for name, value in said.items() if value is not None})


def explained(ctx: click.Context) -> Iterator[Origin]:
    """Yield every setting with its origin. Raises: BadInput."""
    return explain(**_chosen(ctx))


def _chosen(ctx: click.Context) -> dict[str, Any]:
    root = ctx.find_root()
    if root.obj:
        return dict(root.obj)
    # a shell that completes a line has the group's options parsed but never runs the group
    said = root.params
    return chosen_settings(said.get("config"), said.get("home"), said.get("settings") or ())


@contextmanager
def opened(ctx: click.Context) -> Iterator[Services]:
    """Give the installation's parts and close them afterwards."""
    with Services(settings_of(ctx)) as services:
        yield services


weak_store_option = click.option(
    "--allow-weak-store",
    is_flag=True,
    default=None,
    allow_from_autoenv=False,  # FACE0_ALLOW_WEAK_STORE is the setting's own variable
    help="Accept a store that ignores conditional writes.",
)
existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
any_path = click.Path(path_type=Path)
