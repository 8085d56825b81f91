"""What every command begins with: the settings in force, and the opened parts of the installation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from face0_worker.settings import Settings, load_settings
from producer.services import Services


def settings_of(ctx: click.Context) -> Settings:
    """Return the settings by the group's --config and --home. Raises: BadInput."""
    return load_settings(**ctx.find_root().obj)


@contextmanager
def opened(ctx: click.Context) -> Iterator[Services]:
    """Give the installation's parts and close them afterwards."""
    with Services(settings_of(ctx)) as services:
        yield services


existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
any_path = click.Path(path_type=Path)
