"""What the judges see in pictures: the face, two recognisers' vectors of it, and the attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from face0_worker.faces.embed import Embedder
from face0_worker.learn.face_crops import OVERVIEW_SIDE, SIDE, crop_face, overview
from face0_worker.learn.judges import Judges

# the recogniser that was trained for this, and the one that the pictures were conditioned with
INDEPENDENT, CONDITIONING = "independent", "conditioning"


@dataclass(frozen=True)
class Looks:
    """What was seen in n pictures, row by row.

    `found` (n,) bool: the product's detector finds a face; the largest one counts. `crops` uint8 (n, SIDE, SIDE, 3):
    the aligned inner face, zeros where there is none. `vectors` holds per recogniser unit vectors (n, d), and `raw`
    the conditioning recogniser's vectors (n, d) as it gives them. `told` are each picture's attributes; empty where
    there is no picture at all.
    """

    found: np.ndarray
    crops: np.ndarray
    vectors: Mapping[str, np.ndarray]
    raw: np.ndarray
    told: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.found)

    def rows(self, chosen: Sequence[int]) -> Looks:
        """Return some rows, in the order of `chosen`."""
        index = np.asarray(chosen, np.int64)
        vectors = {name: every[index] for name, every in self.vectors.items()}
        return Looks(self.found[index], self.crops[index], vectors, self.raw[index], tuple(self.told[i] for i in index))


def look(pictures: Sequence[Image.Image | None], embedder: Embedder, judges: Judges) -> Looks:
    """Return what both recognisers and the classifiers see; None stands for a picture that was never made."""
    n, dimension = len(pictures), embedder.pack.dimension
    found, crops = np.zeros(n, bool), np.zeros((n, SIDE, SIDE, 3), np.uint8)
    overviews = np.zeros((n, OVERVIEW_SIDE, OVERVIEW_SIDE, 3), np.uint8)
    raw, conditioning = np.zeros((n, dimension), np.float32), np.zeros((n, dimension), np.float32)
    for row, picture in enumerate(pictures):
        if picture is None:
            continue
        overviews[row] = overview(picture)
        faces = embedder.find(picture)
        if faces:
            found[row], crops[row] = True, crop_face(picture, faces[0].landmarks)
            raw[row] = faces[0].embedding
            conditioning[row] = embedder.normalise(faces[0].embedding) / np.sqrt(dimension)
    told = judges.attributes.tell(overviews)
    return Looks(
        found=found,
        crops=crops,
        vectors={INDEPENDENT: judges.recogniser.embed(crops), CONDITIONING: conditioning},
        raw=raw,
        told=tuple({} if picture is None else said for picture, said in zip(pictures, told, strict=True)),
    )
