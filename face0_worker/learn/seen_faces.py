"""The faces of a data folder as its face pack sees them, kept beside the pictures in `faces.npz` by their digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from face0_worker.contract.errors import BadInput
from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import FacePack, load_pack
from face0_worker.learn.dataset import Line, read_index, read_square, readable

FACES = "faces.npz"
CHUNK = 64  # pictures that one process takes at a time


@dataclass(frozen=True)
class SeenFaces:
    """What a face pack saw in n pictures: `embeddings` (n, d) float32, normalised, zero rows where it found no face;
    `boxes` (n, 4) float32, left, top, right, bottom in parts of the picture. `digests` (n) are the sha256 of the
    pictures' files, "" for one that can't be read. `embedder` says which pack: name, digest, dimension."""

    digests: tuple[str, ...]
    embeddings: np.ndarray
    boxes: np.ndarray
    embedder: dict[str, object]

    def of(self, digests: Sequence[str]) -> SeenFaces:
        """Return the faces of these pictures, in their order; "" and zeros for one that it knows nothing of."""
        row = {digest: number for number, digest in enumerate(self.digests) if digest}
        at = np.array([row.get(digest, -1) for digest in digests], dtype=np.int64)
        embeddings = np.zeros((len(digests), self.embeddings.shape[1]), np.float32)
        boxes = np.zeros((len(digests), 4), np.float32)
        embeddings[at >= 0], boxes[at >= 0] = self.embeddings[at[at >= 0]], self.boxes[at[at >= 0]]
        known = tuple(digest if digest in row else "" for digest in digests)
        return SeenFaces(known, embeddings, boxes, self.embedder)

    def rows(self, at: np.ndarray) -> SeenFaces:
        """Return those of the pictures `at` (int64)."""
        digests = tuple(self.digests[row] for row in at)
        return SeenFaces(digests, self.embeddings[at], self.boxes[at], self.embedder)

    def widths(self) -> np.ndarray:
        """Return how wide each face is, in parts of its picture (n)."""
        return np.asarray(self.boxes[:, 2] - self.boxes[:, 0])

    def save(self, path: Path) -> None:
        """Write them, whole or not at all; half precision is far finer than what training adds as noise."""
        fresh = path.with_suffix(".new.npz")
        np.savez(
            fresh,
            digests=np.array(self.digests),
            embeddings=self.embeddings.astype(np.float16),
            boxes=self.boxes.astype(np.float16),
            embedder=np.array(json.dumps(self.embedder)),
        )
        os.replace(fresh, path)


def read_faces(path: Path) -> SeenFaces:
    """Read what `SeenFaces.save` wrote. Raises: BadInput: it is absent or not such a file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return SeenFaces(
                tuple(str(digest) for digest in stored["digests"]),
                stored["embeddings"].astype(np.float32),
                stored["boxes"].astype(np.float32),
                json.loads(str(stored["embedder"])),
            )
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise BadInput(
            f"{path} can't be read ({type(error).__name__}); remove it and run `face0-worker faces` again"
        ) from error


def faces_of(folder: Path, pack: Path | None = None, say: Callable[[str], None] = print, cores: int = 0) -> SeenFaces:
    """Return the faces of every picture of a data folder; pictures not looked at yet are looked at, on all cores.

    What is known stands in `faces.npz` of the folder by the pictures' digests, so a folder that grows or changes is
    looked at only where it did, and a folder that brings a complete `faces.npz` needs no face pack on this machine
    (`pack` None). A picture that can't be read is named, gets rows of zeros and is looked at again next time.
    Raises: BadInput: as read_index and read_faces, or `faces.npz` is of another pack. ModelMissing: as load_pack.
    """
    lines = read_index(folder)
    with ThreadPoolExecutor(cores or os.cpu_count()) as threads:
        digests = list(threads.map(digest_of, (line.path for line in lines)))
    path = folder / FACES
    known = read_faces(path) if path.is_file() else None
    there = set(known.digests if known else ())
    new = {digest or line.file: line for digest, line in zip(digests, lines, strict=True) if digest not in there}
    fresh = readable(list(new.values()), say, len(lines)) if new else []
    if known is not None and not fresh:
        return known.of(digests)
    loaded = load_pack(pack)
    nobody = np.zeros((0, loaded.dimension), np.float32), np.zeros((0, 4), np.float32)
    seen = known or SeenFaces((), *nobody, _told(loaded))
    if seen.embedder != _told(loaded):
        raise BadInput(f"{path} is of face pack {seen.embedder['name']}, not {loaded.name}; remove it to start anew")
    for number, part in enumerate(_look(fresh, loaded, cores or os.cpu_count() or 1), start=1):
        seen = _joined(seen, part)
        if number % 16 == 0 or number * CHUNK >= len(fresh):
            seen.save(path)
            say(f"looked at {min(number * CHUNK, len(fresh))} of {len(fresh)} new pictures")
    return seen.of(digests)


def digest_of(path: Path) -> str:
    """Return the sha256 hex of a file, "" where it can't be read."""
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


def _told(pack: FacePack) -> dict[str, object]:
    return {"name": pack.name, "digest": pack.digest, "dimension": pack.dimension}


def _joined(one: SeenFaces, other: SeenFaces) -> SeenFaces:
    embeddings = np.concatenate([one.embeddings, other.embeddings])
    return SeenFaces(one.digests + other.digests, embeddings, np.concatenate([one.boxes, other.boxes]), one.embedder)


def _look(lines: Sequence[Line], pack: FacePack, cores: int) -> Iterator[SeenFaces]:
    chunks = iter(lines)
    parts = list(iter(lambda: list(islice(chunks, CHUNK)), []))
    if len(parts) == 1 or cores == 1:
        yield from map(partial(_look_at, pack), parts)
        return
    # started anew: a copied process would inherit the caller's threads half-way through what they do
    anew = get_context("spawn")
    with ProcessPoolExecutor(min(cores, len(parts)), mp_context=anew, initializer=_one_thread) as processes:
        yield from processes.map(partial(_look_at, pack), parts)


_embedders: dict[str, Embedder] = {}  # one a process: loading takes longer than a chunk


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def _look_at(pack: FacePack, lines: Sequence[Line]) -> SeenFaces:
    if pack.digest not in _embedders:
        _embedders[pack.digest] = Embedder.open(pack)
    embedder = _embedders[pack.digest]
    embeddings = np.zeros((len(lines), pack.dimension), np.float32)
    boxes = np.zeros((len(lines), 4), np.float32)
    for row, line in enumerate(lines):
        image = read_square(line.path)
        found = embedder.find(image)
        if found:  # the largest comes first
            embeddings[row] = embedder.normalise(found[0].embedding)
            boxes[row] = np.array(found[0].box, np.float32) / image.width
    return SeenFaces(tuple(digest_of(line.path) for line in lines), embeddings, boxes, _told(pack))
