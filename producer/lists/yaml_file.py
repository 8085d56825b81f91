"""YAML that people write by hand: plain names, texts and lists, with a sentence and a line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from face0_worker.contract.errors import BadInput
from producer.lists.list_file import LONGEST_LINE, look_through, shown_name

Plain = str | list[Any] | dict[str, Any]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds; every value is text, a list or a mapping, so that `no` and 08 stay what they are.

    Raises: BadInput: unreadable, not YAML, no mapping, the same name twice, or an alias.
    """
    name = shown_name(path)
    text = "".join(look_through(path).lines(newline=""))
    if len(text) > LONGEST_LINE:
        raise BadInput(f"{name} has {len(text):,} characters; expected at most {LONGEST_LINE:,}")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise BadInput(f"{name}: aliases (*name) are not read here; write the value out")
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{name}, line {line}: is not YAML ({error.problem or 'it ends too early'})") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"{name}: is not YAML ({type(error).__name__})") from error
    value = _plain(node, name) if node is not None else {}
    if not isinstance(value, dict):
        raise BadInput(f"{name}: expected names with values, as in `name: value`")
    return value


def _plain(node: yaml.Node, file: str) -> Plain:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value) if node.tag != "tag:yaml.org,2002:null" else ""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(part, file) for part in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BadInput(f"{file}, line {key.start_mark.line + 1}: a name must be a word")
        if key.value in found:
            raise BadInput(f"{file}, line {key.start_mark.line + 1}: {key.value} is there twice; remove one")
        found[str(key.value)] = _plain(value, file)
    return found
