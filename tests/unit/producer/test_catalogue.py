"""Product lists: what is read, and how precisely is said what can't be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance
from producer.catalogue import ItemDefaults, read_captions, read_items, stable_seed
from producer.demo import LIST

COLOUR = "(red|black|blue|green|white|yellow|pink|grey)"
HAIR = "(?P<hair>short hair|bob hair|braided hair|hair in a ponytail|long hair|afro hair)"
GRAMMAR = rf"a portrait of a (smiling )?person with {HAIR} wearing a {COLOUR} turtleneck, {COLOUR} background"


def write(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, template: str | None = None) -> str:
    with pytest.raises(BadInput) as raised:
        read_items(path, template)
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
    assert item.guidance == Guidance(w=3.0, c=0.5)


def test_the_same_list_gives_the_same_seeds_and_another_sku_another(tmp_path: Path) -> None:
    path = write(tmp_path, "sku,prompt\nA1,red\nB2,red\n")
    first, second = read_items(path), read_items(path)
    assert first == second
    assert first[0].seed != first[1].seed
    assert first[0].seed == stable_seed("A1") == 815634507993410282


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp932"])
def test_japanese_is_read_in_every_encoding_that_shops_use(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "sku,prompt\n赤いセーター,タートルネック①\n".encode(encoding))
    (item,) = read_items(path)
    assert (item.sku, item.prompt) == ("赤いセーター", "タートルネック①")


def test_bytes_in_no_known_encoding_name_their_line(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, b"sku,prompt\nA1,red\nB2,\xff\xfe\x81\n"))
    assert "line 3" in said
    assert "UTF-8" in said


def test_a_template_is_filled_from_any_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "sku,garment,colour\nA1,coat,red\n")
    (item,) = read_items(path, "a person in a {colour} {garment}, {{studio}}")
    assert item.prompt == "a person in a red coat, {studio}"


def test_a_template_that_names_no_column_of_the_list_says_which_there_are(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "sku,garment\nA1,coat\n"), "a {colour} {garment}")
    assert "column colour is missing" in said
    assert "sku, garment" in said


@pytest.mark.parametrize(
    "template", ["{sku.__class__}", "{0[1]}", "{garment!r}", "{garment:>9}", "{}", "{garment", "plain"]
)
def test_a_template_reaches_columns_and_nothing_else(tmp_path: Path, template: str) -> None:
    assert "template" in refusal(write(tmp_path, "sku,garment\nA1,coat\n"), template)


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


def test_line_numbers_count_line_breaks_inside_quotes(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, 'sku,prompt,seed\nA1,"two\nlines",1\n\nB2,red,-1\n'))
    assert "line 5, column seed" in said


def test_a_line_with_too_many_cells_is_a_problem_of_its_own(tmp_path: Path) -> None:
    assert "line 2: has 3 cells, but there are 2 columns" in refusal(write(tmp_path, "sku,prompt\nA1,red, blue\n"))


def test_a_quote_that_is_never_closed_is_told(tmp_path: Path) -> None:
    assert "quote" in refusal(write(tmp_path, 'sku,prompt\nA1,"red\n'))


def test_missing_columns_point_to_the_template(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "sku,garment\nA1,coat\n"))
    assert "column prompt is missing" in said
    assert "--template" in said


def test_semicolons_and_double_columns_are_told(tmp_path: Path) -> None:
    assert "commas" in refusal(write(tmp_path, "sku;prompt\nA1;red\n"))
    assert "twice" in refusal(write(tmp_path, "sku,prompt,prompt\nA1,red,blue\n"))


@pytest.mark.parametrize("text", ["", "\n\n", "sku,prompt\n"])
def test_a_list_without_products_is_refused(tmp_path: Path, text: str) -> None:
    assert "no products" in refusal(write(tmp_path, text))


def test_another_kind_of_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    assert ".csv or .jsonl" in refusal(write(tmp_path, "x", "list.txt"))
    assert "can't be read" in refusal(tmp_path / "absent.csv")


def test_jsonl_gives_the_same_items_as_csv(tmp_path: Path) -> None:
    line = json.dumps({"sku": "A1", "prompt": "赤い", "seed": 7, "guidance": 5.5}, ensure_ascii=False)
    jsonl = read_items(write(tmp_path, f"{line}\n\n", "list.jsonl"))
    assert jsonl == read_items(write(tmp_path, "sku,prompt,seed,guidance\nA1,赤い,7,5.5\n"))


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


def test_text_that_no_ledger_can_hold_is_refused(tmp_path: Path) -> None:
    assert "NUL" in refusal(write(tmp_path, '{"sku": "A1", "prompt": "a\\u0000b"}', "list.jsonl"))
    assert "surrogate" in refusal(write(tmp_path, '{"sku": "A1", "prompt": "a\\ud800b"}', "list.jsonl"))
    assert "line break" in refusal(write(tmp_path, '{"sku": "A\\n1", "prompt": "red"}', "list.jsonl"))


def test_the_sample_list_is_what_the_shipped_model_knows() -> None:
    items = read_items(LIST)
    assert len(items) == 12
    assert len({item.prompt for item in items}) == 12
    shown = [re.fullmatch(GRAMMAR, item.prompt) for item in items]
    assert all(shown)
    # the photo's hair is not in the embedding, so the list says it, the same in every line
    assert len({match.group("hair") for match in shown if match}) == 1
    assert set(read_captions(LIST)) == {item.sku for item in items}
