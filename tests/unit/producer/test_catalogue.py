"""Product lists: what is read, and how precisely is said what can't be."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from pathlib import Path

import pytest

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.learn.people.colours import COLOURS
from face0_worker.learn.people.view import GARMENTS, PLACES
from producer.catalogue import ItemDefaults, read_captions, read_items, stable_seed
from producer.demo import LIST
from producer.lists import list_file, product_list

# the words that the shipped model was trained with
GARMENT = rf"an? ({'|'.join(COLOURS)}) ({'|'.join(GARMENTS)})"
PLACE = rf"(({'|'.join(COLOURS)}) background|{'|'.join(PLACES.values())})"
GRAMMAR = (
    rf"a portrait of a (smiling )?person with (?P<hair>short black hair)( and glasses)? wearing {GARMENT}, {PLACE}"
)


def write(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, template: str | None = None) -> str:
    with pytest.raises(BadInput) as raised:
        tuple(read_items(path, template))
    return str(raised.value)


def test_a_list_with_sku_and_prompt_gives_items_in_its_order(tmp_path: Path) -> None:
    items = read_items(write(tmp_path, "sku,prompt\nA1,red\nB2,blue\n"))
    assert [(item.sku, item.prompt) for item in items] == [("A1", "red"), ("B2", "blue")]


def test_every_optional_column_reaches_the_item(tmp_path: Path) -> None:
    row = "sku,prompt,negative_prompt,seed,width,height,steps,guidance\nA1,red,ugly,7,256,512,30,5.5\n"
    (item,) = read_items(write(tmp_path, row))
    assert (item.negative_prompt, item.seed, item.width, item.height, item.steps) == ("ugly", 7, 256, 512, 30)
    assert item.guidance == Guidance(w=5.5)


def test_what_a_line_leaves_out_comes_from_the_model(tmp_path: Path) -> None:
    facts = {"size": 256, "steps": 12, "precision": "float16", "guidance": {"w": 3.0, "c": 0.5, "a": 0.0}}
    (item,) = read_items(write(tmp_path, "sku,prompt,steps\nA1,red,\n"), defaults=ItemDefaults.of_model(facts))
    assert (item.width, item.height, item.steps, item.precision) == (256, 256, 12, "float16")
    assert (item.guidance, item.sampler) == (Guidance(w=3.0, c=0.5), "ddim")  # a worker that names none


def test_a_line_that_names_no_sampler_gets_the_model_s_own(tmp_path: Path) -> None:
    defaults = ItemDefaults.of_model({"size": 64, "sampler": "lcm", "steps": 4})
    path = write(tmp_path, "sku,prompt,sampler\nA1,red,\nB2,red,euler\n")
    assert [item.sampler for item in read_items(path, defaults=defaults)] == ["lcm", "euler"]


def test_the_same_list_gives_the_same_seeds_and_another_sku_another(tmp_path: Path) -> None:
    path = write(tmp_path, "sku,prompt\nA1,red\nB2,red\n")
    first, second = tuple(read_items(path)), tuple(read_items(path))
    assert first == second
    assert first[0].seed != first[1].seed
    assert first[0].seed == stable_seed("A1") == 815634507993410282


def test_a_template_is_filled_from_any_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "sku,garment,colour\nA1,coat,red\n")
    (item,) = read_items(path, "a person in a {colour} {garment}, studio")
    assert item.prompt == "a person in a red coat, studio"


def test_a_template_that_names_no_column_of_the_list_says_which_there_are(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "sku,garment\nA1,coat\n"), "a {colour} {garment}")
    assert "column colour is missing" in said
    assert "sku, garment" in said


@pytest.mark.parametrize(
    "template", ["{sku.__class__}", "{0[1]}", "{garment!r}", "{garment:>9}", "{}", "{garment", "plain"]
)
def test_a_template_reaches_columns_and_nothing_else(tmp_path: Path, template: str) -> None:
    assert "template" in refusal(write(tmp_path, "sku,garment\nA1,coat\n"), template)


def test_a_template_and_a_column_may_be_written_in_different_widths(tmp_path: Path) -> None:
    (item,) = read_items(write(tmp_path, "ＳＫＵ,ﾄﾞﾚｽ,Ｗｉｄｔｈ\nA1,赤い,256\n"), "a {ドレス} dress")
    assert (item.sku, item.prompt, item.width) == ("A1", "a 赤い dress", 256)


def test_a_prompt_that_the_template_makes_too_long_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, f"sku,garment,colour\nA1,{'a' * 1500},{'b' * 1500}\n")
    assert "line 2: makes a prompt of 3,001 characters; expected at most 2,000" in refusal(path, "{garment} {colour}")


def test_every_problem_is_told_with_its_line_column_and_what_was_expected(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "sku,prompt,seed,width\nA1,red,x,128\n,blue,1,100\nC3,,2,128\n"))
    assert said.splitlines() == [
        "list.csv: 4 problems; nothing was enqueued",
        "  line 2, column seed: 'x' is not a whole number from 0 to 9223372036854775807",
        "  line 3, column sku: is empty; expected the product's own number or code",
        "  line 3, column width: 100 is not a multiple of 8; expected pixels, as in 512",
        "  line 4, column prompt: is empty; expected what the picture shows",
    ]


def test_only_the_first_twenty_problems_are_written_out(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "sku,prompt\n" + "A1,\n" * 25)).splitlines()
    assert said[0].startswith("list.csv: 25 problems")
    assert len(said) == 22
    assert said[-1] == "  ... and 5 more"


def test_a_list_that_is_wrong_everywhere_is_not_read_to_its_end(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "sku,prompt\n" + "A1,\n" * 5000)).splitlines()
    assert said[0] == "list.csv: at least 1,000 problems; nothing was enqueued"
    assert said[-1] == "  ... and at least 980 more"
    assert len(said) == 22


def test_no_item_is_given_after_the_first_problem(tmp_path: Path) -> None:
    given: list[RenderItem] = []
    with pytest.raises(BadInput, match="line 3"):
        given.extend(read_items(write(tmp_path, "sku,prompt\nA1,red\nB2,\nC3,blue\n")))
    assert [item.sku for item in given] == ["A1"]


def test_line_numbers_count_line_breaks_inside_quotes(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, 'sku,prompt,seed\nA1,"two\nlines",1\n\nB2,red,-1\n'))
    assert "line 5, column seed" in said


def test_a_line_with_too_many_cells_is_a_problem_of_its_own(tmp_path: Path) -> None:
    assert "line 2: has 3 cells, but there are 2 columns" in refusal(write(tmp_path, "sku,prompt\nA1,red, blue\n"))


def test_a_quote_that_is_never_closed_is_told(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, 'sku,prompt\nA1,red\nA2,"red\nA3,blue\n'))
    assert said.endswith("line 3: opens a quote that is never closed; close it, or remove it")
    said = refusal(write(tmp_path, 'sku,prompt\nA1,"red\nA2,"blue"\n'))
    assert "line 2: has text after a closing quote" in said


def test_a_long_cell_is_told_with_its_length(tmp_path: Path) -> None:
    expected = "line 2, column prompt: has 10,485,760 characters; expected at most 2,000"
    assert expected in refusal(write(tmp_path, f"sku,prompt\nA1,{'a' * 10_485_760}\n"))
    assert expected in refusal(write(tmp_path, f'sku,prompt\nA1,"{"a," * 5_242_880}"\n'))
    object_ = json.dumps({"sku": "A1", "prompt": "a" * 2_000_000})
    assert "line 1: has 2,000,027 characters; expected" in refusal(write(tmp_path, object_, "list.jsonl"))


@pytest.mark.parametrize("filler", ["a", "a,b\n", "\n"])
def test_a_quote_left_open_takes_in_no_more_than_a_bounded_part_of_a_large_list(
    tmp_path: Path, filler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 200_000
    for room in (list_file, product_list):
        monkeypatch.setattr(room, "LONGEST_LINE", longest)
    path = write(tmp_path, 'sku,prompt\nA1,red\nA2,"' + filler * (8_000_000 // len(filler)))
    tracemalloc.start()
    try:
        said = refusal(path)
        # the file is read a megabyte at a time; eight million characters would be 32 MB in the csv module alone
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert "line 3: goes on for more than 200,000 characters; look for a quote that is not closed" in said
    assert len(said) < 500


def test_missing_columns_point_to_the_template(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "sku,garment\nA1,coat\n"))
    assert "column prompt is missing" in said
    assert "--template" in said


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.txt"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_are_separated_as_excel_does_it_anywhere(tmp_path: Path, separator: str, name: str) -> None:
    rows = [["prompt", "SKU", "guidance"], ["red; tall, thin", "A1", "7,5"]]
    text = "".join(separator.join(f'"{cell}"' for cell in row) + "\r\n" for row in rows)
    (item,) = read_items(write(tmp_path, text, name))
    assert (item.sku, item.prompt, item.guidance.w) == ("A1", "red; tall, thin", 7.5)


def test_a_header_that_has_no_sku_is_told_column_by_column(tmp_path: Path) -> None:
    assert "the columns are code, prompt" in refusal(write(tmp_path, "code;prompt\nA1;red, blue\n"))


def test_double_columns_are_told(tmp_path: Path) -> None:
    assert "twice" in refusal(write(tmp_path, "ｓｋｕ,SKU,prompt\n1,2,red\n"))
    assert "twice" in refusal(write(tmp_path, '{"sku": "A1", "SKU": "A2", "prompt": "red"}', "list.jsonl"))
    assert "twice" in refusal(write(tmp_path, "sku,prompt,prompt\nA1,red,blue\n"))


@pytest.mark.parametrize("text", ["", "\n\n", "sku,prompt\n"])
def test_a_list_without_products_is_refused(tmp_path: Path, text: str) -> None:
    assert "no products" in refusal(write(tmp_path, text))


def test_another_kind_of_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    assert ".csv, .jsonl or .xlsx" in refusal(write(tmp_path, "x", "list.pdf"))
    assert "can't be read" in refusal(tmp_path / "absent.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "is not a file" in refusal(tmp_path / "pipe.csv")


def test_jsonl_gives_the_same_items_as_csv(tmp_path: Path) -> None:
    line = json.dumps({"sku": "A1", "prompt": "赤い", "seed": 7, "guidance": 5.5}, ensure_ascii=False)
    jsonl = tuple(read_items(write(tmp_path, f"{line}\n\n", "list.jsonl")))
    assert jsonl == tuple(read_items(write(tmp_path, "sku,prompt,seed,guidance\nA1,赤い,7,5.5\n")))


def test_jsonl_that_is_not_an_object_per_line_is_told_by_line(tmp_path: Path) -> None:
    lines = ['{"sku": "A1", "prompt": "red"}', "[1]", "{", '{"sku": "B2", "prompt": {"a": 1}}', '{"sku": "C3"}']
    said = refusal(write(tmp_path, "\n".join(lines), "list.jsonl"))
    for expected in (
        "line 2: is not an object",
        "line 3: is not JSON",
        "line 4, column prompt: is a list",
        "line 5, column prompt: is empty",
    ):
        assert expected in said


HALF = chr(0xD800)
INVISIBLE = {
    "\0": "U+0000 NUL",
    "\a": "U+0007 CONTROL CHARACTER",
    "\x1b": "U+001B CONTROL CHARACTER",
    "\x7f": "U+007F CONTROL CHARACTER",
    "\x85": "U+0085 CONTROL CHARACTER",
    "\u00ad": "U+00AD SOFT HYPHEN",
    "\u200b": "U+200B ZERO WIDTH SPACE",
    "\u200e": "U+200E LEFT-TO-RIGHT MARK",
    "\u2028": "U+2028 LINE SEPARATOR",
    "\u202e": "U+202E RIGHT-TO-LEFT OVERRIDE",
    "\u2066": "U+2066 LEFT-TO-RIGHT ISOLATE",
    "\ufeff": "U+FEFF ZERO WIDTH NO-BREAK SPACE",
    "\ufffd": "U+FFFD REPLACEMENT CHARACTER",
    "\U000e0041": "U+E0041 TAG LATIN CAPITAL LETTER A",
    HALF: "U+D800 HALF OF A SURROGATE PAIR",
}


@pytest.mark.parametrize(("sign", "name"), INVISIBLE.items(), ids=lambda value: ascii(value))
def test_a_character_that_nobody_can_see_is_named_with_its_place(tmp_path: Path, sign: str, name: str) -> None:
    for column, line in (
        ("sku", {"sku": f"A{sign}1", "prompt": "red"}),
        ("prompt", {"sku": "A1", "prompt": f"r{sign}d"}),
    ):
        said = refusal(write(tmp_path, json.dumps(line), "list.jsonl"))
        assert f"line 1, column {column}: holds the character {name} at place 2; remove it" in said
        assert sign not in said
    if sign != HALF:
        # at the end, where it could be cut off as if it were a blank
        said = refusal(write(tmp_path, f"sku,prompt\nA1,red{sign}\n"))
        assert f"holds the character {name} at place 4" in said


def test_prompts_keep_line_breaks_and_what_writing_needs_and_skus_do_not(tmp_path: Path) -> None:
    prompt = "two\nlines\tand 👩\u200d🦰, می\u200cخواهم, １２８"
    (item,) = read_items(write(tmp_path, f'sku,prompt\nＡ１,"{prompt}"\n'))
    assert (item.sku, item.prompt) == ("Ａ１", prompt)
    for sign in "\n\t\u200d":
        assert f"U+{ord(sign):04X}" in refusal(write(tmp_path, f'sku,prompt\n"A{sign}1",red\n'))


def test_a_name_that_nobody_can_see_or_read_is_refused(tmp_path: Path) -> None:
    assert "name of column 2 holds the character U+200B" in refusal(write(tmp_path, "sku,pro\u200bmpt\nA1,red\n"))
    said = refusal(write(tmp_path, f"sku,{'p' * 5000}\nA1,red\n"))
    assert "name of column 2 has 5,000 characters" in said
    assert len(said) < 300
    assert "5,000 columns" in refusal(write(tmp_path, "sku," * 4999 + "\n"))
    line = json.dumps({"sku": "A1", "prompt": "red", "x" * 5000: 1})
    assert "line 1: a name has 5,000 characters" in refusal(write(tmp_path, line, "list.jsonl"))


def test_numbers_may_be_typed_full_width(tmp_path: Path) -> None:
    header, row = "sku,prompt,seed,width,height,steps,guidance", "A1,red,１２３,２５６,256,３０,７．５"
    (item,) = read_items(write(tmp_path, f"{header}\n{row}\n"))
    assert (item.seed, item.width, item.height, item.steps, item.guidance.w) == (123, 256, 256, 30, 7.5)


@pytest.mark.parametrize("value", ["1_000", "1,024", "①", "0x40", "12.0", "−１", "９" * 5000, "nan"])
def test_what_is_no_number_is_told(tmp_path: Path, value: str) -> None:
    said = refusal(write(tmp_path, f'sku,prompt,seed\nA1,red,"{value}"\n'))
    assert "line 2, column seed: '" in said
    assert "is not a whole number from 0" in said
    assert len(said) < 300


@pytest.mark.parametrize("value", ["nan", "inf", "1_0", "1,000", "-1", "5e9", "１２３"])
def test_what_is_no_strength_is_told(tmp_path: Path, value: str) -> None:
    said = refusal(write(tmp_path, f'sku,prompt,guidance\nA1,red,"{value}"\n'))
    assert f"line 2, column guidance: '{value}' is not a number from 0 to 50" in said


def test_the_names_of_files_can_not_disturb_a_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in refusal(write(tmp_path, "sku,prompt\n", "a\x1b[2Jb.csv"))


def test_the_sample_list_is_what_the_shipped_model_knows() -> None:
    items = tuple(read_items(LIST))
    assert len(items) == 12
    assert len({item.prompt for item in items}) == 12
    shown = [re.fullmatch(GRAMMAR, item.prompt) for item in items]
    assert all(shown)
    # the photo's hair is not in the embedding, so the list says it, the same in every line
    assert len({match.group("hair") for match in shown if match}) == 1
    assert set(read_captions(LIST)) == {item.sku for item in items}


def test_each_line_may_have_its_own_sampler_and_guidance(tmp_path: Path) -> None:
    columns = "sku,prompt,sampler,guidance,guidance_c,guidance_a,guidance_start,guidance_stop"
    rows = 'A1,red,dpmpp_2m_karras,5,0.5,１,0.2,"0,8"\nA2,red,,,,,,\n'
    first, second = read_items(write(tmp_path, f"{columns}\n{rows}"))
    assert (first.sampler, first.guidance) == ("dpmpp_2m_karras", Guidance(5.0, 0.5, 1.0, 0.2, 0.8))
    assert (second.sampler, second.guidance) == ("ddim", Guidance())


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("sampler", "heun", "'heun' is not known; expected one of ddim, euler"),
        ("guidance_c", "3", "'3' is not a number from 0 to 2"),
        ("guidance_a", "-0.1", "'-0.1' is not a number from 0 to 1"),
        ("guidance_start", "1", "is not before guidance_stop"),
        ("guidance_stop", "0", "is not before guidance_stop"),
        ("guidance_stop", "NaN", "'NaN' is not a number from 0 to 1"),
    ],
)
def test_a_sampler_or_guidance_that_can_not_be_is_named(tmp_path: Path, column: str, value: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        list(read_items(write(tmp_path, f"sku,prompt,{column}\nA1,red,{value}\n")))
    assert says in str(caught.value)
    assert "line 2" in str(caught.value)
