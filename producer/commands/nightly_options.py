"""The options of a night: whose lists, until when, how good; as the order of a run, and as words for a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
from click.core import ParameterSource

from face0_worker.contract.consent import PICTURES, Purpose
from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import RenderItem
from face0_worker.records.offers import find_model
from producer.catalogue import ItemDefaults, ListOptions, read_items
from producer.commands.completion import known_consents
from producer.commands.list_options import list_options, warn_of_unknown_words
from producer.commands.setting import any_path
from producer.nights.plan import Share
from producer.people import Person, people_of_skus, read_people, refuse_person_columns
from producer.services import Services
from producer.sources import photo_files

R = TypeVar("R")
_OPTIONS = (
    click.argument("lists", metavar="LIST...", nargs=-1, type=any_path),
    click.option("--catalogue", required=True, help="Name of the catalogue: letters, digits, - and _."),
    click.option(
        "--people", type=any_path, help="TOML file: who the lists' column person means, with consent and photo."
    ),
    click.option(
        "--consent",
        "consent_id",
        metavar="ID",
        shell_complete=known_consents,
        help="Consent, where all is one person's.",
    ),
    click.option(
        "--face", "faces", multiple=True, type=any_path, help="Photo of that person. Default: the stored face."
    ),
    click.option("--which", default="only", show_default=True, help="Which face of a photo, as in `face0 submit`."),
    click.option("--weight", "weights", multiple=True, type=float, help="Weight of each --face, in their order."),
    click.option(
        "--purpose",
        type=click.Choice([str(purpose) for purpose in PICTURES]),
        default=str(Purpose.CATALOGUE),
        show_default=True,
        help="What the pictures are for; the consents must allow it.",
    ),
    list_options,
    click.option("--campaign", default="", help="Campaign the pictures are for, where the consent names some."),
    click.option("--channel", default="", help="Where they are shown (web, store, tv), where the consent names some."),
    click.option("--territory", default="", help="Country or region they are for (JP), where the consent names some."),
    click.option("--bars", type=any_path, help="File of the quality gate's bars (docs/quality.md)."),
    click.option("--model", help="Model by name or digest; default: the one that a worker offers."),
    click.option("--until", metavar="HH:MM", help="Deadline: when the machine's clock next shows it."),
    click.option(
        "--at-deadline",
        type=click.Choice(["publish", "keep"]),
        default="publish",
        show_default=True,
        help="At the deadline: publish what is complete, or keep what is shown. The rest is cancelled.",
    ),
    click.option(
        "--min-done",
        type=click.FloatRange(0, 1),
        default=0.98,
        show_default=True,
        help="Publish when at least this share of the allowed pictures was made as asked.",
    ),
)


def nightly_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that say what a night is."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def shares_of(
    services: Services,
    *,
    lists: Sequence[Path],
    people: Path | None,
    consent_id: str | None,
    faces: Sequence[Path],
    which: str,
    weights: Sequence[float],
    template: str | None,
    how: ListOptions,
    model: str | None,
) -> tuple[Share, ...]:
    """Read the lists and say whose each item is; no photo is opened. Raises: BadInput."""
    defaults = ItemDefaults.of_model(find_model(services.ledger, model).facts)
    read = partial(_items, template=template, defaults=defaults, how=how)
    if people is not None:
        if consent_id or faces or weights:
            raise BadInput("--people says whose photos and consents; leave --consent, --face and --weight out")
        return _of_people(read_people(people), lists, how, read)
    if not consent_id or not lists:
        raise BadInput("a night needs lists, and --consent ID or --people FILE")
    refuse_person_columns(lists, how.sheet)
    photo = partial(photo_files, faces, weights, which) if faces or weights else None
    return (Share(consent_id, tuple(item for path in lists for item in read(path)), photo),)


def _items(path: Path, *, template: str | None, defaults: ItemDefaults, how: ListOptions) -> tuple[RenderItem, ...]:
    listed = read_items(path, template, defaults, how)
    items = tuple(listed)
    warn_of_unknown_words(listed)
    return items


def _of_people(
    people: dict[str, Person],
    lists: Sequence[Path],
    how: ListOptions,
    read: Callable[[Path], tuple[RenderItem, ...]],
) -> tuple[Share, ...]:
    theirs: dict[str, list[RenderItem]] = {name: [] for name in people}
    for path in lists:
        whose = people_of_skus(path, how.sheet, people)
        for item in read(path):
            theirs[whose[item.sku]].append(item)
    for name, person in people.items():
        refuse_person_columns(person.lists, how.sheet)
        theirs[name] += (item for path in person.lists for item in read(path))
    shares = tuple(
        Share(
            person.consent_id,
            tuple(theirs[name]),
            partial(photo_files, (person.photo,), (), person.which) if person.photo else None,
        )
        for name, person in people.items()
        if theirs[name]
    )
    if not shares:
        raise BadInput("no list has an item for anybody of the people file")
    return shares


def words_of(ctx: click.Context, lists: Sequence[Path]) -> list[str]:
    """Return the words for `nightly run` that were given to a command with the same options; paths are absolute."""
    words: list[str] = []
    for option in ctx.command.params:
        given = ctx.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if not given or not isinstance(option, click.Option) or str(option.name) in ("at", "write", "to", "as_json"):
            continue
        value = ctx.params[str(option.name)]
        if option.is_flag:
            words.append(option.opts[0])
            continue
        for one in value if option.multiple else (value,):
            words += [option.opts[0], _absolute(one)]
    # after --, so that no list is taken for an option
    return [*words, "--", *map(_absolute, lists)]


def _absolute(value: object) -> str:
    return str(value.absolute()) if isinstance(value, Path) else str(value)
