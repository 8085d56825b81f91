"""Where a face comes from: a photo, several photos of one person, or a character; as bytes to seal and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from face0_worker.contract.errors import BadInput, FaceRefused, VerificationFailed
from face0_worker.contract.job import canonical_json
from face0_worker.faces.characters import Recipe, character, character_id, mixture_of
from face0_worker.faces.embed import ONLY, FoundFace, check_policy
from face0_worker.faces.photo import read_photo_file
from face0_worker.faces.sealed import MARK, read_header, skin_of
from face0_worker.faces.skin import Lab
from producer.services import Services

_CHARACTER_PREFIX = "character-"
MOST_PHOTOS = 20
# two photos of one person lie above it, two people rarely do: their median cosines are 0.56 and 0.00
SAME_PERSON = 0.1


@dataclass(frozen=True)
class Source:
    """What a face is made of: `photos` with their weights, or a character's recipe.

    `which` of several faces in a photo is meant: a policy of `faces.embed`. `skin`: the face's colour on the photos.
    """

    photos: tuple[tuple[bytes, float], ...] = ()
    recipe: Recipe | None = None
    which: str = ONLY
    skin: Lab | None = None

    def __post_init__(self) -> None:
        if (self.recipe is None) == (not self.photos):
            raise BadInput("a face comes from one photo or several, or from a character's recipe")
        if len(self.photos) > MOST_PHOTOS:
            raise BadInput(f"{len(self.photos)} photos were given; at most {MOST_PHOTOS} of one person are averaged")
        check_policy(self.which)
        if not all(0.0 < weight < 1e6 for _, weight in self.photos):
            raise BadInput("a photo's weight is a number above 0, as in --weight 2")

    def seen(self, faces: Sequence[FoundFace]) -> Source:
        """Return the source with the mean colour of the faces that were found on its photos."""
        colours = [face.skin for face in faces if face.skin is not None]
        if not colours:
            return self
        light, red, yellow = np.mean(colours, axis=0)
        return replace(self, skin=(round(float(light), 2), round(float(red), 2), round(float(yellow), 2)))

    def to_bytes(self) -> bytes:
        """Return what is sealed: the photo itself when there is one and nothing to say of it."""
        plain = self.which == ONLY and self.skin is None
        if len(self.photos) == 1 and plain and not self.photos[0][0].startswith(MARK):
            return self.photos[0][0]
        if self.recipe is not None:
            return MARK + canonical_json({"character": asdict(self.recipe)}) + b"\n"
        told: dict[str, object] = {"photos": [[len(photo), weight] for photo, weight in self.photos]}
        told |= {"which": self.which} | ({} if self.skin is None else {"skin": self.skin})
        return MARK + canonical_json(told) + b"\n" + b"".join(photo for photo, _ in self.photos)

    @classmethod
    def from_bytes(cls, data: bytes) -> Source:
        """Read what was sealed. Raises: VerificationFailed: it is damaged."""
        try:
            about, rest = read_header(data)
            if rest is data:  # a photo as it came
                return cls(((data, 1.0),))
            if "character" in about:
                return cls(recipe=Recipe(**about["character"]))
            photos = []
            for size, weight in about["photos"]:
                photos.append((rest[:size], float(weight)))
                rest = rest[size:]
            return cls(tuple(photos), which=str(about["which"]), skin=skin_of(data))
        except (ValueError, KeyError, TypeError) as error:
            raise VerificationFailed("the stored face can't be read; submit with the photo again") from error


def embed(services: Services, source: Source) -> np.ndarray:
    """Return the raw embedding (d,) of a source.

    Of several photos: the weighted mean of their normalised embeddings (Valevski et al. 2023, section 4).
    Raises: FaceRefused: a photo can't be used, or the photos show different people. ModelMissing.
    """
    if source.recipe is not None:
        return np.asarray(character(mixture_of(services.pack), source.recipe) + services.pack.mean, np.float32)
    return average(services, source, embed_photos(services, source))


def embed_photos(services: Services, source: Source) -> list[np.ndarray]:
    """Return the raw embedding (d,) of each photo, in their order; none of a character. Raises: as `find_faces`."""
    return [face.embedding for face in find_faces(services, source)]


def find_faces(services: Services, source: Source) -> list[FoundFace]:
    """Return the face that is meant on each photo, in their order; none of a character.

    Raises: FaceRefused: a photo can't be used, or the photos show different people. ModelMissing.
    """
    embedder = services.embedder
    faces = [_of_photo(services, source, number) for number in range(len(source.photos))]
    for one, other in combinations(range(len(faces)), 2):
        alike = embedder.similarity(faces[one].embedding, faces[other].embedding)
        if alike < SAME_PERSON:
            raise FaceRefused(
                f"photos {one + 1} and {other + 1} seem to show different people (likeness {alike:.2f}, "
                f"{SAME_PERSON} needed); give photos of one person only",
                "different_people",
            )
    return faces


def average(services: Services, source: Source, faces: Sequence[np.ndarray]) -> np.ndarray:
    """Return the raw embedding (d,) of a source whose photos have these; of one photo it is that photo's own."""
    if len(faces) == 1:
        return faces[0]
    weights = [weight for _, weight in source.photos]
    mean = np.average([services.embedder.normalise(face) for face in faces], axis=0, weights=weights)
    return np.asarray(mean + services.pack.mean, np.float32)


def _of_photo(services: Services, source: Source, number: int) -> FoundFace:
    try:
        return services.embedder.embed_photo(source.photos[number][0], source.which)
    except FaceRefused as error:
        if len(source.photos) == 1:
            raise
        raise FaceRefused(f"photo {number + 1} of {len(source.photos)}: {error}", error.code) from error


def require_own_face(services: Services, consent_id: str, source: Source) -> None:
    """Check that a character's consent is used for that character only, and a person's for photos only.

    Raises: BadInput: otherwise a photo of anybody could be rendered under the consent of somebody who does not exist.
    """
    if source.recipe is None:
        if is_character(consent_id):
            raise BadInput("this consent is a character's; leave --face out, or name the consent of the person shown")
    elif consent_id != character_id(mixture_of(services.pack), source.recipe):
        raise BadInput("this character was made for another face pack or version; make it anew with the same seed")


def is_character(consent_id: str) -> bool:
    """Whether an id is one that only characters have."""
    return consent_id.startswith(_CHARACTER_PREFIX)


def photo_files(paths: Sequence[Path], weights: Sequence[float] = (), which: str = ONLY) -> Source:
    """Read photos of one person; `weights`: none, or one for each. `which`: as Source.

    Raises: BadInput, FaceRefused: a photo can't be read.
    """
    if weights and len(weights) != len(paths):
        raise BadInput(f"{len(paths)} photos and {len(weights)} weights were given; give one --weight for each --face")
    if len(paths) > MOST_PHOTOS:
        raise BadInput(f"{len(paths)} photos were given; at most {MOST_PHOTOS} of one person are averaged")
    check_policy(which)
    return Source(tuple(zip(map(read_photo_file, paths), weights or [1.0] * len(paths), strict=True)), which=which)
