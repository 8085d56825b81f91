"""The form in which a person's photos are sealed beside their embedding, as far as both sides must read it."""

from __future__ import annotations

import json
from typing import Any

from face0_worker.faces.skin import Lab

# what is sealed is a photo as it came, or this line, a line of JSON, and the photos that it counts
MARK = b"face0-face/1\n"


def read_header(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what is told of sealed photos, and their bytes; nothing is told of a photo as it came.

    Raises: ValueError: damaged.
    """
    if not data.startswith(MARK):
        return {}, data
    line, _, rest = data[len(MARK) :].partition(b"\n")
    told = json.loads(line)
    if not isinstance(told, dict):
        raise ValueError
    return told, rest


def skin_of(data: bytes) -> Lab | None:
    """Return the colour of the person's face in sealed photos; None where nobody measured it."""
    try:
        light, red, yellow = read_header(data)[0]["skin"]
        return float(light), float(red), float(yellow)
    except (ValueError, KeyError, TypeError):
        return None
