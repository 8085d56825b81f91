"""Contact sheet and gallery: Japanese is drawn, markup is not believed, everything is inside."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from face0_worker.contract.errors import BadInput
from face0_worker.contract.receipt import Receipt, Verdict
from producer.delivery.fetching import Picture
from producer.delivery.gallery import Card, card, write_gallery
from producer.delivery.sheet import Tile, _fit, _font, contact_sheet


def png(size: int = 64, seed: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8), "RGB").save(out, "PNG")
    return out.getvalue()


def picture(data: bytes, *, sku: str = "A1", prompt: str = "red", identity: float | None = 0.5) -> Picture:
    verdict = Verdict(True, "", 1, identity, 0.5, 0.25)
    receipt = Receipt(
        "k" * 64, "pictures/c/k/s.png", "f" * 64, "c1", 1, "catalogue", "j1", "m", "e", 7, 64, 64, verdict, "1"
    )
    return Picture(sku, "", prompt, False, "receipts/c/k.json", b"{}", receipt, data)


def sheet_with(caption: str, out: Path) -> Image.Image:
    contact_sheet([Tile(png(), caption, "A1")], out, title="demo")
    return Image.open(out).convert("RGB")


def test_japanese_captions_are_drawn_and_not_as_empty_boxes(tmp_path: Path) -> None:
    drawn = {text: sheet_with(text, tmp_path / f"{n}.png") for n, text in enumerate(("赤", "青", "\U0010ffff"))}
    assert ImageChops.difference(drawn["赤"], drawn["青"]).getbbox()
    # a font without the character would draw the same box as for one that nobody has
    assert ImageChops.difference(drawn["赤"], drawn["\U0010ffff"]).getbbox()


def test_the_sheet_has_a_place_for_every_picture(tmp_path: Path) -> None:
    contact_sheet([Tile(png(seed=n), f"{n}", f"{n}") for n in range(5)], tmp_path / "s.png", title="t", columns=4)
    two_rows = Image.open(tmp_path / "s.png").size
    contact_sheet([Tile(png(seed=n), f"{n}", f"{n}") for n in range(4)], tmp_path / "s.png", title="t", columns=4)
    one_row = Image.open(tmp_path / "s.png").size
    assert two_rows[0] == one_row[0]
    assert two_rows[1] > one_row[1] + 256


def test_a_long_caption_is_broken_into_lines_that_fit_and_ends_in_dots() -> None:
    font = _font(17)
    lines = _fit("とても長い商品名がここに入りますので途中で切らなければなりません" * 3, font, 256, 2)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert all(font.getlength(line) <= 256 for line in lines)


def test_a_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no finished picture"):
        contact_sheet([], tmp_path / "s.png", title="t")


def entries(page: str) -> list[dict[str, object]]:
    """Return what the page's script reads."""
    found = re.search(r'<script type="application/json" id="pictures">(.*?)</script>', page, re.DOTALL)
    assert found
    return list(json.loads(found[1]))


def test_the_gallery_needs_no_other_file(tmp_path: Path) -> None:
    out = tmp_path / "gallery.html"
    write_gallery(
        [card(picture(png()), caption="赤い", link="pictures/赤 #1.png")], out, title="t", facts={"Model": "m"}
    )
    page = out.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(|fetch\(|XMLHttpRequest""", page)
    (entry,) = entries(page)
    assert str(entry["source"]).startswith("data:image/png;base64,")
    assert entry["link"] == "pictures/%E8%B5%A4%20%231.png"
    assert (entry["caption"], entry["sku"], entry["sha256"], entry["likeness"]) == ("赤い", "A1", "f" * 64, "0.50")
    for said in ("赤い", "prefers-color-scheme: dark", "width=device-width", "default-src 'none'"):
        assert said in page
    assert [file.name for file in tmp_path.iterdir()] == ["gallery.html"]


def test_the_page_runs_its_own_script_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "gallery.html"
    write_gallery([card(picture(png()))], out, title="t", facts={})
    page = out.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_markup_in_a_list_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    out = tmp_path / "gallery.html"
    bad = '</script><script>alert(1)</script>" onerror="x'
    write_gallery([card(picture(png(), sku=bad, prompt=bad), caption=bad)], out, title=bad, facts={bad: bad})
    page = out.read_text(encoding="utf-8")
    assert page.count("<script") == 2
    assert 'onerror="' not in page
    assert entries(page)[0]["prompt"] == bad


def test_items_without_a_picture_are_shown_with_their_state_and_reason(tmp_path: Path) -> None:
    out = tmp_path / "gallery.html"
    failed = Card("A2", state="failed", reason="two faces")
    assert write_gallery([failed, card(picture(png()))], out, title="t", facts={}) == 1
    shown = entries(out.read_text(encoding="utf-8"))
    assert [(one["sku"], one["state"], one.get("reason")) for one in shown] == [
        ("A2", "failed", "two faces"),
        ("A1", "done", None),
    ]


def test_a_large_picture_goes_in_as_a_small_copy() -> None:
    source = card(picture(png(1024))).source
    assert source.startswith("data:image/webp")
    assert len(source) < 300_000
    assert len(card(picture(png(1024)), many=True).source) < len(source)


def test_an_empty_gallery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no finished picture"):
        write_gallery([], tmp_path / "g.html", title="t", facts={})
