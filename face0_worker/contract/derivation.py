"""A committed picture in another form: smaller, or in another file format; and the key that names it beforehand."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import canonical_json

DERIVER_VERSION = "1"
LARGEST = 8192  # pixels, either side
SMALLEST_FILE = 1024  # bytes; no picture of ours fits into less


class FileFormat(StrEnum):
    """What a picture's file can be."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def ending(self) -> str:
        """The ending of its files, without a dot."""
        return "jpg" if self is FileFormat.JPEG else str(self)

    @property
    def media_type(self) -> str:
        """Its media type (RFC 6838)."""
        return f"image/{self}"


@dataclass(frozen=True)
class Form:
    """How a picture is written anew; 0 means that nothing is asked.

    `quality` is 1 to 100 for JPEG and WebP. `max_bytes`: the quality goes down until the file fits. `width` and
    `height` in pixels: the picture is made to fit in, in its proportions, and never enlarged.
    Raises: BadInput: a form that can't be meant; the sentence names the option.
    """

    format: FileFormat = FileFormat.PNG
    quality: int = 0
    max_bytes: int = 0
    width: int = 0
    height: int = 0

    def __post_init__(self) -> None:
        if self.quality and self.format is FileFormat.PNG:
            raise BadInput("--quality is for jpeg and webp; a png keeps every pixel")
        if not 0 <= self.quality <= 100:
            raise BadInput(f"--quality {self.quality}: expected 1 to 100")
        if self.max_bytes and self.max_bytes < SMALLEST_FILE:
            raise BadInput(f"--max-bytes {self.max_bytes}: expected {SMALLEST_FILE} or more")
        for name in ("width", "height"):
            if not 0 <= getattr(self, name) <= LARGEST:
                raise BadInput(f"--{name} {getattr(self, name)}: expected 1 to {LARGEST} pixels")

    @property
    def changes_nothing(self) -> bool:
        """Whether the committed picture itself is what is asked for."""
        return self == Form()

    def to_json(self) -> dict[str, Any]:
        """Return the form as plain JSON values; `from_json` reads it back exactly."""
        return {**asdict(self), "format": str(self.format)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Form:
        """Read a form written by `to_json`."""
        return cls(**{**data, "format": FileFormat(data["format"])})


def derivation_key(parent_sha256: str, form: Form) -> str:
    """Return the sha256 hex that names a picture in another form: over its parent's bytes and the form."""
    whole = {"parent": parent_sha256, "form": form.to_json(), "deriver": DERIVER_VERSION}
    return hashlib.sha256(canonical_json(whole)).hexdigest()
