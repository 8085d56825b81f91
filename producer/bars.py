"""The quality gate's bars of a job: the model's own, and what a file of the catalogue says otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from face0_worker.contract.bars import Bars, of_model
from face0_worker.contract.errors import BadInput
from producer.lists.list_file import shown_name
from producer.lists.signs import plain_number
from producer.lists.yaml_file import read_yaml

MODEL, OFF = "model", "off"
_YES, _NO = ("yes", "true", "on"), ("no", "false", OFF)


def bars_for(facts: Mapping[str, Any], file: Path | None) -> Bars:
    """Return the bars for the model that a worker offers with these facts; what `file` does not name is the model's.

    Raises: BadInput: the file can't be read, or names a bar that there is not or that can't be meant.
    """
    own = of_model(facts)
    if file is None:
        return own
    said, name = read_yaml(file.expanduser()), shown_name(file)
    values = asdict(own)
    for bar, value in said.items():
        if bar not in values:
            near = difflib.get_close_matches(bar, values, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise BadInput(f"{name}: there is no bar {bar!r}{meant}; there are {', '.join(values)}")
        if value != MODEL:
            values[bar] = _value(name, bar, value)
    try:
        return Bars(**values)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def _value(file: str, bar: str, value: Any) -> Any:
    kind = next(field.type for field in fields(Bars) if field.name == bar)
    text = plain_number(value).strip().lower() if isinstance(value, str) else ""
    try:
        if kind == "bool" and text in _YES + _NO:
            return text in _YES
        if kind == "int":
            return int(text)
        if kind not in ("bool", "int"):
            return None if text == OFF else float(text)
    except ValueError:
        pass
    expected = {"bool": "yes or no", "int": "a whole number"}.get(str(kind), f"a number, {MODEL} or {OFF}")
    raise BadInput(f"{file}: {bar} is {value!r}; expected {expected}")
