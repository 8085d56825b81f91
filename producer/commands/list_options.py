"""What commands that read a product list have in common: the options that say how, a preview, a count, a warning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import click

from producer.catalogue import MOST_PICTURES, ListOptions, ProductList
from producer.commands.setting import any_path
from producer.show import print_json, print_table, say

R = TypeVar("R")
_OPTIONS = (
    click.option("--sheet", default="", help="Sheet of an Excel workbook. Default: the first that is not hidden."),
    click.option(
        "--template",
        help='Make prompts from columns: "a person wearing {garment}", or Jinja2: "{{ garment | lower }}".',
    ),
    click.option(
        "--variants", type=any_path, help="YAML file of axes (background, season, ...): variants of each line."
    ),
    click.option(
        "--max-pictures",
        type=click.IntRange(min=1),
        default=MOST_PICTURES,
        show_default=True,
        help="Refuse --variants that make more pictures than this.",
    ),
    click.option("--frames", type=any_path, help="YAML file of sizes for the column frame, beside the built-in ones."),
    click.option("--glossary", type=any_path, help="Product words and their prompt words: .csv, .xlsx or .yaml."),
    click.option("--strict-glossary", is_flag=True, help="Refuse Japanese words that the glossary has no entry for."),
)


def list_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that say how a list becomes items; the command gets `template` and `how`."""

    @functools.wraps(command)
    def gathered(
        *arguments: object,
        sheet: str,
        variants: Path | None,
        frames: Path | None,
        glossary: Path | None,
        strict_glossary: bool,
        max_pictures: int,
        **others: object,
    ) -> R:
        how = ListOptions(sheet, variants, frames, glossary, strict_glossary, max_pictures)
        return command(*arguments, how=how, **others)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


preview_option = click.option(
    "--preview",
    metavar="N",
    type=click.IntRange(min=1),
    help="Show the first N pictures' prompts and sizes; enqueue nothing.",
)


def show_preview(items: ProductList, number: int, *, as_json: bool) -> None:
    """Print the first items as they would be rendered. Raises: BadInput: what is wrong with their lines."""
    first = list(islice(items, number))
    if not as_json:
        sizes = [f"{one.width}x{one.height}" for one in first]
        exact = [f" -> {one.output_width}x{one.output_height} {one.fit}" if one.fit else "" for one in first]
        rows = [
            (one.sku, one.variant, size + to, one.prompt) for one, size, to in zip(first, sizes, exact, strict=True)
        ]
        print_table(("SKU", "variant", "size", "prompt"), rows)
        say(f"The first {len(first)} pictures; --dry-run checks the whole list. Nothing was enqueued.")
    else:
        print_json([one.to_json() for one in first])
    warn_of_unknown_words(items)


def count_variants(items: ProductList) -> dict[str, dict[str, int]]:
    """Return how many pictures each value of each axis gets; {} without variants."""
    return items.variants.count(item.variant for item in items) if items.variants else {}


def say_variants(counts: dict[str, dict[str, int]]) -> None:
    """Print the counts, a line an axis."""
    for axis, values in counts.items():
        say(f"  {axis}: {', '.join(f'{value} {count:,}' for value, count in values.items())}")


def warn_of_unknown_words(items: ProductList) -> None:
    """Say on stderr which Japanese words of the list stayed as they are."""
    if said := items.unknown.said(items.file.name):
        click.echo(f"Warning: {said}", err=True)
