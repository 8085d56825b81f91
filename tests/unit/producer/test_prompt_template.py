"""Templates in both forms: what they know, and that they reach columns and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from face0_worker.contract.errors import BadInput
from producer.catalogue import read_items
from producer.lists.prompt_template import Template


def prompts(folder: Path, text: str, template: str, name: str = "list.csv") -> list[str]:
    path = folder / name
    path.write_text(text, "utf-8")
    return [item.prompt for item in read_items(path, template)]


def refusal(folder: Path, text: str, template: str, name: str = "list.csv") -> str:
    with pytest.raises(BadInput) as raised:
        prompts(folder, text, template, name)
    return str(raised.value)


LIST = "sku,garment,colour,商品 名\nA1,COAT,red / blue,コート\n"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a {colour} {garment}", "a red / blue COAT"),
        ("a {{ garment | lower }}", "a coat"),
        ("{{ colour | split('/') | join(' and ') }} {{ garment }}", "red and blue COAT"),
        ("{% if colour == 'green' %}leaf {% else %}no leaf {% endif %}{{ garment }}", "no leaf COAT"),
        ('{{ row["商品 名"] }} {{ garment | replace("O", "0") }}', "コート C0AT"),
        ("{# season: later #}{{ ｇａｒｍｅｎｔ }}", "COAT"),
    ],
)
def test_a_template_is_filled_in_either_form(tmp_path: Path, template: str, expected: str) -> None:
    assert prompts(tmp_path, LIST, template) == [expected]


@pytest.mark.parametrize("template", ["a {{ colr }} {{ garment }}", "{{ garment }}{% if colr %}!{% endif %}", "{colr}"])
def test_an_unknown_column_is_told_with_the_columns_there_are(tmp_path: Path, template: str) -> None:
    said = refusal(tmp_path, LIST, template)
    assert "column colr is missing" in said
    assert "sku, garment, colour, 商品 名" in said


def test_a_column_that_no_object_of_a_jsonl_list_has_is_told(tmp_path: Path) -> None:
    line = '{"sku": "A1", "garment": "coat"}\n'
    template = "{{ garment }}{% if colr %}!{% endif %}"
    assert "column colr is missing" in refusal(tmp_path, line, template, "list.jsonl")
    other = '{"sku": "A2", "garment": "coat", "colr": "x"}\n'
    assert prompts(tmp_path, line + other, template, "list.jsonl") == ["coat", "coat!"]


@pytest.mark.parametrize("template", ["a {colour} coat", "a {{ colour }} coat", "a {{ colour | upper }} coat"])
def test_an_empty_cell_is_an_error_where_it_would_be_written_out(tmp_path: Path, template: str) -> None:
    said = refusal(tmp_path, "sku,colour\nA1,red\nA2,\n", template)
    assert "line 3, column colour: is empty; expected a value for the template" in said


def test_an_empty_cell_can_be_provided_for(tmp_path: Path) -> None:
    text = "sku,colour\nA1,red\nA2,\n"
    assert prompts(tmp_path, text, "a {{ colour | default('white') }} coat") == ["a red coat", "a white coat"]
    assert prompts(tmp_path, text, "a {% if colour %}{{ colour }} {% endif %}coat") == ["a red coat", "a coat"]
    assert prompts(tmp_path, text, "a{{ ' plain' if colour == '' else '' }} coat") == ["a coat", "a plain coat"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ garment.__class__ }}",
        "{{ garment.upper() }}",
        "{{ garment['upper'] }}",
        "{{ row }}",
        "{{ row[garment] }}",
        "{{ garment | attr('x') }}",
        "{{ garment * 9999 }}",
        "{{ range(9) }}{{ garment }}",
        "{% for x in garment %}{{ x }}{% endfor %}",
        "{% set x = garment %}{{ x }}",
        "{% include 'x' %}{{ garment }}",
        "{% macro x() %}{% endmacro %}{{ garment }}",
        "{{ garment",
        "{{ 'nothing' }}",
        "{colour} {{ garment }}",
        "x" * 10_001 + "{garment}",
    ],
)
def test_a_template_reaches_columns_and_nothing_else(template: str) -> None:
    with pytest.raises(BadInput, match=r"^the template"):
        Template.parse(template)


def test_a_filter_that_makes_too_much_is_stopped(tmp_path: Path) -> None:
    template = "{{ garment | replace('', colour) | replace('', colour) }}"
    said = refusal(tmp_path, f"sku,garment,colour\nA1,{'g' * 50},{'c' * 50}\n", template)
    assert "line 2: does not fit the template: a filter made more than 10,000 characters" in said
