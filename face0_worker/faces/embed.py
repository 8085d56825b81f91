"""Find the face in a photo, and turn it into the embedding that conditions the pictures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from face0_worker.contract.errors import BadInput, FaceRefused, ModelMissing
from face0_worker.faces.packs import MARGINS, FacePack
from face0_worker.faces.photo import decode_photo
from face0_worker.faces.skin import Lab, skin_colour

MIN_FACE_PX = 32
# which of several faces in a photo is meant; a number counts them from the left
ONLY, LARGEST = "only", "largest"
_SIZES = (640, 256)  # a tight crop is often missed at 640 and found at 256
_PAD = 0.125  # a border helps where the face fills the picture


@dataclass(frozen=True)
class FoundFace:
    """One face: `box` (left, top, right, bottom) in pixels, `landmarks` (5, 2), `embedding` float32 (d,), raw.

    `skin`: its colour; None where the face lies outside the picture.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray
    embedding: np.ndarray
    skin: Lab | None = None

    @property
    def width(self) -> float:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]


class Embedder:
    """A loaded face pack. One instance may be used by one thread at a time."""

    def __init__(self, pack: FacePack, analysis: Any) -> None:
        self.pack = pack
        self._detector = analysis.models["detection"]
        self._recogniser = analysis.models["recognition"]

    @classmethod
    def open(cls, pack: FacePack) -> Embedder:
        """Load the pack's detector and recogniser on the CPU, by absolute folder: nothing is downloaded.

        Raises: ModelMissing: the folder is not a whole insightface pack.
        """
        from insightface.app import FaceAnalysis
        from onnxruntime import SessionOptions

        options = SessionOptions()
        # idle threads would spin on the cores that render: 55 ms of processor time a picture instead of 14
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            analysis = FaceAnalysis(
                str(pack.folder),
                allowed_modules=["detection", "recognition"],
                providers=["CPUExecutionProvider"],
                sess_options=options,
            )
            analysis.prepare(ctx_id=-1, det_size=(640, 640))
        except Exception as error:
            raise ModelMissing(
                f"face pack {pack.name} at {pack.folder} can't be loaded: {type(error).__name__}"
            ) from error
        if "recognition" not in analysis.models:
            raise ModelMissing(f"face pack {pack.name} at {pack.folder} has no recognition model")
        dimension = analysis.models["recognition"].output_shape[-1]
        if dimension != pack.dimension:
            raise ModelMissing(
                f"face pack {pack.name} at {pack.folder} does not fit together: its recogniser gives {dimension} "
                f'numbers a face, its manifest says {pack.dimension}; write "dimension": {dimension} into its pack.json'
            )
        return cls(pack, analysis)

    def find(self, image: Image.Image, *, thorough: bool = False) -> list[FoundFace]:
        """Return every face, largest first; an empty list when none is found.

        `thorough` looks again at other detector sizes when the picture's own shows none, which costs up to ten
        times as much: right for a photo that somebody brought, too dear for every rendered picture.
        """
        padded, border, boxes, points = self._detect(image, thorough)
        faces = [self._face(padded, box, point, border) for box, point in zip(boxes, points, strict=True)]
        return sorted(faces, key=lambda face: -face.width)

    def landmarks(self, image: Image.Image) -> np.ndarray | None:
        """Return the five landmarks (5, 2) in pixels of the largest face, without embedding it; None for no face."""
        _, border, boxes, points = self._detect(image, thorough=False)
        return points[int(np.argmax(boxes[:, 2] - boxes[:, 0]))] - border if len(boxes) else None

    def _detect(self, image: Image.Image, thorough: bool) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """Return the padded BGR picture, its border in pixels, and boxes (n, 5) and landmarks (n, 5, 2) in it."""
        pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
        border = max(8, round(_PAD * min(pixels.shape[:2])))
        padded = np.pad(pixels, ((border, border), (border, border), (0, 0)), mode="edge")
        own = min(640, 32 * -(-max(padded.shape[:2]) // 32))
        for size in dict.fromkeys((own, *_SIZES) if thorough else (own,)):
            boxes, points = self._detector.detect(padded, input_size=(size, size))
            if len(boxes):
                break
        return padded, border, boxes, points

    def _face(self, padded: np.ndarray, box: np.ndarray, points: np.ndarray, border: int) -> FoundFace:
        from insightface.app.common import Face

        if self.pack.crop == MARGINS:
            raw = self._recogniser.get_feat(with_margins(padded, box, self._recogniser.input_size))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # insightface calls a deprecated scikit-image function
                raw = self._recogniser.get(padded, Face(kps=points))
        left, top, right, bottom = (float(value) - border for value in box[:4])
        return FoundFace(
            (left, top, right, bottom),
            float(box[4]),
            points - border,
            np.asarray(raw, np.float32).reshape(-1),
            skin_colour(padded[:, :, ::-1], points),
        )

    def embed_photo(self, data: bytes, policy: str = ONLY) -> FoundFace:
        """Return the face of a photo (the bytes of a JPEG, PNG, HEIC or other picture file, see docs/photos.md).

        `policy` says which: ONLY refuses several faces, LARGEST takes the widest, and a number counts from the left.
        The photo is decoded in a bounded process and made smaller than 4,096 pixels; box and landmarks are in pixels
        of that smaller picture, and it is there that the face must be 32 px wide.

        Raises: FaceRefused: not a picture, no face, several faces, or a face under 32 px; message and code say which.
        BadInput: an unknown policy. ServiceDown: the decoder can't be started.
        """
        check_policy(policy)
        photo = decode_photo(data)
        face = choose(self.find(photo.image, thorough=True), policy)
        if face.width < MIN_FACE_PX:
            # said in the photo's own pixels, which is what its owner can see
            width, needed = math.floor(face.width * photo.scale), math.ceil(MIN_FACE_PX * photo.scale)
            raise FaceRefused(f"face is {width} px wide, {needed} needed; use a larger photo", "face_too_small")
        return face

    def normalise(self, embedding: np.ndarray) -> np.ndarray:
        """Return what FaceMapper takes: the mean removed, scaled to norm sqrt(d). float32 (d,) -> (d,)."""
        centred = embedding.astype(np.float32) - self.pack.mean
        norm = float(np.linalg.norm(centred))
        return np.asarray(centred * (np.sqrt(len(centred)) / max(norm, 1e-6)), np.float32)

    def similarity(self, one: np.ndarray, other: np.ndarray) -> float:
        """Return the cosine in [-1, 1] of two raw embeddings after their mean is removed."""
        a, b = self.normalise(one), self.normalise(other)
        return float(a @ b) / len(a)


def with_margins(pixels: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a face as Face0's own embedder takes it: its box widened, cut out and resized to `size` (width, height).

    Valevski et al. 2023: 10 px more at left and right, 33 above, 15 below. `pixels` and the result are uint8
    (h, w, 3); what lies outside the picture repeats its edge.
    """
    left, top, right, bottom = (round(float(value)) for value in box[:4])
    left, top, right, bottom = left - 10, top - 33, max(right, left + 1) + 10, max(bottom, top + 1) + 15
    rows = np.clip(np.arange(top, bottom), 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, pixels.shape[1] - 1)
    cut = Image.fromarray(np.ascontiguousarray(pixels[rows][:, columns]))
    return np.asarray(cut.resize(size, Image.Resampling.BILINEAR))


def check_policy(policy: str) -> None:
    """Raises: BadInput: not a policy that `choose` knows."""
    if policy not in (ONLY, LARGEST) and not (policy.isascii() and policy.isdecimal() and int(policy) > 0):
        raise BadInput(f"face policy {policy!r} is not known; use {ONLY}, {LARGEST}, or a number counted from the left")


def choose(faces: Sequence[FoundFace], policy: str) -> FoundFace:
    """Return the face that a policy means. Raises: FaceRefused: there is none, or several for ONLY."""
    if not faces:
        raise FaceRefused("no face was found in the photo; use a well-lit photo that shows the whole head", "no_face")
    if policy == LARGEST:
        return max(faces, key=lambda face: face.width)
    if policy == ONLY:
        if len(faces) > 1:
            raise FaceRefused(
                f"{len(faces)} faces were found in the photo; use a photo of one person only, "
                "or say which one with --which largest or --which NUMBER, counted from the left",
                "several_faces",
            )
        return faces[0]
    if int(policy) > len(faces):
        raise FaceRefused(f"the photo shows {len(faces)} faces; there is no face number {policy}", "no_face")
    return sorted(faces, key=lambda face: face.box[0])[int(policy) - 1]
