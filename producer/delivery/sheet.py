"""A contact sheet: all pictures of a job on one page, with captions in English or Japanese."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from face0_worker.contract.errors import BadInput, ModelMissing

_CELL, _GAP, _MARGIN = 256, 20, 32  # pixels
_CAPTION, _LABEL, _TITLE = 17, 13, 24  # font sizes in pixels
_LINES = 2
_PAPER, _INK, _FAINT = (250, 249, 247), (28, 28, 30), (120, 118, 114)
MOST = 500


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet: PNG bytes, its caption (may be Japanese) and a small label under it."""

    data: bytes
    caption: str
    label: str


def contact_sheet(tiles: Sequence[Tile], out: Path, *, title: str, columns: int = 4) -> None:
    """Write the tiles as one PNG, row by row, at most the first 500.

    Raises: BadInput: there are no tiles, or `out` can't be written. ModelMissing: the caption font is not installed.
    """
    if not tiles:
        raise BadInput("there is no finished picture to put on a contact sheet")
    shown = tiles[:MOST]
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    tall = _CELL + 10 + _LINES * (_CAPTION + 5) + _LABEL + 8
    head = _TITLE + _MARGIN
    wide = 2 * _MARGIN + columns * _CELL + (columns - 1) * _GAP
    sheet = Image.new("RGB", (wide, 2 * _MARGIN + head + rows * tall + (rows - 1) * _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), _fit(title, _font(_TITLE), wide - 2 * _MARGIN, 1)[0], _INK, _font(_TITLE))
    for place, tile in enumerate(shown):
        left = _MARGIN + (place % columns) * (_CELL + _GAP)
        top = _MARGIN + head + (place // columns) * (tall + _GAP)
        _draw_tile(sheet, draw, tile, left, top)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out, "PNG", optimize=True)
    except OSError as error:
        raise BadInput(f"{out} can't be written: {error.strerror}") from error


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    with Image.open(io.BytesIO(tile.data)) as opened:
        picture = opened.convert("RGB")
    scale = _CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(picture, (left + (_CELL - size[0]) // 2, top + (_CELL - size[1]) // 2))
    y = top + _CELL + 8
    for line in _fit(tile.caption, _font(_CAPTION), _CELL, _LINES):
        draw.text((left, y), line, _INK, _font(_CAPTION))
        y += _CAPTION + 5
    draw.text((left, y + 1), _fit(tile.label, _font(_LABEL), _CELL, 1)[0], _FAINT, _font(_LABEL))


def _fit(text: str, font: ImageFont.FreeTypeFont, wide: int, lines: int) -> list[str]:
    """Break text into at most `lines` lines of `wide` pixels; Japanese has no spaces, so any place may break."""
    text = " ".join(text.split())
    found: list[str] = []
    while text and len(found) < lines:
        end = len(text)
        while end > 1 and font.getlength(text[:end]) > wide:
            end -= 1
        if end < len(text) and len(found) == lines - 1:
            found.append(text[: max(1, end - 1)].rstrip() + "…")
            break
        space = text.rfind(" ", 1, end + 1) if end < len(text) else -1
        end = space if space > end // 2 else end
        found.append(text[:end].strip())
        text = text[end:].strip()
    return found or [""]


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # found, not imported: the package pulls matplotlib in, which takes a second
    spec = importlib.util.find_spec("matplotlib_fontja")
    file = Path(spec.origin).parent / "fonts" / "ipaexg.ttf" if spec and spec.origin else None
    if file is None or not file.is_file():
        raise ModelMissing("the caption font is not installed; run `pip install matplotlib-fontja`")
    return ImageFont.truetype(str(file), size)
