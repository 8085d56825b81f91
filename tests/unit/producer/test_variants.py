"""Axes: every combination that the rules let through, counted, named, and guarded against making too many."""

from __future__ import annotations

from pathlib import Path

import pytest

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import RenderItem
from producer.catalogue import ListOptions, ProductList, read_items

AXES = """
axes:
  background: {studio: white background, beach: a beach}
  season: [spring, 秋]
  format:
    square: {frame: square}
    story: {frame: story, negative_prompt: frame}
"""
LIST = "sku,garment,category\nA1,a coat,coat\nB2,a shirt,shirt\n"
TEMPLATE = "{garment}, {background} in {season}"


def listed(folder: Path, axes: str, text: str = LIST, template: str | None = TEMPLATE, most: int = 100) -> ProductList:
    (folder / "axes.yaml").write_text(axes, "utf-8")
    (folder / "list.csv").write_text(text, "utf-8")
    return read_items(folder / "list.csv", template, options=ListOptions(variants=folder / "axes.yaml", most=most))


def refusal(folder: Path, axes: str, text: str = LIST, template: str | None = TEMPLATE, most: int = 100) -> str:
    with pytest.raises(BadInput) as raised:
        tuple(listed(folder, axes, text, template, most))
    return str(raised.value)


def by_name(items: ProductList) -> dict[tuple[str, str], RenderItem]:
    return {(item.sku, item.variant): item for item in items}


def test_every_product_is_made_in_every_combination(tmp_path: Path) -> None:
    found = by_name(listed(tmp_path, AXES))
    assert [variant for sku, variant in found if sku == "A1"] == [
        "studio-spring-square",
        "studio-spring-story",
        "studio-秋-square",
        "studio-秋-story",
        "beach-spring-square",
        "beach-spring-story",
        "beach-秋-square",
        "beach-秋-story",
    ]
    assert len(found) == 16
    item = found["B2", "beach-秋-story"]
    assert item.prompt == "a shirt, a beach in 秋"
    assert (item.output_width, item.output_height, item.negative_prompt) == (1080, 1920, "frame")
    assert found["B2", "beach-秋-square"].negative_prompt == ""


def test_include_chooses_and_exclude_takes_away_also_by_columns_of_the_list(tmp_path: Path) -> None:
    rules = """
include:
  - {background: studio, format: square}
  - {background: beach, season: spring}
exclude:
  - {background: beach, category: [coat, hat]}
  - {season: 秋, category: shirt}
"""
    assert list(by_name(listed(tmp_path, AXES + rules))) == [
        ("A1", "studio-spring-square"),
        ("A1", "studio-秋-square"),
        ("B2", "studio-spring-square"),
        ("B2", "beach-spring-square"),
        ("B2", "beach-spring-story"),
    ]


def test_the_pictures_are_counted_by_axis_and_value(tmp_path: Path) -> None:
    items = listed(tmp_path, AXES + "exclude: [{background: beach}, {season: 秋, format: story}]")
    assert items.variants is not None
    assert items.variants.count(item.variant for item in items) == {
        "background": {"studio": 6, "beach": 0},
        "season": {"spring": 4, "秋": 2},
        "format": {"square": 4, "story": 2},
    }


def test_a_variants_name_stays_when_another_value_is_added(tmp_path: Path) -> None:
    before = by_name(listed(tmp_path, AXES))
    after = by_name(listed(tmp_path, AXES.replace("a beach}", "a beach, park: a park}")))
    assert before.items() <= after.items()


def test_more_pictures_than_allowed_are_refused_before_anything_is_enqueued(tmp_path: Path) -> None:
    said = refusal(tmp_path, AXES, most=15)
    assert "list.csv with axes.yaml (8 combinations a product) makes more than 15 pictures" in said
    assert "--max-pictures" in said
    assert len(tuple(listed(tmp_path, AXES, most=16))) == 16


def test_axes_that_explode_are_refused_without_being_multiplied(tmp_path: Path) -> None:
    axes = "axes:\n" + "".join(f"  a{n}: [{', '.join(f'v{n}_{value}' for value in range(30))}]\n" for n in range(9))
    assert "are 19,683,000,000,000 variants of each product" in refusal(tmp_path, axes)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ("", "axes is missing"),
        ("axes: [a]", "axes is missing or no mapping"),
        ("axes: {a: [x]}\nexclud: []", "exclud is not known"),
        ("axes: {a: []}", "axis a needs values"),
        ("axes: {a: [x, x]}", "axis a needs values: a list of different words"),
        ("axes: {a: {x: [1]}}", "axis a, value x: expected a text"),
        ("axes: {a: {x: {a: text}}}", "write its text as `text:`"),
        ("axes: {a: {x: {seed: 1}}, b: {y: {seed: 2}}}", "seed is set by two axes"),
        ("axes: {a: [x, x-y], b: [y-z, z]}", "two combinations are both called x-y-z"),
        ("axes: {a: [x]}\nexclude: [{a: z}]", "exclude: axis a has no value z; its values are x"),
        ("axes: {a: [x]}\nexclude: [{size: z}]", "a rule names size, which is no axis (a) and no column of list.csv"),
        ("axes: {a: [x]}\nexclude: {a: x}", "exclude is a list of rules"),
        ("axes: {a: {x: {fram: story}}}", "axes.yaml sets fram, which is no column that a list has, nor the template"),
        ("axes: {a: [x], ａ: [y]}", "two axes differ only in the width"),
        ("axes: {garment: [x]}", "column garment stands in list.csv and in axes.yaml"),
        ("axes: {a: [x]}\naxes: {b: [x]}", "line 2: axes is there twice"),
        ("axes: {a: &x [x], b: *x}", "aliases"),
        ("axes: {a: [x}", "line 1: is not YAML"),
        ("axes: {a: ['x\u202e']}", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("- a", "expected names with values"),
    ],
)
def test_what_is_wrong_with_an_axes_file_is_said(tmp_path: Path, axes: str, expected: str) -> None:
    assert expected in refusal(tmp_path, axes, template="{garment}")


def test_a_column_that_an_axis_sets_may_be_in_capitals_or_the_templates_own(tmp_path: Path) -> None:
    axes = "axes: {format: {tall: {Frame: story, mood: calm}}}"
    first, _ = listed(tmp_path, axes, template="{garment} {mood}")
    assert (first.output_height, first.prompt) == (1920, "a coat calm")


def test_words_that_yaml_would_read_as_something_else_stay_words(tmp_path: Path) -> None:
    axes = "axes: {model: [no, 08, 2027-01-15, 1e3]}"
    items = listed(tmp_path, axes, template="{garment} {model}")
    assert [item.prompt for item in items][:4] == ["a coat no", "a coat 08", "a coat 2027-01-15", "a coat 1e3"]


def test_a_line_that_is_wrong_is_told_once_and_not_once_a_variant(tmp_path: Path) -> None:
    said = refusal(tmp_path, AXES, "sku,garment,category,seed\nA1,a coat,coat,x\nB2,a shirt,shirt,1\n")
    assert said.splitlines()[0] == "list.csv: 1 problem; nothing was enqueued"


def test_variants_that_are_the_same_picture_are_told_with_their_names(tmp_path: Path) -> None:
    from producer.lists.twins import count_items

    with pytest.raises(BadInput, match=r"SKU A1 \(variant y\) asks for the same picture as SKU A1 \(variant x\)"):
        count_items(listed(tmp_path, "axes: {mood: [x, y]}", template="{garment}"))
