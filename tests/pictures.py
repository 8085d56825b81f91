"""Picture files for tests, made cheaply: what phones write, and what a stranger might send."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_ROWS_AT_ONCE = 50


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """Return the bytes of `image` as a file of a Pillow format; HEIF by pillow-heif."""
    if form == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    out = io.BytesIO()
    image.copy().save(out, form, **options)  # saving leaves its traces in an image
    return out.getvalue()


def sixteen_bit(image: Image.Image, ending: str) -> bytes:
    """Return `image` (L or RGB) with 16 bits a channel, as a file of that ending (".png", ".tiff"), by OpenCV."""
    import cv2

    pixels = np.asarray(image).astype(np.uint16) * 257
    fine, file = cv2.imencode(ending, pixels if pixels.ndim == 2 else pixels[:, :, ::-1])
    assert fine
    return bytes(file)


def black_png(width: int, height: int, *, channels: int = 3) -> bytes:
    """Return a valid PNG of 8-bit zeros, a thousandth of the memory that its pixels need.

    A block of rows is deflated once, up to a full flush, and repeated; Adler's checksum of n zeros is known.
    """
    row = bytes(1 + width * channels)

    def rows(count: int) -> bytes:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflate.compress(row * count) + deflate.flush(zlib.Z_FULL_FLUSH)

    def stream() -> Iterator[bytes]:
        blocks, rest = divmod(height, _ROWS_AT_ONCE)
        yield b"\x78\x9c"
        yield rows(_ROWS_AT_ONCE) * blocks
        yield rows(rest) if rest else b""
        yield zlib.compressobj(9, zlib.DEFLATED, -15).flush()
        yield struct.pack(">HH", len(row) * height % 65521, 1)

    kind = {1: 0, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", b"".join(stream())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def swapping_profile() -> bytes:
    """Return a valid ICC profile in which red and blue have changed places, so that whoever heeds it is seen to."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"....").replace(b"bXYZ", b"rXYZ").replace(b"....", b"bXYZ")
