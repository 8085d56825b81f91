"""What is to be rendered: items, jobs, the key that names a picture before it exists, and the wire form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any

from face0_worker.contract.bars import Bars
from face0_worker.contract.errors import BadInput

RENDERER_VERSION = "1"
WIRE_VERSION = 1
# what a worker can read in an item: 1, or 2 with an output size. Workers offer it with their models
ITEM_FORM = 2


class Priority(IntEnum):
    """Lower is sooner; an urgent job overtakes a running nightly one at the next free batch."""

    URGENT = 0
    NORMAL = 5
    NIGHTLY = 9


class ItemState(StrEnum):
    """Where an item stands. The last five are final (promise P1); purged supersedes any."""

    WAITING = "waiting"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    PURGED = "purged"


OPEN_STATES = (ItemState.WAITING, ItemState.DISPATCHED, ItemState.RUNNING)


@dataclass(frozen=True)
class Guidance:
    """Face0's guidance weights (Valevski et al. 2023, section 3): strength w, joint share c, face share a.

    Guidance is applied in the part [start, stop) of the denoising, 0 <= start < stop <= 1; outside it w counts as
    one, so the unconditional branch is not evaluated.
    """

    w: float = 7.5
    c: float = 1.0
    a: float = 0.0
    start: float = 0.0
    stop: float = 1.0


# what `render.sampler` can step with; a list may name one per item
SAMPLERS = ("ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras", "lcm")

# how a rendered picture comes to its output size: cut at its edges, or whole with bars beside it, of a colour if one is
# named as in "pad #ffffff"
CROP, PAD = "crop", "pad"
# fields that came with form 2: left out where they say nothing, so that a key made before them is the same key
_LATER = ("output_width", "output_height", "fit")


@dataclass(frozen=True)
class RenderItem:
    """One picture to make: everything of the product list that decides its pixels, and its names.

    Sizes are in pixels, `seed` is 0 <= seed < 2**63. `sku` and `variant` are the list's names and are
    not part of the key. The picture is rendered at `width` x `height`; where `output_width` and `output_height` are not
    0 it is then brought to exactly that size as `fit` says.
    """

    sku: str
    prompt: str
    negative_prompt: str = ""
    variant: str = ""
    seed: int = 0
    width: int = 128
    height: int = 128
    steps: int = 20
    sampler: str = "ddim"
    guidance: Guidance = field(default_factory=Guidance)
    precision: str = "float32"
    output_width: int = 0
    output_height: int = 0
    fit: str = ""

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height in pixels of the finished picture."""
        return (self.output_width, self.output_height) if self.output_width else (self.width, self.height)

    def with_seed(self, seed: int) -> RenderItem:
        """Return the same item with another seed."""
        return replace(self, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Return the item as plain JSON values; `from_json` reads it back exactly."""
        # as dataclasses.asdict, which takes three times as long: a list may have a million items
        values = {**vars(self), "guidance": dict(vars(self.guidance))}
        for name in _LATER:
            if not values[name]:
                del values[name]
        return values

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RenderItem:
        """Read an item written by `to_json`."""
        values = dict(data)
        values["guidance"] = Guidance(**values["guidance"])
        return cls(**values)


@dataclass(frozen=True)
class Subject:
    """Whose face and by which models: the part of the key that all items of a job share.

    Digests are lower-case sha256 hex of the embedding's bytes, the model folder and the face pack.
    """

    consent_id: str
    face_digest: str
    model_digest: str
    embedder_digest: str
    face_policy: str = "only"


@dataclass(frozen=True)
class CatalogueJob:
    """A product list to render for one person. `items` may be any number and are read one at a time; ids are opaque.

    `bars`: what the quality gate asks of its pictures. They decide no pixel, so they are no part of an item's key.
    """

    id: str
    subject: Subject
    purpose: str
    priority: Priority
    items: Iterable[RenderItem]
    catalogue: str = ""
    submitter: str = ""
    idempotency_key: str = ""
    campaign: str = ""
    channel: str = ""
    territory: str = ""
    bars: Bars = field(default_factory=Bars)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """Return the one byte form of a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    return _CANONICAL.encode(value).encode()


def item_key(subject: Subject, item: RenderItem) -> str:
    """Return the sha256 hex over everything that decides the pixels; never over the output bytes."""
    decided = item.to_json()
    del decided["sku"], decided["variant"]
    # 1 and 1.0 are the same guidance and must be the same key
    decided["guidance"] = {name: float(value) for name, value in decided["guidance"].items()}
    whole = {"item": decided, "subject": vars(subject), "renderer": RENDERER_VERSION}
    return hashlib.sha256(canonical_json(whole)).hexdigest()


def batch_message(attempt_id: str) -> dict[str, Any]:
    """Return the Celery message for one attempt: ids only, no pixels, names or embeddings (promise P7)."""
    return {"v": WIRE_VERSION, "attempt": attempt_id}


def read_batch_message(message: dict[str, Any]) -> str:
    """Return the attempt id of a message. Raises: BadInput: another wire version."""
    if message.get("v") != WIRE_VERSION or not isinstance(message.get("attempt"), str):
        raise BadInput(f"batch message of version {message.get('v')!r}; this worker reads version {WIRE_VERSION}")
    return str(message["attempt"])
