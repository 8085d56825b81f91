"""A gallery: one HTML file with every picture of a job inside it, that opens from a disk without any server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from PIL import Image

from face0_worker.contract.errors import BadInput
from producer.results import Picture

MOST = 1000  # pictures on one page
_THUMBNAIL = 384  # pixels
_INLINE = 60_000  # bytes; a smaller PNG goes in as it is


@dataclass(frozen=True)
class Card:
    """One picture as the page shows it; every value is text that the template escapes."""

    sku: str
    caption: str
    prompt: str
    source: str
    link: str
    identity: str
    faces: str
    brightness: str
    contrast: str
    sha256: str
    item_key: str
    seed: str
    size: str
    kept: bool


def card(picture: Picture, *, caption: str = "", link: str = "") -> Card:
    """Return the card of a picture. `link`: where the whole file lies, relative to the page."""
    receipt = picture.receipt
    verdict = receipt.verdict
    return Card(
        sku=f"{picture.sku}-{picture.variant}" if picture.variant else picture.sku,
        caption=caption,
        prompt=picture.prompt,
        source=_inline(picture.data),
        link=quote(link),
        identity="no face found" if verdict.identity is None else f"{verdict.identity:.2f}",
        faces=str(verdict.faces),
        brightness=f"{verdict.brightness:.2f}",
        contrast=f"{verdict.contrast:.2f}",
        sha256=receipt.picture_sha256,
        item_key=receipt.item_key,
        seed=str(receipt.seed),
        size=f"{receipt.width} × {receipt.height}",
        kept=picture.kept,
    )


def write_gallery(cards: Iterable[Card], out: Path, *, title: str, facts: dict[str, str]) -> int:
    """Write the page and return how many pictures it shows (at most the first 1000).

    `facts`: what stands at the top, by its label. Raises: BadInput: no cards, or `out` can't be written.
    """
    shown = [one for one, _ in zip(cards, range(MOST), strict=False)]
    if not shown:
        raise BadInput("there is no finished picture to show yet; see `face0 status`")
    environment = Environment(
        loader=PackageLoader("producer", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("gallery.html").render(title=title, facts=facts, cards=shown)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}; choose another place with --out") from error
    return len(shown)


def _inline(data: bytes) -> str:
    """Return a picture as a data: URL; a large one as a small copy."""
    kind = "png"
    if len(data) > _INLINE:
        with Image.open(io.BytesIO(data)) as opened:
            small = opened.convert("RGB")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=88)
        data, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
