"""The sample lists of docs/examples, each through the real reader, as docs/product_lists.md says."""

from __future__ import annotations

import re
from pathlib import Path

from openpyxl import Workbook

from producer.catalogue import ItemDefaults, ListOptions, ProductList, read_captions, read_items
from producer.lists.glossary import read_glossary
from producer.lists.twins import count_items
from producer.lists.variants import read_variants
from tests.unit.producer.test_catalogue import GRAMMAR

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
DEFAULTS = ItemDefaults(256, 256)


GLOSSARY = ListOptions(glossary=EXAMPLES / "glossary.csv")


def read(name: str, template: str | None, options: ListOptions) -> ProductList:
    return read_items(EXAMPLES / name, template, DEFAULTS, options)


def words_that_the_model_knows(items: ProductList) -> int:
    """Return how many items there are; all in words that the shipped model was trained with."""
    assert [item.prompt for item in items if not re.fullmatch(GRAMMAR, item.prompt)] == []
    assert items.unknown.said("list") == ""
    return count_items(items)


def test_the_nightly_catalogue_is_japanese_and_its_prompts_are_not() -> None:
    template = "a portrait of {モデル} with short black hair wearing {服}, {背景}"
    assert words_that_the_model_knows(read("nightly.csv", template, GLOSSARY)) == 6
    assert read_captions(EXAMPLES / "nightly.csv")["TN-GRY-12"] == "タートルネック（グレー・冬）"


def test_the_advertisements_are_thirty_three_pictures_of_three_products() -> None:
    template = "a portrait of {mood} with short black hair wearing {garment}, {background}"
    items = read("ads.csv", template, ListOptions(variants=EXAMPLES / "axes.yaml"))
    assert words_that_the_model_knows(items) == 33
    assert items.variants is not None
    assert items.variants.count(item.variant for item in items) == {
        "background": {"studio": 15, "spring": 9, "beach": 3, "snow": 6},
        "mood": {"calm": 6, "smiling": 27},
        "format": {"square": 12, "story": 12, "banner": 9},
    }


def test_the_social_list_has_a_size_for_each_frame() -> None:
    items = read("social.csv", None, ListOptions(frames=EXAMPLES / "frames.yaml"))
    assert words_that_the_model_knows(items) == 5
    assert [(one.sku, one.variant, one.output_width, one.output_height, one.fit) for one in items] == [
        ("TS-RED-01", "square", 1080, 1080, "crop"),
        ("TS-RED-01", "portrait", 1080, 1350, "crop"),
        ("TS-RED-01", "story", 1080, 1920, "crop"),
        ("JK-BLU-02", "banner", 1200, 628, "pad"),
        ("JK-BLU-02", "marketplace", 800, 800, "pad #ffffff"),
    ]


def test_the_workbook_has_a_title_merged_cells_and_skus_with_zeros() -> None:
    template = "a portrait of a person with short black hair wearing {服}, {背景}"
    items = read("winter.xlsx", template, GLOSSARY)
    assert words_that_the_model_knows(items) == 3
    assert [item.sku for item in items] == ["00123", "00124", "00250"]


def test_the_axes_that_the_page_shows_can_be_read(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (EXAMPLES.parent / "product_lists.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "axes.yaml").write_text(shown, "utf-8")
    variants = read_variants(tmp_path / "axes.yaml")
    assert variants.axes == ("background", "mood", "format")
    assert [one.name for one in variants.of({"category": "t-shirt"})][-1] == "studio-smiling-story"
    assert [one.name for one in variants.of({"category": "coat"})][-1] == "snow-smiling-story"


def test_a_glossary_may_be_a_workbook(tmp_path: Path) -> None:
    book = Workbook()
    sheet = book.create_sheet("words", 0)
    for row in (("word", "prompt"), ("赤い", "a red"), ("靴", "shoes")):
        sheet.append(row)
    book.save(tmp_path / "words.xlsx")
    assert read_glossary(tmp_path / "words.xlsx").translate("赤い靴") == ("a red shoes", ())
