"""What a training learns from: pictures whose right is stated, with a face in them, of people who are not held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from face0_worker.contract.errors import BadInput
from face0_worker.learn.dataset import Portraits, load_portraits
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


def gather(
    folders: Sequence[Path], size: int, pack: Path | None, permit: Permit, say: Callable[[str], None]
) -> Material:
    """Read all folders and the faces in them, leave out what can't be learned from, and split off the held-out people.

    Raises: BadInput: as read_source, load_portraits and faces_of, faces of several packs, or nothing is left.
    ConsentRefused: as `permit`.
    """
    sources = tuple(read_source(folder, permit) for folder in folders)
    looked = [faces_of(folder, pack, say) for folder in folders]
    for folder, one in zip(folders, looked, strict=True):
        if one.embedder != looked[0].embedder:
            raise BadInput(f"the faces of {folder} were embedded by another face pack than those of {folders[0]}")
    portraits, unreadable = load_portraits(folders, size, say)
    embeddings = np.concatenate([one.embeddings for one in looked])[portraits.rows]
    boxes = np.concatenate([one.boxes for one in looked])[portraits.rows]
    wide = (boxes[:, 2] - boxes[:, 0]) * portraits.sides > MIN_FACE_PX
    learn, held = portraits.held_out()
    unseen, sitters = (
        portraits.pixels[held][:UNSEEN],
        Sitters.choose(portraits.pixels[held], [portraits.people[i] for i in held], embeddings[held], SITTERS),
    )
    kept = learn[wide[learn]]
    if len(kept) == 0:
        raise BadInput(f"nothing to learn from: of {len(learn)} pictures none shows a face wider than {MIN_FACE_PX} px")
    if len(kept) < len(learn):
        say(f"{len(learn) - len(kept)} pictures show no face wider than {MIN_FACE_PX} px and are left out")
    seen = portraits.subset(kept)
    say(f"{len(seen)} pictures of {len(set(seen.people))} people to learn from, {len(held)} held out")
    faces = SeenFaces(seen.files, embeddings[kept], boxes[kept], looked[0].embedder)
    return Material(seen, faces, sitters, unseen, sources, unreadable, len(learn) - len(kept))
