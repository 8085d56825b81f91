"""`face0 character`: people who do not exist."""

from __future__ import annotations

import secrets

import click

from face0_worker.faces.characters import Recipe
from producer.characters import new_character
from producer.commands.setting import opened
from producer.show import as_json_option, print_json, say


@click.group()
def character() -> None:
    """People who do not exist, for tests and drafts: a seed is the same person in every job, this year and next."""


@character.command()
@click.option("--seed", type=int, help="Which person; default: one by chance, which is then told.")
@click.option("--toward", type=int, help="Another seed, to make somebody between the two.")
@click.option("--share", type=float, default=0.5, show_default=True, help="How far toward it, from 0 to 1.")
@click.option("--vary", type=float, default=0.0, help="A look-alike: 0.1 to 0.3 is small, 1 is hardly the same person.")
@click.option("--variant", type=int, default=0, show_default=True, help="Which look-alike.")
@as_json_option
@click.pass_context
def new(
    ctx: click.Context,
    seed: int | None,
    toward: int | None,
    share: float,
    vary: float,
    variant: int,
    as_json: bool,
) -> None:
    """Make a character, or find it again. Its id stands for a consent; submit under it without --face."""
    recipe = Recipe(
        seed=secrets.randbelow(2**31) if seed is None else seed,
        toward=toward,
        share=share if toward is not None else 0.0,
        vary=vary,
        variant=variant,
    )
    with opened(ctx) as services:
        made = new_character(services, recipe)
    if as_json:
        print_json(made)
        return
    say(f"Character {made.id} of seed {recipe.seed} {'is made' if made.made else 'was there already'}.")
    say(f"Next: `face0 submit --consent {made.id} --skus LIST.csv`")
