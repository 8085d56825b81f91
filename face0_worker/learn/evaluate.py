"""Evaluate a model: render held-out people as the product does, and let judges look who never saw them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from face0_worker.contract.errors import BadInput, FaceRefused, ModelMissing
from face0_worker.faces.embed import Embedder
from face0_worker.learn.autoencoder import reconstruct
from face0_worker.learn.galleries import MATCHED, Gallery, Sitter, choose_galleries
from face0_worker.learn.judges import Judges
from face0_worker.learn.looks import Looks, look
from face0_worker.learn.measures import Arm, References, chance_rows, diversity_rows, fidelity_rows, identity_rows
from face0_worker.learn.scores import Measured
from face0_worker.learn.shots import Setting, Shot, plan_shots, render_shots
from face0_worker.learn.truth import Picture
from face0_worker.render.pipeline import Pipeline

Say = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationPlan:
    """How much is asked. `floor_prompts` pictures a person are made without the face, and `varied_people` people are
    painted `varied_seeds` times after one prompt, to see what noise alone changes."""

    people: int = 50
    prompts: int = 8
    seeds: int = 1
    floor_prompts: int = 2
    varied_people: int = 10
    varied_seeds: int = 4
    match: tuple[str, ...] = MATCHED
    batch: int = 8


@dataclass(frozen=True)
class Evaluation:
    """What was measured and what of it can be shown. `shown` holds a picture for every shot that was made of it."""

    rows: tuple[Measured, ...]
    references: References
    shown: Mapping[Shot, Image.Image | None]
    left_out: int
    setting: Setting
    facts: Mapping[str, Any] = field(default_factory=dict)


class Studio:
    """A model with its judges and the photos of the people it is asked about."""

    def __init__(self, pipeline: Pipeline, embedder: Embedder, judges: Judges, plan: EvaluationPlan, say: Say) -> None:
        """Raises: ModelMissing: the model was trained with another face pack."""
        if pipeline.card.embedder_digest != embedder.pack.digest:
            raise ModelMissing(
                f"model {pipeline.card.name} was trained with another face pack than {embedder.pack.name} "
                f"({pipeline.card.embedder_digest[:12]}, not {embedder.pack.digest[:12]}); set FACE0_PACK"
            )
        self.pipeline, self.embedder, self.judges, self.plan, self.say = pipeline, embedder, judges, plan, say
        self.embeddings: dict[str, np.ndarray] = {}
        self.left_out = 0
        self.setting = Setting(pipeline.card.guidance, pipeline.card.steps, pipeline.card.sampler)

    def invite(self, pictures: Sequence[Picture]) -> References:
        """Choose the galleries, embed each person's photo as the product does, and look at the one to compare with.

        Raises: BadInput: nobody to ask about, or somebody whom the judges learned from.
        """
        plan = self.plan
        galleries = choose_galleries(
            pictures, people=plan.people, prompts=plan.prompts, match=plan.match, usable=self._usable
        )
        known = [one.person for gallery in galleries for one in gallery.sitters if one.person in self.judges.people]
        if known:
            raise BadInput(
                f"{len(known)} of the people to be judged, {known[0]} first, are among those the judges learned from; "
                "train judges on this data, or on other people"
            )
        photos = [sitter.reference.open() for gallery in galleries for sitter in gallery.sitters]
        return References(galleries, look(photos, self.embedder, self.judges))

    def _usable(self, sitter: Sitter) -> bool:
        """Tell whether the product takes the person's photo, and finds a face in the one to compare with."""
        try:
            face = self.embedder.embed_photo(sitter.condition.file.read_bytes())
        except FaceRefused:
            face = None
        fine = face is not None and self.embedder.landmarks(sitter.reference.open()) is not None
        if fine and face is not None:
            self.embeddings[sitter.person] = self.embedder.normalise(face.embedding)
        self.left_out += not fine
        return fine

    def shoot(self, shots: Sequence[Shot], setting: Setting | None = None) -> list[Image.Image | None]:
        """Render shots; None where there is no picture."""
        chosen, batch = setting or self.setting, self.plan.batch
        return render_shots(self.pipeline, shots, self.embeddings, chosen, batch=batch, say=self.say)

    def arm(self, name: str, shots: Sequence[Shot], pictures: Sequence[Image.Image | None]) -> Arm:
        """Let the judges look at pictures of shots."""
        people = tuple(shot.sitter.person for shot in shots)
        return Arm(name, self.look(pictures), people, tuple(shot.prompt.truth for shot in shots))

    def look(self, pictures: Sequence[Image.Image | None]) -> Looks:
        """What the judges see in pictures."""
        return look(pictures, self.embedder, self.judges)


def evaluate(studio: Studio, pictures: Sequence[Picture]) -> Evaluation:
    """Measure the model on held-out people, beside what photos reach and what is reached without a face.

    Raises: BadInput: as Studio.invite.
    """
    plan = studio.plan
    references = studio.invite(pictures)
    galleries = references.galleries
    sizes = ", ".join(str(len(gallery.sitters)) for gallery in galleries)
    studio.say(f"{len(references.people())} people in galleries of {sizes}; {studio.left_out} photos were refused")
    shots = plan_shots(galleries, prompts=plan.prompts, seeds=range(plan.seeds))
    made = studio.shoot(shots)
    arm = studio.arm("model", shots, made)
    rows = [*chance_rows(references), *identity_rows(arm, references), *fidelity_rows(arm)]
    rows += _diversity(studio, galleries, dict(zip(shots, made, strict=True)))
    if plan.floor_prompts:
        blind = plan_shots(galleries, prompts=plan.floor_prompts, face=False)
        floor = studio.arm("text_only", blind, studio.shoot(blind))
        rows += [*identity_rows(floor, references), *fidelity_rows(floor)]
    for arm in photo_arms(studio, galleries):
        rows += [*identity_rows(arm, references), *fidelity_rows(arm)]
    rows += identity_rows(decoded_photos(studio, galleries), references)
    return Evaluation(tuple(rows), references, dict(zip(shots, made, strict=True)), studio.left_out, studio.setting)


def _diversity(studio: Studio, galleries: Sequence[Gallery], made: Mapping[Shot, Image.Image | None]) -> list[Measured]:
    plan = studio.plan
    if plan.varied_people < 1 or plan.varied_seeds < 2:
        return []
    shots = plan_shots(galleries, prompts=1, seeds=range(plan.varied_seeds), people=plan.varied_people)
    fresh = [shot for shot in shots if shot not in made]
    every = {**made, **dict(zip(fresh, studio.shoot(fresh), strict=True))}
    return diversity_rows(studio.arm("model", shots, [every[shot] for shot in shots]))


def photo_arms(studio: Studio, galleries: Sequence[Gallery]) -> tuple[Arm, Arm]:
    """Return the ceiling and a baseline, both made of photos.

    `photos`: all views of the people but the one compared with, each asked for what is truly on it: as good as the
    judges can judge. `photo_unchanged`: the photo itself as the answer to every prompt: likeness without obedience.
    """
    sitters = [(gallery, sitter) for gallery in galleries for sitter in gallery.sitters]
    views = [(gallery, view) for gallery, sitter in sitters for view in (sitter.condition, *sitter.others)]
    names = [tuple(gallery.prompts[0].truth) for gallery, _ in views]
    told = tuple({name: view.truth[name] for name in said} for said, (_, view) in zip(names, views, strict=True))
    seen = studio.look([view.open() for _, view in views])
    ceiling = Arm("photos", seen, tuple(view.person for _, view in views), told)
    own = [row for row, (_, view) in enumerate(views) if any(view is sitter.condition for _, sitter in sitters)]
    answers = [(row, prompt) for row, (gallery, _) in zip(own, sitters, strict=True) for prompt in gallery.prompts]
    rows = [row for row, _ in answers]
    people = tuple(views[row][1].person for row in rows)
    unchanged = Arm("photo_unchanged", seen.rows(rows), people, tuple(prompt.truth for _, prompt in answers))
    return ceiling, unchanged


def decoded_photos(studio: Studio, galleries: Sequence[Gallery]) -> Arm:
    """Return what the model's VAE leaves of the photos, `photos_decoded`: no denoiser before it can keep more."""
    sitters, side = [sitter for gallery in galleries for sitter in gallery.sitters], studio.pipeline.card.size
    photos = [sitter.condition.open().resize((side, side), Image.Resampling.LANCZOS) for sitter in sitters]
    # in float32, whatever the product decodes in: half precision is not the VAE's doing
    vae = copy.deepcopy(studio.pipeline.vae).float()
    pixels = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).to(studio.pipeline.device)
    left = [Image.fromarray(picture) for picture in reconstruct(vae, pixels).cpu().numpy()]
    people = tuple(sitter.person for sitter in sitters)
    return Arm("photos_decoded", studio.look(left), people, tuple({} for _ in sitters))
