"""The glossary: Japanese product words become the prompt's words, and a word without an entry is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from face0_worker.contract.errors import BadInput
from producer.catalogue import ListOptions, ProductList, read_items
from producer.lists.glossary import Glossary, UnknownWords, read_glossary

WORDS = Glossary.of(
    {
        "赤": "red",
        "赤い": "a red",
        "コート": "coat",
        "トレンチコート": "trench coat",
        "ボタン": "buttons",
        "の": "",
        "navy": "dark blue",
        "Tシャツ": "t-shirt",
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("赤いコート", "a red coat"),
        ("赤いトレンチコート", "a red trench coat"),
        ("赤のコート", "red coat"),
        ("赤いｺｰﾄ、ボタン。", "a red coat, buttons."),
        ("赤いＴシャツ", "a red t-shirt"),
        ("a person in 赤いコート, white background", "a person in a red coat, white background"),
        ("a navy coat, navyblue", "a dark blue coat, navyblue"),
        ("【赤】コート・ボタン", "red coat buttons"),
        ("a red coat,  two  blanks", "a red coat,  two  blanks"),
        ("ＣＯＡＴ", "ＣＯＡＴ"),
        ("", ""),
    ],
)
def test_the_longest_word_counts_and_words_are_parted(text: str, expected: str) -> None:
    assert WORDS.translate(text) == (expected, ())


def test_words_without_an_entry_stay_and_are_told() -> None:
    assert WORDS.translate("赤いスカート、紺") == ("a red スカート, 紺", ("スカート", "紺"))


def listed(folder: Path, text: str, words: str, *, strict: bool = False, name: str = "words.csv") -> ProductList:
    (folder / "list.csv").write_text(text, "utf-8")
    (folder / name).write_bytes(words.encode("cp932" if name.endswith(".csv") else "utf-8"))
    return read_items(folder / "list.csv", None, options=ListOptions(glossary=folder / name, strict_glossary=strict))


LIST = "sku,prompt,negative_prompt\n靴1,赤い靴,\nB2,赤いコート,ボタン\nC3,赤い靴,靴\n"
CSV = "word,prompt\n赤い,a red\nコート,coat\nボタン,buttons\n"


def test_a_list_is_translated_and_its_skus_are_not(tmp_path: Path) -> None:
    items = listed(tmp_path, LIST, CSV)
    assert [(one.sku, one.prompt, one.negative_prompt) for one in items] == [
        ("靴1", "a red 靴", ""),
        ("B2", "a red coat", "buttons"),
        ("C3", "a red 靴", "靴"),
    ]
    tuple(items)  # a second reading counts nothing twice
    assert items.unknown.said("list.csv").splitlines() == [
        "list.csv: 1 word has no entry in the glossary and stays as written",
        "  靴: line 2, 4",
    ]


def test_with_a_strict_glossary_a_word_without_an_entry_is_a_problem_of_its_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as raised:
        tuple(listed(tmp_path, LIST, CSV, strict=True))
    assert str(raised.value).splitlines() == [
        "list.csv: 3 problems; nothing was enqueued",
        "  line 2, column prompt: '靴' has no entry in the glossary",
        "  line 4, column prompt: '靴' has no entry in the glossary",
        "  line 4, column negative_prompt: '靴' has no entry in the glossary",
    ]


def test_a_glossary_may_be_yaml(tmp_path: Path) -> None:
    items = listed(tmp_path, LIST, "赤い: a red\nコート: coat\nボタン: buttons\n靴: shoes\n", name="words.yaml")
    assert [one.prompt for one in items] == ["a red shoes", "a red coat", "a red shoes"]
    assert items.unknown.said("list.csv") == ""


def test_many_unknown_words_are_told_in_few() -> None:
    unknown = UnknownWords()
    for line in range(2, 5000):
        unknown.add("靴", line)
        unknown.add(f"語{line}", line)
    said = unknown.said("list.csv").splitlines()
    assert said[0] == "list.csv: 1,000 words have no entry in the glossary and stay as written"
    assert said[1] == "  靴: line 2, 3, 4, 5, 6 and 4,993 more"
    assert len(said) == 22
    assert said[-1] == "  ... and 980 more words"


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        ("a,b\n靴,shoes\n", "w.csv", "a glossary has the columns word and prompt; this has a, b"),
        ("word,prompt\n靴,shoes\n靴,boots\n", "w.csv", "w.csv, line 3: 靴 is there twice, as 'shoes' and as 'boots'"),
        ("word,prompt\n,shoes\n", "w.csv", "w.csv, line 2: expected a word"),
        ("word,prompt\n", "w.csv", "w.csv holds no words"),
        ("靴: [shoes]", "w.yaml", "w.yaml: 靴 needs a text"),
        ("靴: shoes\n靴: boots", "w.yaml", "w.yaml, line 2: 靴 is there twice"),
        ('靴: "sho\\u200bes"', "w.yaml", "U+200B ZERO WIDTH SPACE"),
    ],
)
def test_what_is_wrong_with_a_glossary_is_said(tmp_path: Path, words: str, name: str, expected: str) -> None:
    (tmp_path / name).write_text(words, "utf-8")
    with pytest.raises(BadInput) as raised:
        read_glossary(tmp_path / name)
    assert expected in str(raised.value)
