"""What is said about a finished picture: the verdict on it, its origin, its receipt and the job's manifest."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

PREDICATE_TYPE = "https://face0.dev/receipt/v1"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(frozen=True)
class Verdict:
    """What the quality gate measured on one picture.

    `identity` is the cosine between the mean-removed embeddings of photo and picture, None when no face was
    found; `brightness` and `contrast` are mean and standard deviation of the pixels in [0, 1]. `precision` is the
    one that the pixels were truly computed in; where it is not the one that the item asked for, `rerendered` says
    what was wrong with the first picture (not_a_number, black). Both are empty on receipts of before they were told.
    `truncated`: the end of the prompt or of the negative prompt did not fit the text encoder and was not used.
    `second_face` is the width of the second-widest face relative to the widest, 0 for one face; `sharpness` is in
    [0, 1]; `skin_drift` is the distance of the face's colour from the photo's in CIELAB (no colour itself is told: a
    receipt holds no personal data). `tries` counts the pictures that were made for this one, itself included.
    `accepted_by`: who accepted a rejected picture, by pseudonym; the reason and the numbers against it stay.
    """

    accepted: bool
    reason: str
    faces: int
    identity: float | None
    brightness: float
    contrast: float
    precision: str = ""
    rerendered: str = ""
    truncated: bool = False
    second_face: float = 0.0
    sharpness: float | None = None
    skin_drift: float | None = None
    tries: int = 0
    accepted_by: str = ""


# told only where they say something: a receipt that was signed before them keeps its bytes, and so its signature
_LATER = {field.name: field.default for field in fields(Verdict) if field.default is not MISSING}

_DERIVED = ("parent_sha256", "parent_item_key", "form")


@dataclass(frozen=True)
class Receipt:
    """The claim that is signed for one picture. It holds no personal data: the consent is an opaque id.

    `picture_sha256` is over the stored bytes; `committed_under_epoch` is the consent's epoch at commit.
    A picture that was made from another one names that one as its parent and says in which `form` it is written
    (jpeg, quality 85); the verdict is then its parent's. All three are empty on a picture as it was rendered.
    """

    item_key: str
    picture_key: str
    picture_sha256: str
    consent_id: str
    committed_under_epoch: int
    purpose: str
    job_id: str
    model_digest: str
    embedder_digest: str
    seed: int
    width: int
    height: int
    verdict: Verdict
    renderer_version: str
    parent_sha256: str = ""
    parent_item_key: str = ""
    form: str = ""

    def statement(self) -> dict[str, Any]:
        """Return the in-toto Statement v1 whose subject is the picture's digest."""
        predicate = asdict(self)
        digest = predicate.pop("picture_sha256")
        verdict = predicate["verdict"]
        predicate["verdict"] = {name: value for name, value in verdict.items() if value != _LATER.get(name, MISSING)}
        predicate = {name: value for name, value in predicate.items() if name not in _DERIVED or value}
        return {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.picture_key, "digest": {"sha256": digest}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }

    @classmethod
    def from_statement(cls, statement: dict[str, Any]) -> Receipt:
        """Read a receipt back from its statement. Raises: KeyError, TypeError: another form."""
        predicate = dict(statement["predicate"])
        predicate["verdict"] = Verdict(**predicate["verdict"])
        return cls(picture_sha256=statement["subject"][0]["digest"]["sha256"], **predicate)


@dataclass(frozen=True)
class ManifestEntry:
    """One line of a job's manifest: the list's name for an item, where it ended and which picture it is."""

    sku: str
    variant: str
    item_key: str
    state: str
    kept: bool
    picture_key: str | None
    picture_sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as plain JSON values."""
        return asdict(self)
