"""The wire form reads back exactly, and the key names the picture: everything that decides pixels, nothing else."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import (
    Guidance,
    RenderItem,
    Subject,
    batch_message,
    canonical_json,
    item_key,
    read_batch_message,
)

numbers = st.floats(-20, 20, allow_nan=False)
guidances = st.builds(Guidance, w=numbers, c=numbers, a=numbers, start=st.floats(0, 0.4), stop=st.floats(0.5, 1))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
items = st.builds(
    RenderItem,
    sku=texts,
    prompt=texts,
    negative_prompt=texts,
    variant=texts,
    seed=st.integers(0, 2**63 - 1),
    width=st.sampled_from([64, 128]),
    output_width=st.sampled_from([0, 1080]),
    fit=st.sampled_from(["", "crop", "pad #ffffff"]),
    guidance=guidances,
)
SUBJECT = Subject("c1", "a" * 64, "b" * 64, "c" * 64)
ITEM = RenderItem("sku", "a prompt")


@given(items)
def test_an_item_reads_back_exactly_from_its_json(item: RenderItem) -> None:
    assert RenderItem.from_json(json.loads(canonical_json(item.to_json()))) == item


@given(items)
def test_a_key_is_64_hex_digits_and_the_same_every_time(item: RenderItem) -> None:
    key = item_key(SUBJECT, item)
    assert len(key) == 64
    assert int(key, 16) >= 0
    assert key == item_key(SUBJECT, RenderItem.from_json(item.to_json()))


@given(items, texts, texts)
def test_the_lists_own_names_are_not_part_of_the_key(item: RenderItem, sku: str, variant: str) -> None:
    assert item_key(SUBJECT, item) == item_key(SUBJECT, replace(item, sku=sku, variant=variant))


def other_than(value: object) -> object:
    """Return another value of the same kind."""
    if isinstance(value, Guidance):
        return replace(value, w=value.w + 1)
    return value + 1 if isinstance(value, int) else f"{value}x"


@pytest.mark.parametrize("name", [f.name for f in fields(RenderItem) if f.name not in ("sku", "variant")])
def test_every_other_field_of_an_item_changes_the_key(name: str) -> None:
    change: dict[str, Any] = {name: other_than(getattr(ITEM, name))}
    assert item_key(SUBJECT, ITEM) != item_key(SUBJECT, replace(ITEM, **change))


@pytest.mark.parametrize("name", [f.name for f in fields(Subject)])
def test_every_field_of_a_subject_changes_the_key(name: str) -> None:
    change: dict[str, Any] = {name: other_than(getattr(SUBJECT, name))}
    assert item_key(SUBJECT, ITEM) != item_key(replace(SUBJECT, **change), ITEM)


@pytest.mark.parametrize("name", [f.name for f in fields(Guidance)])
def test_every_field_of_the_guidance_changes_the_key(name: str) -> None:
    change: dict[str, Any] = {name: getattr(ITEM.guidance, name) + 0.25}
    assert item_key(SUBJECT, ITEM) != item_key(SUBJECT, replace(ITEM, guidance=replace(ITEM.guidance, **change)))


def test_one_and_one_point_zero_are_the_same_guidance() -> None:
    whole, point = replace(ITEM, guidance=Guidance(7, 1, 0)), replace(ITEM, guidance=Guidance(7.0, 1.0, 0.0))
    assert item_key(SUBJECT, whole) == item_key(SUBJECT, point)


def test_a_key_never_changes_between_releases_unless_the_renderer_does() -> None:
    assert item_key(SUBJECT, ITEM) == "7415ddfb147a3623d6ece634050d74c4bb29132b736fe8f21e38ebe2970129dc"


def test_an_output_size_is_part_of_the_key_and_none_is_not_even_written() -> None:
    framed = replace(ITEM, output_width=1080, output_height=1350, fit="crop")
    assert item_key(SUBJECT, framed) == "3f053ae562e52664a5fc5f582d6cc9672914616391d63e69f8f8f13dbe539698"
    assert not {"output_width", "output_height", "fit"} & set(ITEM.to_json())
    assert RenderItem.from_json(framed.to_json()) == framed
    assert (framed.picture_size, ITEM.picture_size) == ((1080, 1350), (128, 128))


def test_a_batch_message_reads_back_and_another_version_is_refused() -> None:
    assert read_batch_message(batch_message("attempt")) == "attempt"
    for message in ({}, {"v": 0, "attempt": "x"}, {"v": 1}, {"v": 1, "attempt": 7}):
        with pytest.raises(BadInput):
            read_batch_message(message)
