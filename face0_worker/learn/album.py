"""What an existing model learns from: pictures on disk, chosen without holding them, encoded once by its own parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.learn.autoencoder import to_unit
from face0_worker.learn.dataset import Line, is_held_out, read_square
from face0_worker.learn.material import MIN_FACE_PX, choose, look
from face0_worker.learn.samples import Sitters, spread
from face0_worker.learn.seen_faces import SeenFaces
from face0_worker.learn.shelf import Shelf
from face0_worker.learn.sources import Permit, Source
from face0_worker.learn.wordings import wordings
from face0_worker.render.text import TextEncoder, encode_texts

SITTERS = 4
TEXTS = 4  # wordings of a caption in rendered people's grammar; each takes 118 kB on disk in SD 1.5
_AT_ONCE = 4  # pictures; SD's VAE holds about 1 GB for one of 512 px
_TEXTS_AT_ONCE = 16
_SAY_EVERY = 200


@dataclass(frozen=True)
class Album:
    """Pictures to learn from, `faces` in the order of `lines`, and `sitters`: held-out people to look at.

    `unreadable` and `faceless` count the pictures left out: absent or damaged, and without a face wider than 20 px.
    `sides` int64 (n,) are the pictures' shorter sides in pixels.
    """

    lines: tuple[Line, ...]
    faces: SeenFaces
    sides: np.ndarray
    sitters: tuple[Line, ...]
    sitters_faces: np.ndarray
    sources: tuple[Source, ...]
    unreadable: int
    faceless: int

    @property
    def people(self) -> tuple[str, ...]:
        """Who is in each picture."""
        return tuple(line.person for line in self.lines)

    def sit(self, size: int) -> Sitters:
        """Return the held-out people with their photos as squares of `size` px."""
        pixels = [read_pixels(line, size) for line in self.sitters]
        return Sitters(np.array(pixels, np.uint8).reshape(len(pixels), size, size, 3), self.sitters_faces)


def read_album(folders: Sequence[Path], pack: Path | None, permit: Permit, say: Callable[[str], None]) -> Album:
    """Read captions and faces of all folders and choose as `gather` does. Raises: as look and choose."""
    looked = look(folders, pack, permit, say)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        known = [
            (line.path if digest else None) for line, digest in zip(looked.lines, looked.faces.digests, strict=True)
        ]
        sides = np.array(list(threads.map(_side, known)), np.int64)
    held = np.array([is_held_out(line.person) for line in looked.lines])
    there = sides > 0
    out = np.flatnonzero(there & held)
    learn = np.flatnonzero(there & ~held)
    kept = choose(looked.faces.widths() * sides > MIN_FACE_PX, learn, len(out), say)
    chosen = out[spread([looked.lines[row].person for row in out], looked.faces.embeddings[out], SITTERS)]
    lines = tuple(looked.lines[row] for row in kept)
    people = len({line.person for line in lines})
    say(f"{len(lines)} pictures of {people} people to learn from, {len(out)} held out")
    return Album(
        lines,
        looked.faces.rows(kept),
        sides[kept],
        tuple(looked.lines[row] for row in chosen),
        looked.faces.embeddings[chosen],
        looked.sources,
        int((~there).sum()),
        len(learn) - len(kept),
    )


def _side(path: Path | None) -> int:
    if path is None:
        return 0
    with Image.open(path) as opened:
        return min(opened.size)


def read_pixels(line: Line, size: int) -> np.ndarray:
    """Return a picture's middle square, uint8 (size, size, 3). Raises: BadInput: it can't be read."""
    square = read_square(line.path)
    resized = square if square.width == size else square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.uint8)


@torch.no_grad()
def shelve_latents(album: Album, vae: Any, size: int, shelf: Shelf, say: Callable[[str], None]) -> None:
    """Encode what the shelf does not have yet, plain and mirrored (2, c, h, w), in float32, scaled to unit variance.

    Raises: BadInput: a picture is gone since it was looked at, or the VAE makes values that are no numbers.
    """
    waiting = dict(zip(album.faces.digests, album.lines, strict=True))
    todo = [(digest, line) for digest, line in waiting.items() if digest not in shelf]
    if small := int((album.sides < size).sum()):
        say(f"{small} of {len(album.lines)} pictures are smaller than {size} px and are enlarged")
    for start in range(0, len(todo), _AT_ONCE):
        some = todo[start : start + _AT_ONCE]
        pixels = np.stack([read_pixels(line, size) for _, line in some])
        units = to_unit(torch.from_numpy(pixels).to(vae.device))
        both = torch.cat([units, units.flip(-1)])
        latents = vae.encode(both).latent_dist.mode().float() * float(vae.config.scaling_factor)
        if not bool(latents.isfinite().all()):
            raise BadInput(f"the base's VAE makes no numbers of {some[0][1].path} or one of the next {len(some) - 1}")
        shelf.put([digest for digest, _ in some], torch.stack(latents.chunk(2), dim=1))
        done = start + len(some)
        if done % _SAY_EVERY < _AT_ONCE or done == len(todo):
            say(f"encoded {done} of {len(todo)} new pictures")


@torch.no_grad()
def shelve_texts(
    texts: Sequence[str], encoder: TextEncoder, face_tokens: int, shelf: Shelf, say: Callable[[str], None]
) -> None:
    """Encode the texts that the shelf does not have yet, (length, d) each, as the renderer encodes prompts."""
    todo = [text for text in dict.fromkeys(texts) if text_digest(text) not in shelf]
    cut = 0
    for start in range(0, len(todo), _TEXTS_AT_ONCE):
        some = todo[start : start + _TEXTS_AT_ONCE]
        encoded = encode_texts([encoder], some, face_tokens)
        cut += sum(encoded.truncated)
        shelf.put([text_digest(text) for text in some], encoded.tokens)
    if todo:
        longer = f"; {cut} are too long and lose their ends" if cut else ""
        say(f"encoded {len(todo)} texts{longer}")


def text_digest(text: str) -> str:
    """Return what a text is known by."""
    return hashlib.sha256(text.encode()).hexdigest()


def caption_wordings(album: Album, seed: int) -> list[tuple[str, ...]]:
    """Return the wordings of each caption: TEXTS of rendered people's grammar, one and the same of any other."""
    rng = np.random.default_rng(seed)
    return [wordings(line.caption, TEXTS, rng) for line in album.lines]


def word_rows(told: Sequence[tuple[str, ...]], shelf: Shelf) -> Tensor:
    """Return where each wording stands on the shelf: int64 (n, k, 1)."""
    return torch.stack([shelf.rows([text_digest(text) for text in texts]) for texts in told])[:, :, None]
