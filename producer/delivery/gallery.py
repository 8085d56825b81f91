"""A gallery: one HTML file with every picture inside it, that opens from a disk without any server or network."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from PIL import Image

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import ItemState
from producer.delivery.fetching import Picture

MOST = 5000  # pictures on one page
_THUMBNAIL = 384  # pixels
_MANY, _SMALLER = 500, 256  # beyond so many pictures each is drawn smaller, or a browser has to read too much
_INLINE = 60_000  # bytes; a smaller picture goes in as it is


@dataclass(frozen=True)
class Card:
    """One picture as the page shows it, or an item that has none; every value is text that the page shows as text."""

    sku: str
    variant: str = ""
    caption: str = ""
    prompt: str = ""
    state: str = ItemState.DONE
    person: str = ""
    source: str = ""
    link: str = ""
    likeness: str = ""
    faces: str = ""
    light: str = ""
    size: str = ""
    seed: str = ""
    sha256: str = ""
    item_key: str = ""
    kept: bool = False
    reason: str = ""


def card(picture: Picture, *, caption: str = "", link: str = "", many: bool = False) -> Card:
    """Return the card of a picture. `link`: where the whole file lies, relative to the page. `many`: drawn smaller."""
    receipt = picture.receipt
    verdict = receipt.verdict
    return Card(
        sku=picture.sku,
        variant=picture.variant,
        caption=caption,
        prompt=picture.prompt,
        person=receipt.consent_id,
        source=_inline(picture.data, _SMALLER if many else _THUMBNAIL, 0 if many else _INLINE),
        link=quote(link),
        likeness="" if verdict.identity is None else f"{verdict.identity:.2f}",
        faces=str(verdict.faces),
        light=f"{verdict.brightness:.2f}, {verdict.contrast:.2f}",
        size=f"{receipt.width} × {receipt.height}",
        seed=str(receipt.seed),
        sha256=receipt.picture_sha256,
        item_key=receipt.item_key,
        kept=picture.kept,
    )


def write_gallery(cards: Iterable[Card], out: Path, *, title: str, facts: dict[str, str]) -> int:
    """Write the page and return how many pictures it shows; it has at most the first 5,000 cards.

    The cards are written as they come, so that memory holds one picture at a time. `facts`: what stands at the top, by
    its label. Raises: BadInput: there is no picture among the cards, or `out` can't be written.
    """
    coming = islice(iter(cards), MOST)
    before: list[Card] = []
    for first in coming:
        before.append(first)
        if first.source:
            break
    if not before or not before[-1].source:
        raise BadInput("there is no finished picture to show yet; see `face0 status`")
    counted = _Counted(chain(before, coming))
    _write(out, {"title": title, "facts": facts, "cards": counted})
    return counted.pictures


def many(pictures: int) -> bool:
    """Say whether a page of so many pictures draws them smaller."""
    return pictures > _MANY


class _Counted:
    """Cards as plain JSON values, and how many of those that have gone by have a picture."""

    def __init__(self, cards: Iterable[Card]) -> None:
        self._cards, self.pictures = cards, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for one in self._cards:
            self.pictures += bool(one.source)
            yield {name: value for name, value in asdict(one).items() if value or name in ("variant", "person")}


def _write(out: Path, values: dict[str, Any]) -> None:
    loader = PackageLoader("producer", "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # Japanese in a third of the bytes
    script, style = (loader.get_source(environment, name)[0] for name in ("gallery.js", "gallery.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    inside = {"script": Markup(script), "style": Markup(style), "script_sha256": Markup(digest)}
    page = environment.get_template("gallery.html").stream(**values, **inside)
    fresh = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("wb") as file:
                page.dump(file, encoding="utf-8")
            os.replace(fresh, out)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}; choose another place with --out") from error


def _inline(data: bytes, pixels: int, as_it_is: int) -> str:
    """Return a picture as a data: URL; one of more than `as_it_is` bytes as a small copy."""
    kind = "png"
    if len(data) > as_it_is:
        with Image.open(io.BytesIO(data)) as opened:
            small = opened.convert("RGB")
        small.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=85)
        data, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
