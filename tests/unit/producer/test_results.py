"""File names that people can read and every system can write."""

from __future__ import annotations

import pytest

from producer.results import file_names, safe_name


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
