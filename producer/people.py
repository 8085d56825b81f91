"""Many people in one catalogue: the file that says who they are, and the lists' column `person`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput
from face0_worker.faces.embed import ONLY, check_policy
from face0_worker.records.storage import check_id
from producer.lists.list_file import shown_name
from producer.lists.product_list import Problems, open_list, read_lines

COLUMN = "person"
_FIELDS = {"consent": str, "photo": str, "which": str, "lists": list}
_EXAMPLE = 'expected a table for each person, as in [aiko] with consent = "ID"'


@dataclass(frozen=True)
class Person:
    """Who is shown: the consent's id, the photo (None: the stored face), and the lists that are this person's alone.

    `which` of several faces in the photo is meant: a policy of `faces.embed`.
    """

    consent_id: str
    photo: Path | None = None
    which: str = ONLY
    lists: tuple[Path, ...] = ()


def read_people(path: Path) -> dict[str, Person]:
    """Read a people file (TOML), in its order; paths in it are relative to it.

    Raises: BadInput: it can't be read, says something unknown, or two people have one consent.
    """
    shown = shown_name(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{shown} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{shown} is not TOML in UTF-8 ({error}); {_EXAMPLE}") from error
    # a message names people by their place: a name may be a person's own
    people = {
        name: _person(table, path.parent, f"{shown}, person {number}")
        for number, (name, table) in enumerate(tables.items(), start=1)
    }
    if not people:
        raise BadInput(f"{shown} names nobody; {_EXAMPLE}")
    places: dict[str, int] = {}
    for number, person in enumerate(people.values(), start=1):
        first = places.setdefault(person.consent_id, number)
        if first != number:
            raise BadInput(f"{shown}: persons {first} and {number} have the same consent; give each their own")
    return people


def _person(table: Any, folder: Path, where: str) -> Person:
    if not isinstance(table, dict):
        raise BadInput(f"{where} is not a table; {_EXAMPLE}")
    for name, value in table.items():
        if name not in _FIELDS:
            raise BadInput(f"{where}: {name} is not known; expected {', '.join(_FIELDS)}")
        if not isinstance(value, _FIELDS[name]):
            raise BadInput(f"{where}: {name} is not a {'list' if name == 'lists' else 'text in quotes'}")
    lists = table.get("lists", [])
    if "consent" not in table or not all(isinstance(one, str) for one in lists):
        raise BadInput(f'{where}: expected consent = "ID", and paths in quotes in lists')
    photo, which = table.get("photo"), table.get("which", ONLY)
    check_policy(which)
    return Person(
        consent_id=check_id(table["consent"]),
        photo=folder / photo if photo else None,
        which=which,
        lists=tuple(folder / one for one in lists),
    )


def people_of_skus(path: Path, sheet: str, people: Mapping[str, Person]) -> dict[str, str]:
    """Return whose each SKU of a list is, by the names in its column `person`.

    Raises: BadInput: the list has no such column, a line names nobody of the people file, or two lines of one SKU
    name different people. What else is wrong with lines is told by whoever reads the items.
    """
    shown = shown_name(path)
    found: dict[str, str] = {}
    wrong = Problems()
    for line in read_lines(open_list(path, sheet), Problems()):
        name, sku = line.cells.get(COLUMN), line.cells.get("sku", "")
        if name is None:
            raise BadInput(f"{shown} has no column {COLUMN}; it says whose line it is, or give the list to a person")
        if name not in people:
            wrong.add(line.number, COLUMN, f"is nobody of the people file, which has {len(people)}")
        elif found.setdefault(sku, name) != name:
            wrong.add(line.number, COLUMN, "is another person than an earlier line of this SKU; use one list for each")
    if wrong.count:
        raise BadInput(wrong.said(shown))
    return found


def refuse_person_columns(paths: Sequence[Path], sheet: str) -> None:
    """Check that lists that are all one person's name no people. Raises: BadInput: one would be shown as another."""
    for path in paths:
        first = next(read_lines(open_list(path, sheet), Problems()), None)
        if first is not None and COLUMN in first.cells:
            raise BadInput(f"{shown_name(path)} has a column {COLUMN}; say who they are with --people FILE")
