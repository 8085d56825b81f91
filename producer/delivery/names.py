"""File names that people can read and every system can write, made from the list's own words."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Collection, Mapping

from face0_worker.contract.errors import BadInput

DEFAULT = "{sku}-{variant}"
FIELDS = ("sku", "variant", "position", "job", "catalogue")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST = 150  # bytes in UTF-8; file systems allow 255, and a number and an ending follow
_WIDTH = re.compile(r"0?[1-9]")
_JOINTS = " -_.+,"


def file_names(rows: Collection[tuple[int, str, str]], template: str = DEFAULT, **same: str) -> dict[int, str]:
    """Return a file name without ending for each (position, sku, variant), by position; no two are equal.

    Names differ also where upper and lower case are the same, as on Windows and macOS: the second gets "-2". `same`:
    what `{job}` and `{catalogue}` stand for. A `/` in the template makes folders.
    Raises: BadInput: the template names something that is not there.
    """
    parts = [_parsed(part) for part in check_template(template).split("/")]
    taken: set[str] = set()
    names: dict[int, str] = {}
    for position, sku, variant in rows:
        values = {**dict.fromkeys(FIELDS, ""), **same, "sku": sku, "variant": variant, "position": str(position + 1)}
        filled = (_filled(part, values) for part in parts)
        plain = "/".join(safe_name(text) for text in filled if text) or "picture"
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        names[position] = name
    return names


def check_template(template: str) -> str:
    """Return a template for names. Raises: BadInput: it is empty, or names something that is not there."""
    for part in template.split("/"):
        _parsed(part)
    if not template.strip("/ "):
        raise BadInput(f"--name is empty; a name is made of {_known()}, as in --name {DEFAULT}")
    return template


def safe_name(text: str) -> str:
    """Return text as a file name on any system; letters of every language stay, separators become `_`."""
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", text))
    name = "".join(sign for sign in name if unicodedata.category(sign) not in ("Cf", "Cs", "Co", "Cn"))
    name = name.encode()[:_LONGEST].decode(errors="ignore").strip(" .")
    if not name or set(name) == {"_"}:
        return "picture"
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def _parsed(part: str) -> list[tuple[str, str, int]]:
    """Return (text before, field, width) for each field of one part; what follows the last has the field ""."""
    try:
        pieces = list(string.Formatter().parse(part))
    except ValueError as error:
        raise BadInput(f"--name {part}: {error}; write {{{{ for a brace") from error
    found = []
    for text, field, form, conversion in pieces:
        if field is None:
            found.append((text, "", 0))
            continue
        numbered = not form or (field == "position" and _WIDTH.fullmatch(form))
        if field not in FIELDS or conversion or not numbered:
            raise BadInput(f"--name: {{{field}{':' if form else ''}{form}}} is not known; there are {_known()}")
        found.append((text, field, int(form or 0)))
    return found


def _filled(part: list[tuple[str, str, int]], values: Mapping[str, str]) -> str:
    """Return a part with its fields; before one that is empty, the sign that joins it falls away too."""
    name = ""
    for text, field, width in part:
        value = values.get(field, "").rjust(width, "0")
        name += text.rstrip(_JOINTS) if field and not value else text
        name += value
    return name.lstrip(_JOINTS) if part and part[0][1] and not values[part[0][1]] else name


def _known() -> str:
    return ", ".join(f"{{{name}}}" for name in FIELDS)
