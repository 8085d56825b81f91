"""What a training learns from: pictures whose right is stated, with a face in them, of people who are not held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from face0_worker.contract.errors import BadInput
from face0_worker.learn.dataset import Line, Portraits, load_portraits, read_index
from face0_worker.learn.samples import Sitters
from face0_worker.learn.seen_faces import SeenFaces, faces_of
from face0_worker.learn.sources import Permit, Source, read_source

MIN_FACE_PX = 20  # a face must be wider (Face0, section 4.1): smaller ones say nothing about the person
SITTERS = 8
UNSEEN = 256


@dataclass(frozen=True)
class Material:
    """What is learned from, and who is held out to look at.

    `unseen` uint8 (n, s, s, 3) are pictures of held-out people; `unreadable` and `faceless` count the pictures that
    were left out: absent or damaged, and without a face wider than 20 px.
    """

    seen: Portraits
    faces: SeenFaces
    sitters: Sitters
    unseen: np.ndarray
    sources: tuple[Source, ...]
    unreadable: int
    faceless: int


@dataclass(frozen=True)
class Looked:
    """All pictures of all folders before any is left out: lines and faces in one order, and each source."""

    sources: tuple[Source, ...]
    lines: tuple[Line, ...]
    faces: SeenFaces


def look(folders: Sequence[Path], pack: Path | None, permit: Permit, say: Callable[[str], None]) -> Looked:
    """Ask for the right to each folder, then read its captions and look at its faces.

    Raises: BadInput: as read_source, read_index and faces_of, or faces of several packs. ConsentRefused: as `permit`.
    """
    sources = tuple(read_source(folder, permit) for folder in folders)
    lines = tuple(line for folder in folders for line in read_index(folder, say))
    looked = [faces_of(folder, pack, say) for folder in folders]
    for folder, one in zip(folders, looked, strict=True):
        if one.embedder != looked[0].embedder:
            raise BadInput(f"the faces of {folder} were embedded by another face pack than those of {folders[0]}")
    digests = tuple(digest for one in looked for digest in one.digests)
    embeddings, boxes = (np.concatenate([getattr(one, name) for one in looked]) for name in ("embeddings", "boxes"))
    return Looked(sources, lines, SeenFaces(digests, embeddings, boxes, looked[0].embedder))


def choose(wide: np.ndarray, learn: np.ndarray, held: int, say: Callable[[str], None]) -> np.ndarray:
    """Return those of the pictures `learn` (int64) whose face is `wide` (bool, of all) enough; `say` counts the others.

    Raises: BadInput: nothing is left.
    """
    kept = learn[wide[learn]]
    if len(learn) == 0:
        raise BadInput(f"nothing to learn from: all {held} pictures are of the people held out for samples; add people")
    if len(kept) == 0:
        raise BadInput(f"nothing to learn from: of {len(learn)} pictures none shows a face wider than {MIN_FACE_PX} px")
    if len(kept) < len(learn):
        say(f"{len(learn) - len(kept)} pictures show no face wider than {MIN_FACE_PX} px and are left out")
    return np.asarray(kept)


def gather(
    folders: Sequence[Path], size: int, pack: Path | None, permit: Permit, say: Callable[[str], None]
) -> Material:
    """Read all folders and the faces in them, leave out what can't be learned from, and split off the held-out people.

    Raises: BadInput: as look, load_portraits and choose. ConsentRefused: as `permit`.
    """
    looked = look(folders, pack, permit, say)
    portraits, unreadable = load_portraits(folders, size, say)
    faces = looked.faces.rows(portraits.rows)
    wide = faces.widths() * portraits.sides > MIN_FACE_PX
    learn, held = portraits.held_out()
    unseen, sitters = (
        portraits.pixels[held][:UNSEEN],
        Sitters.choose(portraits.pixels[held], [portraits.people[i] for i in held], faces.embeddings[held], SITTERS),
    )
    kept = choose(wide, learn, len(held), say)
    seen = portraits.subset(kept)
    say(f"{len(seen)} pictures of {len(set(seen.people))} people to learn from, {len(held)} held out")
    return Material(seen, faces.rows(kept), sitters, unseen, looked.sources, unreadable, len(learn) - len(kept))
