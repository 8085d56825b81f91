"""`face0 character`: people who do not exist."""

from __future__ import annotations

import secrets

import click

from face0_worker.contract.errors import BadInput
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
@click.option("--share", type=float, show_default="0.5", help="How far toward it, from 0 to 1.")
@click.option("--vary", type=float, default=0.0, help="A look-alike: 0.1 to 0.3 is small, 1 is hardly the same person.")
@click.option("--variant", type=int, show_default="0", help="Which look-alike.")
@as_json_option
@click.pass_context
def new(
    ctx: click.Context,
    seed: int | None,
    toward: int | None,
    share: float | None,
    vary: float,
    variant: int | None,
    as_json: bool,
) -> None:
    """Make a character, or find it again. Its id stands for a consent; submit under it without --face."""
    if share is not None and toward is None:
        raise BadInput("--share says how far toward another seed; name it with --toward")
    if variant is not None and not vary:
        raise BadInput("--variant says which look-alike; say how much it differs with --vary, as in --vary 0.2")
    recipe = Recipe(
        seed=secrets.randbelow(2**31) if seed is None else seed,
        toward=toward,
        share=0.0 if toward is None else 0.5 if share is None else share,
        vary=vary,
        variant=variant or 0,
    )
    with opened(ctx) as services:
        made = new_character(services, recipe)
    if as_json:
        print_json(made)
        return
    say(f"Character {made.id} of seed {recipe.seed} {'is made' if made.made else 'was there already'}.")
    say(f"Next: `face0 submit --consent {made.id} --skus LIST.csv`")
