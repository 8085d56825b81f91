"""`face0-worker people`: render portraits of people who do not exist."""

from __future__ import annotations

from pathlib import Path

import click

from face0_worker.contract.errors import ModelMissing


def add_people_command(group: click.Group) -> None:
    """Give `group` the command people."""

    @group.command()
    @click.option("--count", required=True, type=click.IntRange(1, 10_000_000), help="How many people.")
    @click.option(
        "--out", required=True, type=click.Path(path_type=Path), help="Folder to write; gone on with if begun."
    )
    @click.option("--size", default=256, show_default=True, help="Pixels a side.")
    @click.option("--seed", default=1, show_default=True, help="Another seed is other people.")
    @click.option("--views", default=3, show_default=True, help="Pictures of each person.")
    @click.option("--first", default=0, show_default=True, type=click.IntRange(0), help="Number of the first person.")
    @click.option("--processes", type=click.IntRange(1), help="Default: one for each core.")
    def people(count: int, out: Path, size: int, seed: int, views: int, first: int, processes: int | None) -> None:
        """Render portraits of people who do not exist, each with a caption and the truth about it.

        The same seed gives the same people. A run that was stopped goes on behind the last whole person.
        """
        try:
            from face0_worker.learn.people.generate import PeoplePlan, render_people
        except ModuleNotFoundError as error:
            raise ModelMissing(f"{error.name} is not installed; people need: pip install 'face0[learn]'") from error

        plan = PeoplePlan(count=count, size=size, seed=seed, views=views, first=first)
        made = render_people(plan, out, processes=processes, say=click.echo)
        click.echo(f"rendered {made} pictures into {out}")
