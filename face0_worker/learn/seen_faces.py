"""The faces of a data folder as its face pack sees them, kept beside the pictures in `faces.npz`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
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
    """What a face pack saw in the pictures `files` (n): `embeddings` (n, d) float32, normalised, zero rows where it
    found no face; `boxes` (n, 4) float32, left, top, right, bottom in parts of the picture. `embedder` says which
    pack: name, digest, dimension."""

    files: tuple[str, ...]
    embeddings: np.ndarray
    boxes: np.ndarray
    embedder: dict[str, object]

    def of(self, files: Sequence[str]) -> SeenFaces:
        """Return the faces of these files, in their order; rows of zeros for one that it knows nothing of."""
        row = {file: number for number, file in enumerate(self.files)}
        at = np.array([row.get(file, -1) for file in files], dtype=np.int64)
        embeddings = np.zeros((len(files), self.embeddings.shape[1]), np.float32)
        boxes = np.zeros((len(files), 4), np.float32)
        embeddings[at >= 0], boxes[at >= 0] = self.embeddings[at[at >= 0]], self.boxes[at[at >= 0]]
        return SeenFaces(tuple(files), embeddings, boxes, self.embedder)

    def save(self, path: Path) -> None:
        """Write them, whole or not at all; half precision is far finer than what training adds as noise."""
        fresh = path.with_suffix(".new.npz")
        np.savez(
            fresh,
            files=np.array(self.files),
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
                tuple(str(file) for file in stored["files"]),
                stored["embeddings"].astype(np.float32),
                stored["boxes"].astype(np.float32),
                json.loads(str(stored["embedder"])),
            )
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise BadInput(f"{path} can't be read ({type(error).__name__}); run `face0-worker faces` again") from error


def faces_of(folder: Path, pack: Path | None = None, say: Callable[[str], None] = print, cores: int = 0) -> SeenFaces:
    """Return the faces of every picture of a data folder; pictures not looked at yet are looked at, on all cores.

    What is known stands in `faces.npz` of the folder, so a folder that grows is looked at only where it grew, and a
    folder that brings a complete `faces.npz` needs no face pack on this machine (`pack` None). A picture that can't be
    read is named, gets rows of zeros and is looked at again next time.
    Raises: BadInput: as read_index and read_faces, or `faces.npz` is of another pack. ModelMissing: as load_pack.
    """
    lines = read_index(folder)
    files = [line.file for line in lines]
    path = folder / FACES
    known = read_faces(path) if path.is_file() else None
    there = set(known.files if known else ())
    fresh = [line for line in lines if line.file not in there]
    fresh = readable(fresh, say) if fresh else []
    if known is not None and not fresh:
        return known.of(files)
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
    return seen.of(files)


def _told(pack: FacePack) -> dict[str, object]:
    return {"name": pack.name, "digest": pack.digest, "dimension": pack.dimension}


def _joined(one: SeenFaces, other: SeenFaces) -> SeenFaces:
    embeddings = np.concatenate([one.embeddings, other.embeddings])
    return SeenFaces(one.files + other.files, embeddings, np.concatenate([one.boxes, other.boxes]), one.embedder)


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
    return SeenFaces(tuple(line.file for line in lines), embeddings, boxes, _told(pack))
