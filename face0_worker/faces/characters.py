"""Characters: people who do not exist, drawn from a mixture of Gaussians over face embeddings.

Valevski et al. 2023 (arXiv 2306.06638), section 4: a random embedding is a random person, the same in every picture;
between two embeddings lie their mixtures, and a little noise on one gives people who look alike.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.contract.job import canonical_json
from face0_worker.faces.packs import FacePack

SHIPPED = Path(__file__).with_name("lite_characters.json")
BESIDE_A_PACK = "characters.json"
# part of every draw: what a seed means changes only with a new number here
_DRAW = "face0/character/1"
MOST_VARIATION = 1.0


@dataclass(frozen=True)
class Recipe:
    """Who a character is: `seed` draws a person; `toward` and `share` mix in another seed's; `vary` changes a little.

    `share` in [0, 1] goes from the first person to the second. `vary` in [0, 1] is the size of the change relative
    to the embedding's norm, and `variant` says which change.
    """

    seed: int
    toward: int | None = None
    share: float = 0.0
    vary: float = 0.0
    variant: int = 0

    def __post_init__(self) -> None:
        for name, value in (("seed", self.seed), ("toward", self.toward or 0), ("variant", self.variant)):
            if not 0 <= value < 2**63:
                raise BadInput(f"{name} is {value}; 0 <= {name} < 2**63 is needed")
        if not 0.0 <= self.share <= 1.0 or (self.toward is None and self.share):
            raise BadInput("share lies between 0 and 1 and needs another seed to go toward")
        if not 0.0 <= self.vary <= MOST_VARIATION:
            raise BadInput(f"vary is {self.vary}; 0 to {MOST_VARIATION} is possible, and 0.2 is still the same person")


@dataclass(frozen=True)
class Mixture:
    """A mixture of k Gaussians over normalised embeddings (d,), each with norm sqrt(d).

    x = centre + (mean_j + deviation_j * n) @ basis + residual * m, with component j drawn by `weights` and unit noise
    n (r,), m (d,): probabilistic PCA around a mixture with diagonal covariances. Shapes: `centre` (d,), `basis` (r, d)
    orthonormal rows, `weights` (k,), `means` and `deviations` (k, r).
    """

    embedder_digest: str
    centre: np.ndarray
    basis: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray
    residual: float

    @property
    def digest(self) -> str:
        """What the draws depend on, as sha256 hex."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, object]:
        """Return the mixture as plain values, rounded as they are stored."""
        arrays = {name: getattr(self, name) for name in ("centre", "basis", "weights", "means", "deviations")}
        rounded = {name: np.round(np.asarray(value, np.float64), 5).tolist() for name, value in arrays.items()}
        return {"embedder_digest": self.embedder_digest, "residual": round(float(self.residual), 5), **rounded}

    @classmethod
    def read(cls, path: Path) -> Mixture:
        """Read a stored mixture. Raises: ModelMissing: absent or damaged."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            names = ("centre", "basis", "weights", "means", "deviations")
            arrays = {name: np.asarray(data[name], np.float64) for name in names}
            made = cls(str(data["embedder_digest"]), residual=float(data["residual"]), **arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelMissing(f"the mixture of characters {path} can't be read ({type(error).__name__})") from error
        components, rank = made.means.shape if made.means.ndim == 2 else (0, 0)
        fits = made.basis.shape == (rank, made.centre.size) and made.deviations.shape == (components, rank)
        if not fits or made.weights.shape != (components,):
            raise ModelMissing(f"the mixture of characters {path} is damaged: its arrays do not fit each other")
        return made


def mixture_of(pack: FacePack) -> Mixture:
    """Return the mixture for a pack: `characters.json` in its folder, else the one that ships for face0_lite.

    Raises: ModelMissing: there is none for this pack.
    """
    beside = pack.folder / BESIDE_A_PACK
    mixture = Mixture.read(beside if beside.is_file() else SHIPPED)
    if mixture.embedder_digest != pack.digest:
        raise ModelMissing(
            f"there are no characters for the face pack {pack.name}; "
            f"make {beside} with `face0-worker characters --data DIR --out {beside}`"
        )
    return mixture


def character(mixture: Mixture, recipe: Recipe) -> np.ndarray:
    """Return a character's normalised embedding, float32 (d,) with norm sqrt(d): the same for ever for a recipe."""
    person = _draw(mixture, recipe.seed)
    if recipe.toward is not None:
        person = _between(person, _draw(mixture, recipe.toward), recipe.share)
    if recipe.vary:
        noise = _source("vary", recipe.seed, recipe.variant).standard_normal(person.size)
        # a change along the person's own direction would be scaled away again
        noise -= person * (noise @ person) / (person @ person)
        person = person + recipe.vary * noise * np.linalg.norm(person) / np.linalg.norm(noise)
    # rounded, so that the last bits of another machine's arithmetic make no other face digest
    return np.round(_scaled(person), 4).astype(np.float32)


def character_id(mixture: Mixture, recipe: Recipe) -> str:
    """Return the id of a character: equal recipes, equal ids, as long as the mixture is the same."""
    made_of = canonical_json({"draw": _DRAW, "mixture": mixture.digest, **asdict(recipe)})
    return f"character-{hashlib.sha256(made_of).hexdigest()[:12]}"


def _draw(mixture: Mixture, seed: int) -> np.ndarray:
    source = _source("person", seed)
    component = int(np.searchsorted(np.cumsum(mixture.weights) / mixture.weights.sum(), source.random_sample()))
    component = min(component, len(mixture.weights) - 1)
    inner = mixture.means[component] + mixture.deviations[component] * source.standard_normal(len(mixture.basis))
    outer = mixture.residual * source.standard_normal(mixture.centre.size)
    return _scaled(mixture.centre + inner @ mixture.basis + outer)


def _between(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Interpolate along the sphere, so that what lies between is as long as an embedding is."""
    angle = float(np.arccos(np.clip(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)), -1.0, 1.0)))
    if angle < 1e-6:
        return one
    return np.asarray((np.sin((1 - share) * angle) * one + np.sin(share * angle) * other) / np.sin(angle))


def _scaled(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * np.sqrt(x.size) / max(float(np.linalg.norm(x)), 1e-9))


def _source(what: str, *numbers: int) -> np.random.RandomState:
    # RandomState, not Generator: numpy has frozen its streams, and a character is to be the same for years
    text = "/".join([_DRAW, what, *map(str, numbers)])
    return np.random.RandomState(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32))
