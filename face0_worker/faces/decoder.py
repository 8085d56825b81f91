"""The picture decoder: one photo in, upright 8-bit RGB out, in a process of its own that can't take the machine down.

`photo.py` starts this file by its path. stdin: the photo's bytes. stdout: one line of JSON,
then, if it says `width` and `height`, the pixels. It imports nothing of face0, so that it starts in 0.1 s and so that
nothing but the standard library, Pillow and libheif sees bytes that a stranger may have made.
"""

from __future__ import annotations

import io
import json
import os
import resource
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

MAX_PIXELS = 200_000_000  # the largest phone cameras give 16,320 x 12,240
MAX_SIDE = 4096  # finding and measuring a face gains nothing from more
MEMORY_BYTES = 1 << 30
CPU_S = 20
_NATIVE = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")  # JPEG includes MPO
FORMATS = (*_NATIVE, "HEIF")  # the last comes with pillow-heif, which is loaded only for a file that needs it
ACCEPTED = "JPEG, PNG, WebP, HEIC, AVIF, TIFF, GIF or BMP"
_AGAIN = "copy it again from where it came, or save it as a JPEG"
_DAMAGED = f"the photo is damaged, incomplete or of a rare kind; {_AGAIN}"
_STRIP_ROWS = 512
_ORIENTATION = 0x0112
_NEW_SUBFILE_TYPE, _DNG_VERSION = 254, 50706
_SIDEWAYS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> Image.Transpose
# what people bring that is no picture format of Pillow's: how it begins (from which byte), what it is called
_KNOWN = ((0, b"%PDF", "a PDF"), (0, b"<svg", "an SVG drawing"), (0, b"PK\x03\x04", "a ZIP or office file"))
_VIDEO_BRANDS = (b"isom", b"iso2", b"mp41", b"mp42", b"qt  ", b"M4V ", b"3gp4", b"3gp5", b"avc1")


class Unfit(Exception):
    """This photo is not taken: a sentence for people, and a code for machines (see docs/photos.md)."""

    def __init__(self, sentence: str, code: str) -> None:
        super().__init__(sentence)
        self.code = code


def main() -> None:
    """Decode what stands on stdin and write the answer; the process ends itself when it needs too much."""
    _limit()
    with open(0, "rb", buffering=0) as given:
        data = given.readall()
    try:
        image, scale = decode(data)
        head: dict[str, Any] = {"width": image.width, "height": image.height, "scale": scale}
        pixels = image.tobytes()
    except Unfit as refusal:
        head, pixels = {"code": refusal.code, "sentence": str(refusal)}, b""
    except MemoryError:
        head, pixels = {"code": "too_large", "sentence": too_much_memory()}, b""
    with open(1, "wb") as answer:
        answer.write(json.dumps(head).encode() + b"\n")
        answer.write(pixels)


def too_much_memory() -> str:
    """Return the sentence for a photo that can't be decoded within MEMORY_BYTES."""
    return f"the photo needs more than {MEMORY_BYTES >> 20:,} MB of memory to be read; save it smaller, as a JPEG"


def _limit() -> None:
    # RLIMIT_FSIZE 0: no byte of the photo can get into a file from here
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, CPU_S),
    ):
        hard = resource.getrlimit(what)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # at the soft CPU limit the kernel says SIGXCPU, which tells a slow photo from a killed process
        above = 1 if what == resource.RLIMIT_CPU and soft != hard else 0
        resource.setrlimit(what, (soft, soft + above))


def decode(data: bytes) -> tuple[Image.Image, float]:
    """Return the first picture in `data`, upright, in sRGB, at most MAX_SIDE on its longest side, and by how much
    it was made smaller (>= 1).

    Raises: Unfit: not a picture, of a format that is not read, damaged, or too large; MemoryError.
    """
    warnings.simplefilter("ignore")
    opened = _open(data)
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise Unfit(f"the photo is {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} are read", "too_large")
    _refuse_raw(opened)
    try:
        # a JPEG is decoded at a half, a quarter or an eighth at once, in that much less memory
        factor = -(-max(width, height) // MAX_SIDE)
        if opened.format in ("JPEG", "MPO"):
            opened.draft(None, (max(1, width // factor), max(1, height // factor)))
        opened.load()
        upright = _upright(_in_strips(opened), opened)
    except (Unfit, MemoryError):
        raise
    except Exception as error:
        # codecs have no MemoryError of their own: a message at best, and libjpeg not even that
        if "memory" in str(error).lower() or _keeps_too_much(opened, width * height):
            raise MemoryError from error
        raise Unfit(_DAMAGED, "damaged") from error
    return upright, max(width, height) / max(upright.size)


def _keeps_too_much(opened: Image.Image, pixels: int) -> bool:
    """Whether a progressive JPEG may not fit: libjpeg keeps it whole, two bytes for each of three values a pixel."""
    return bool(opened.info.get("progressive")) and pixels * 6 > MEMORY_BYTES


def _open(data: bytes) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # decode() has its own limit and sentence
    formats: tuple[str, ...] = _NATIVE
    if data[4:8] == b"ftyp":
        formats = FORMATS
        import pillow_heif

        # one thread: each would reserve address space that the picture needs
        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise _unreadable(data) from error
    except MemoryError:
        raise
    except Exception as error:
        raise Unfit(_DAMAGED, "damaged") from error


def _unreadable(data: bytes) -> Unfit:
    """Say what the bytes are, if that can be told from how they begin."""
    from PIL import Image

    name = next((name for at, start, name in _KNOWN if data[at : at + len(start)] == start), "")
    if data[4:8] == b"ftyp" and data[8:12] in _VIDEO_BRANDS:
        name = "a video"
    if not name:
        Image.init()
        for form, (_, accept) in sorted(Image.OPEN.items()):
            # only asks how the file begins; nothing of such a format is ever decoded
            if accept is not None and accept(data[:16].ljust(16, b"\0")):
                if form in FORMATS:
                    return Unfit(f"the photo begins as {form} and can't be read further; {_AGAIN}", "damaged")
                name = f"a {form} file"
                break
    if name:
        return Unfit(f"the photo can't be read: it is {name}; save it as {ACCEPTED}", "format")
    return Unfit(f"the photo can't be read: it is not a picture; choose a file in {ACCEPTED}", "not_a_picture")


def _refuse_raw(opened: Image.Image) -> None:
    """Camera raw files are TIFFs whose first picture is a thumbnail: nobody's face should be measured in that."""
    tags = getattr(opened, "tag_v2", {})
    if _DNG_VERSION in tags or int(tags.get(_NEW_SUBFILE_TYPE, 0)) & 1:
        raise Unfit(f"the photo is a camera's raw file; save it as {ACCEPTED}", "format")


def _in_strips(image: Image.Image) -> Image.Image:
    """Return `image` as 8-bit sRGB with its longest side at most MAX_SIDE; only a strip is ever held twice."""
    from PIL import Image

    width, height = image.size  # of what was decoded: a drafted JPEG is smaller than it says
    factor = -(-max(width, height) // MAX_SIDE)
    to_srgb = _colour_transform(image)
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = _STRIP_ROWS * factor
    for top in range(0, height, rows):
        strip = to_srgb(_flat(image.crop((0, top, width, min(height, top + rows)))))
        small.paste(strip.reduce(factor) if factor > 1 else strip, (0, top // factor))
    return small


def _flat(strip: Image.Image) -> Image.Image:
    """Return 8-bit L, RGB or CMYK: 16 bits scaled, palettes looked up, what is transparent laid on white."""
    from PIL import Image

    if strip.mode in ("I", "F"):
        raise Unfit(f"the photo has 32-bit pixels; save it as {ACCEPTED} with 8 or 16 bits", "format")
    if strip.mode.startswith("I;16"):
        return strip.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if strip.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in strip.info:
        clear = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return strip if strip.mode in ("L", "RGB", "CMYK") else strip.convert("RGB")


def _colour_transform(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return what turns a flat strip into sRGB: by the embedded profile, or plainly where that is absent or broken."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    transforms: dict[str, ImageCms.ImageCmsTransform | None] = {}

    def convert(strip: Image.Image) -> Image.Image:
        if profile and strip.mode not in transforms:
            try:
                transforms[strip.mode] = ImageCms.buildTransform(
                    ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), strip.mode, "RGB"
                )
            except Exception:  # noqa: BLE001 - a broken profile, or one for other pixels: the picture stands without
                transforms[strip.mode] = None
        transform = transforms.get(strip.mode)
        return strip.convert("RGB") if transform is None else transform.apply(strip)

    return convert


def _upright(small: Image.Image, source: Image.Image) -> Image.Image:
    from PIL import Image

    try:
        orientation = source.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - broken EXIF says nothing about the pixels
        return small
    way = _SIDEWAYS.get(orientation)
    return small if way is None else small.transpose(Image.Transpose(way))


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing is left to tidy, and freeing a large picture takes its time
