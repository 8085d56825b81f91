"""The judges of an evaluation: trained once on people whom it never asks about, kept in a folder by digest."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.faces.embed import Embedder
from face0_worker.learn.attributes import AttributeClassifier, AttributePlan, train_attributes
from face0_worker.learn.dataset import is_held_out
from face0_worker.learn.face_crops import prepare
from face0_worker.learn.galleries import key_of
from face0_worker.learn.recogniser import Recogniser, RecogniserPlan, train_recogniser
from face0_worker.learn.scores import area_under_curve
from face0_worker.learn.truth import Picture, attribute_values

FORMAT = 1
CARD = "judges.json"
_FILES = {"recogniser": "recogniser.safetensors", "attributes": "attributes.safetensors"}
_MATCHED = ("gender", "glasses", "beard", "skin_tone")


@dataclass(frozen=True)
class Judges:
    """Both judges, loaded. `people` are the names of those they learned from; `card` is what was measured of them."""

    recogniser: Recogniser
    attributes: AttributeClassifier
    people: frozenset[str]
    digest: str
    card: Mapping[str, Any]


@dataclass(frozen=True)
class JudgesPlan:
    """How both are trained. `most` bounds the pictures: more cost time and teach little."""

    recogniser: RecogniserPlan = field(default_factory=RecogniserPlan)
    attributes: AttributePlan = field(default_factory=AttributePlan)
    most: int = 12_000


def train_judges(
    pictures: Sequence[Picture],
    embedder: Embedder,
    out: Path,
    *,
    plan: JudgesPlan,
    device: torch.device,
    say: Callable[[str], None],
) -> Judges:
    """Train both judges on the people who are not held out, measure them on those who are, and write `out`.

    Raises: BadInput: too few people, or a picture can't be read.
    """
    start = time.monotonic()
    seen = [one for one in pictures if not is_held_out(one.person)][: plan.most]
    held = [one for one in pictures if is_held_out(one.person)]
    if not seen or not held:
        raise BadInput("judges need people to learn from and held-out people to be measured on; render more people")
    crops, found, overviews = prepare([*seen, *held], embedder, say)
    part = slice(len(seen)), slice(len(seen), None)
    people = np.array([one.person for one in (*seen, *held)])
    to_learn, to_verify = found.copy(), found.copy()
    to_learn[part[1]] = to_verify[part[0]] = False
    recogniser = train_recogniser(crops[to_learn], list(people[to_learn]), plan.recogniser, device, say)
    values = attribute_values(seen)
    classifier = train_attributes(overviews[part[0]], [one.truth for one in seen], values, plan.attributes, device, say)
    facing = [one for one, there in zip(held, found[part[1]], strict=True) if there]
    card = {
        "format": FORMAT,
        "recogniser": {
            "pictures": int(to_learn.sum()),
            "people": len(set(people[to_learn])),
            **verify_people(recogniser.embed(crops[to_verify]), facing),
        },
        "attributes": {
            "pictures": len(seen),
            "values": {name: list(told) for name, told in values.items()},
            "held_out_accuracy": accuracy(classifier.tell(overviews[part[1]]), held, values),
        },
        "held_out": {"pictures": len(held), "people": len({one.person for one in held}), "faces": len(facing)},
        "detector": embedder.pack.digest,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "people": sorted({one.person for one in seen}),
    }
    write_judges(out, recogniser, classifier, card)
    return load_judges(out, device)


def verify_people(vectors: np.ndarray, pictures: Sequence[Picture]) -> dict[str, float]:
    """Return the recogniser's areas under the curve on people it never saw: over all pairs, and over matched ones.

    Matched: only people of the same gender, glasses, beard and skin-tone band are held against each other.
    """
    names = np.array([one.person for one in pictures])
    keys = np.array([repr(key_of(one.truth, _MATCHED)) for one in pictures])
    i, j = np.triu_indices(len(vectors), 1)
    cosines, same, alike = (vectors @ vectors.T)[i, j], names[i] == names[j], keys[i] == keys[j]
    told = {}
    for name, chosen in (("auc_all_pairs", ~same), ("auc_matched_pairs", ~same & alike)):
        told[name] = round(area_under_curve(cosines[same], cosines[chosen]), 4)
    return told


def accuracy(
    told: Sequence[Mapping[str, Any]], pictures: Sequence[Picture], values: Collection[str]
) -> dict[str, float]:
    """Return the share of pictures that each attribute is told right of."""
    return {
        name: round(
            float(np.mean([said[name] == one.truth.get(name) for said, one in zip(told, pictures, strict=True)])), 4
        )
        for name in values
    }


def write_judges(out: Path, recogniser: Recogniser, classifier: AttributeClassifier, card: Mapping[str, Any]) -> None:
    """Write both and their card, which names each file's digest; the card comes last, so that half is none."""
    out.mkdir(parents=True, exist_ok=True)
    (out / CARD).unlink(missing_ok=True)
    for name, model in (("recogniser", recogniser), ("attributes", classifier)):
        save_file({key: value.contiguous().cpu() for key, value in model.state_dict().items()}, out / _FILES[name])
    files = {name: _sha256(out / file) for name, file in _FILES.items()}
    (out / CARD).write_text(json.dumps({**card, "files": files}, indent=1, ensure_ascii=False) + "\n", "utf-8")


def load_judges(folder: Path, device: torch.device) -> Judges:
    """Load judges that `train_judges` wrote. Raises: ModelMissing: there are none, or a file is not the one written."""
    try:
        text = (folder / CARD).read_bytes()
        card = json.loads(text)
        if card["format"] != FORMAT:
            raise ModelMissing(f"{folder / CARD} has format {card['format']!r}; this program reads {FORMAT}")
        for name, file in _FILES.items():
            if _sha256(folder / file) != card["files"][name]:
                raise ModelMissing(f"judges {folder / file} are damaged; delete the folder and train them again")
        recogniser, classifier = Recogniser(), AttributeClassifier(card["attributes"]["values"])
        recogniser.load_state_dict(load_file(folder / _FILES["recogniser"]))
        classifier.load_state_dict(load_file(folder / _FILES["attributes"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelMissing(
            f"judges {folder} can't be loaded ({type(error).__name__}); train them with "
            "`face0-worker evaluate --train-judges`"
        ) from error
    digest = hashlib.sha256(text).hexdigest()
    return Judges(recogniser.to(device).eval(), classifier.to(device).eval(), frozenset(card["people"]), digest, card)


def have_judges(folder: Path) -> bool:
    """Tell whether a folder holds judges: the card is written last."""
    return (folder / CARD).is_file()


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
