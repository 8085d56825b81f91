"""File names that people can read and every system can write."""

from __future__ import annotations

import pytest

from face0_worker.contract.errors import BadInput
from producer.delivery.names import check_template, file_names, safe_name


def test_a_name_is_sku_and_variant() -> None:
    assert file_names([(0, "A1", ""), (1, "A1", "beach")]) == {0: "A1", 1: "A1-beach"}


def test_japanese_stays_and_is_composed() -> None:
    assert safe_name("赤いセーター") == "赤いセーター"
    assert safe_name("ガ") == "ガ"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a/b\\c:d", "a_b_c_d"),
        ("tab\there\nthere", "tab_here_there"),
        ("..", "picture"),
        ("", "picture"),
        ("///", "picture"),
        ("con", "_con"),
        ("COM1.x", "_COM1.x"),
        ("trailing. ", "trailing"),
        ("\u202egnp.exe", "gnp.exe"),
    ],
)
def test_a_name_can_be_written_anywhere(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_a_long_name_is_cut_between_characters() -> None:
    name = safe_name("長" * 200)
    assert name == "長" * 50


def test_no_two_pictures_share_a_name_even_where_case_does_not_count() -> None:
    names = file_names([(0, "a/b", ""), (1, "a:b", ""), (2, "A_B", ""), (3, "a_b-2", "")])
    assert len({name.casefold() for name in names.values()}) == 4
    assert names[0] == "a_b"


ROWS = [(0, "A1", "beach"), (1, "A1", ""), (2, "赤", "春")]


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{sku}-{variant}", ["A1-beach", "A1", "赤-春"]),
        ("{variant}_{sku}", ["beach_A1", "A1", "春_赤"]),
        ("{catalogue}/{sku}/{variant}", ["spring/A1/beach", "spring/A1", "spring/赤/春"]),
        ("{position:04}-{sku}", ["0001-A1", "0002-A1", "0003-赤"]),
        ("shot", ["shot", "shot-2", "shot-3"]),
        ("{{{sku}}}", ["{A1}", "{A1}-2", "{赤}"]),
    ],
)
def test_a_template_makes_names_and_folders_and_an_empty_field_takes_its_joint_along(
    template: str, names: list[str]
) -> None:
    assert list(file_names(ROWS, template, catalogue="spring").values()) == names


def test_a_template_leaves_the_folder_by_no_way() -> None:
    rows = [(0, "../../etc/passwd", ".."), (1, "/abs", "a\\b")]
    names = file_names(rows, "{sku}/../{variant}")
    assert all(".." not in name.split("/") and not name.startswith("/") for name in names.values())


@pytest.mark.parametrize(
    "template",
    ["{prompt}", "{sku.__class__}", "{sku!r}", "{0}", "{sku:>10}", "{position:x}", "{", "", "//"],
)
def test_a_template_that_names_what_is_not_there_is_refused_with_what_is(template: str) -> None:
    with pytest.raises(BadInput, match="--name"):
        check_template(template)
