"""The gallery in a real browser, as a file from a disk: what it shows, what it hides, and that it asks nobody."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from face0_worker.contract.receipt import Receipt, Verdict
from producer.delivery.fetching import Picture
from producer.delivery.gallery import Card, card, write_gallery
from tests.object_servers import missing
from tests.pictures import black_png

MANY = 2000
# what a person does who has a keyboard only; the page's own policy keeps other scripts out, so it is taken off the copy
_KEYBOARD = """<script>
const at = (id) => document.getElementById(id), told = [];
const press = (key, on) => (on || document.activeElement).dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
press("/");
told.push(document.activeElement.id);
at("search").value = "ＲＥＤ sku-001";
at("search").dispatchEvent(new Event("input"));
told.push(at("count").textContent);
press("ArrowDown");
press("ArrowRight");
document.activeElement.click();
told.push(at("view-title").textContent);
press("ArrowRight", at("view"));
told.push(at("view-title").textContent);
at("view").close();
told.push(document.activeElement.querySelector(".name").textContent);
at("language").click();
told.push(document.querySelector("[data-text=search]").textContent);
document.body.dataset.told = told.join(" | ");
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 2,000 items of four people; every hundredth has failed."""
    picture = black_png(64, 64)

    def cards() -> list[Card]:
        return [
            Card(f"SKU-{number:04}", prompt="red", state="failed", person="c0", reason="it is odd")
            if number % 100 == 0
            else card(_picture(number, picture), caption="赤い" if number % 2 else "")
            for number in range(MANY)
        ]

    out = tmp_path_factory.mktemp("page") / "gallery.html"
    assert write_gallery(cards(), out, title="秋", facts={"Model": "m"}) == MANY - MANY // 100
    return out


def _picture(number: int, data: bytes) -> Picture:
    verdict = Verdict(True, "", 1, 0.5, 0.5, 0.25)
    named = (f"{number:064x}", "a key", f"{number:064x}", f"c{number % 4}", 1, "catalogue", "j1", "m", "e", number)
    receipt = Receipt(*named, 64, 64, verdict, "1")
    prompt = "red" if number % 2 else "blue"
    return Picture(f"SKU-{number:04}", ("beach", "city")[number % 2], prompt, False, "a key", b"{}", receipt, data)


def shown(page: Path, folder: Path, view: str = "") -> str:
    """Return the page's document after its script has run, from a browser that reaches nobody."""
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("chromium not found: on Debian, `apt-get install chromium`", required=os.environ.get("CI") == "true")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--lang=en"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", page.as_uri() + view]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr[-500:]
    assert "Content Security Policy" not in ran.stderr
    return ran.stdout


def count(document: str) -> str:
    found = re.search(r'<output id="count">([^<]*)', document)
    assert found
    return found[1]


def test_two_thousand_pictures_are_drawn_as_the_reader_comes_to_them(page: Path, tmp_path: Path) -> None:
    document = shown(page, tmp_path)
    assert count(document) == "2000 / 2000"
    assert 48 <= document.count('class="card"') < 400
    assert ">SKU-0000<" in document
    assert "it is odd" in document


def test_a_view_of_the_page_can_be_kept_in_its_address(page: Path, tmp_path: Path) -> None:
    assert count(shown(page, tmp_path, "#state=failed")) == "20 / 2000"
    view = f"#search={quote('赤い')}&person=c1&variant=city&language=ja"
    document = shown(page, tmp_path, view)
    assert count(document) == "500 / 2000"
    assert ">検索<" in document
    assert 'lang="ja"' in document


def test_a_keyboard_is_enough(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.html"
    open_to_scripts = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    copy.write_text(open_to_scripts.replace("</body>", _KEYBOARD), "utf-8")
    found = re.search(r'data-told="([^"]*)"', shown(copy, tmp_path))
    assert found
    assert found[1].split(" | ") == [
        "search",
        "5 / 2000",
        "赤い (SKU-0013)",
        "赤い (SKU-0015)",
        "赤い",
        "検索",
    ]
