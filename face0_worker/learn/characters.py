"""Fit the mixture that characters are drawn from, to the embeddings of people."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from face0_worker.contract.errors import BadInput
from face0_worker.faces.characters import Mixture, Recipe, character
from face0_worker.learn.dataset import is_held_out, read_index
from face0_worker.learn.seen_faces import faces_of
from face0_worker.learn.sources import Permit, read_source, refuse

EXPLAINED = 0.95  # of the variance, by the Gaussians; the rest is isotropic
COMPONENTS = (1, 2, 4, 8, 16)


def fit_mixture(faces: np.ndarray, people: Sequence[str], embedder_digest: str) -> tuple[Mixture, dict[str, Any]]:
    """Fit to normalised embeddings (n, d) of `people` (n); zero rows (no face found) are left out.

    The number of Gaussians is the one under which people who were not fitted are most likely. Returns the mixture
    and, for the record, that log-likelihood per number of Gaussians.
    Raises: BadInput: fewer faces than dimensions.
    """
    there = np.abs(faces).sum(axis=1) > 0
    held = np.array([is_held_out(person, 0.1) for person in people])
    seen, unseen = faces[there & ~held].astype(np.float64), faces[there & held].astype(np.float64)
    if len(seen) < 2 * faces.shape[1] or not len(unseen):
        raise BadInput(f"{len(seen)} faces are too few to fit {faces.shape[1]} dimensions; use more pictures")
    pca = PCA(EXPLAINED, svd_solver="full").fit(seen)
    inner, inner_unseen = pca.transform(seen), pca.transform(unseen)
    fits = {
        count: GaussianMixture(count, covariance_type="diag", random_state=0, reg_covar=1e-3, n_init=2).fit(inner)
        for count in COMPONENTS
        if len(seen) >= 40 * count
    }
    likely = {count: round(float(fitted.score(inner_unseen)), 3) for count, fitted in fits.items()}
    best = fits[max(likely, key=lambda count: likely[count])]
    mixture = Mixture(
        embedder_digest=embedder_digest,
        centre=pca.mean_,
        basis=pca.components_,
        weights=best.weights_,
        means=best.means_,
        deviations=np.sqrt(best.covariances_),
        residual=float(np.sqrt(pca.noise_variance_)),
    )
    return mixture, {"held_out_log_likelihood": likely}


def compare(mixture: Mixture, faces: np.ndarray, people: Sequence[str], count: int = 300) -> dict[str, float]:
    """Compare `count` drawn characters with the people of normalised embeddings (n, d); all numbers are cosines.

    Mean and deviation between two of them, and how like one is to the nearest other person among `faces`.
    """
    there = np.abs(faces).sum(axis=1) > 0
    real = faces[there] / np.sqrt(faces.shape[1])
    who = np.array(people)[there]
    drawn = np.stack([character(mixture, Recipe(seed)) for seed in range(count)]) / np.sqrt(faces.shape[1])
    some = np.random.RandomState(0).choice(len(real), min(count, len(real)), replace=False)
    others = who[some][:, None] != who[None, :]
    among_people = real[some] @ real.T
    among_drawn = (drawn @ drawn.T)[np.triu_indices(count, 1)]
    told = {
        "people_mean": among_people[others].mean(),
        "people_deviation": among_people[others].std(),
        "drawn_mean": among_drawn.mean(),
        "drawn_deviation": among_drawn.std(),
        "nearest_other_person_to_a_person": np.where(others, among_people, -1.0).max(axis=1).mean(),
        "nearest_person_to_a_character": (drawn @ real.T).max(axis=1).mean(),
    }
    return {name: round(float(value), 3) for name, value in told.items()}


def fit_portraits(
    data: Path, out: Path, *, pack: Path | None, permit: Permit = refuse, say: Callable[[str], None] = print
) -> None:
    """Fit to the portraits of a folder, which has to say by what right, and write the mixture to the file `out`.

    Raises: BadInput: as fit_mixture, read_source, read_index and faces_of. ConsentRefused: as `permit`.
    ModelMissing: as load_pack.
    """
    read_source(data, permit)
    seen = faces_of(data, pack, say)
    people = [line.person for line in read_index(data)]
    mixture, about = fit_mixture(seen.embeddings, people, str(seen.embedder["digest"]))
    about["drawn"] = compare(mixture, seen.embeddings, people)
    out.write_text(json.dumps(mixture.to_json(), separators=(",", ":")) + "\n", encoding="utf-8")
    say(f"wrote {out}: {len(mixture.weights)} Gaussians in {len(mixture.basis)} dimensions; {about}")
