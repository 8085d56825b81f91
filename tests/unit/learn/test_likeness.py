"""A network that tells from latents whose face they show, and what a training gains from asking it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTokenizer

from face0_worker.learn.corpus import Corpus, Mix, build_corpus, draw, mirror
from face0_worker.learn.likeness import MARGIN, SIDE, LatentFace, LikenessPlan, learn_latent_face, unlikeness, windows
from face0_worker.learn.train import Trainer, TrainPlan
from tests.unit.learn.toy_data import quiet
from tests.unit.learn.toy_training import toy_corpus, toy_subject

PEOPLE, VIEWS, DIMENSION, ACROSS = 12, 4, 16, 16
PLAN = LikenessPlan(steps=60, batch=24, rate=2e-3)


def _people(views: range, seed: int = 0) -> Corpus:
    """Return a corpus whose people have a pattern each in their face, and the embedding that belongs to it; the rest of
    the picture, and where in it the face lies, is another in every view."""
    people = np.random.default_rng(seed)
    patterns = torch.from_numpy(people.normal(size=(PEOPLE, 8, 6, 6)).astype(np.float32))
    who = people.normal(size=(PEOPLE, DIMENSION)).astype(np.float32)
    latents, faces, boxes, owners = [], [], [], []
    for person in range(PEOPLE):
        for view in views:
            lot = np.random.default_rng([seed, person, view])
            picture = torch.from_numpy(lot.normal(size=(8, ACROSS, ACROSS)).astype(np.float32))
            left, top = (int(at) for at in lot.integers(1, 9, size=2))
            picture[:, top : top + 6, left : left + 6] = patterns[person]
            latents.append(picture)
            faces.append(who[person] + 0.5 * lot.normal(size=DIMENSION))
            boxes.append([left / ACROSS, top / ACROSS, (left + 6) / ACROSS, (top + 6) / ACROSS])
            owners.append(str(person))
    pictures = torch.stack(latents)
    count = len(owners)
    silent = torch.zeros(count, 1, 1, dtype=torch.int16)
    both = torch.stack([pictures, pictures.flip(-1)])
    return build_corpus(both, silent, silent[0, 0], owners, np.array(faces, np.float32), np.array(boxes, np.float32))


@pytest.fixture(scope="module")
def sense() -> LatentFace:
    return learn_latent_face(_people(range(VIEWS)), PLAN, say=quiet)


def test_a_window_shows_the_box_and_a_margin_around_it() -> None:
    latents = torch.zeros(1, 2, 20, 20)
    latents[0, 0, 4:12, 6:14] = 1
    box = torch.tensor([[6 / 20, 4 / 20, 14 / 20, 12 / 20]])
    seen = windows(latents, box)[0, 0]
    edge = round(SIDE * MARGIN / (1 + 2 * MARGIN))
    assert seen.shape == (SIDE, SIDE)
    assert torch.all(seen[edge + 1 : -edge - 1, edge + 1 : -edge - 1] > 0.99)
    assert torch.all(seen[0] == 0)
    assert torch.all(seen[:, -1] == 0)


def test_views_never_seen_are_told_apart_by_person_not_by_what_surrounds_them(sense: LatentFace) -> None:
    unseen = _people(range(100, 100 + VIEWS))
    first = range(0, PEOPLE * VIEWS, VIEWS)
    right = torch.arange(PEOPLE).repeat_interleave(VIEWS)
    for mirrored in (0, 1):
        boxes = mirror(unseen.boxes, torch.full((len(right),), mirrored))
        with torch.no_grad():
            said = sense(windows(unseen.latents[mirrored], boxes))
        assert torch.allclose(said.norm(dim=1), torch.ones(len(said)), atol=1e-5)
        nearest = (said @ unseen.persons[list(first)].T).argmax(dim=1)
        assert (nearest == right).float().mean() > 0.9  # of twelve


def test_what_is_wanted_of_a_picture_is_its_person_over_all_views_and_of_a_faceless_one_nothing(
    tokenizer: CLIPTokenizer,
) -> None:
    corpus = toy_corpus(tokenizer)  # ann, ann, ann, bob, bob (no face), cat, dan (no face)
    assert torch.allclose(corpus.persons.norm(dim=1), torch.tensor([1.0, 1, 1, 1, 0, 1, 0]))
    people = _people(range(VIEWS))
    mean = functional.normalize(people.faces[:VIEWS].sum(dim=0), dim=0)
    assert torch.allclose(people.persons[:VIEWS], mean.expand(VIEWS, -1), atol=1e-6)


def test_the_truth_is_right_and_another_person_is_not_and_only_the_guess_is_asked_to_change(sense: LatentFace) -> None:
    people = _people(range(VIEWS))
    truth, boxes = people.latents[0], people.boxes
    assert unlikeness(sense, truth, truth, boxes).abs().max() < 1e-5
    # everybody's face in the place of the next person's
    swapped = _people(range(VIEWS)).latents[0]
    for row in range(len(swapped)):
        (left, top), (x, y) = ((corners[:2] * ACROSS).round().int() for corners in (boxes[row], boxes[row - VIEWS]))
        swapped[row, :, top : top + 6, left : left + 6] = truth[row - VIEWS, :, y : y + 6, x : x + 6]
    assert unlikeness(sense, swapped, truth, boxes).mean() > 0.5
    guess, wanted = swapped.clone().requires_grad_(), truth.clone().requires_grad_()
    unlikeness(sense, guess, wanted, boxes).sum().backward()
    assert guess.grad is not None
    assert guess.grad.abs().sum() > 0
    assert wanted.grad is None
    assert all(value.grad is None for value in sense.parameters())


def test_nobody_is_asked_for_where_there_is_no_face(sense: LatentFace) -> None:
    people = _people(range(VIEWS))
    boxes = people.boxes.clone()
    boxes[0] = 0
    far = unlikeness(sense, people.latents[0].roll(VIEWS, 0), people.latents[0], boxes)
    assert far[0] == 0
    assert far[1:].min() > 0


def test_it_is_learned_once_for_the_same_pictures_and_again_for_others(tmp_path: Path) -> None:
    told: list[str] = []
    plan, cache = replace(PLAN, steps=2, batch=4), tmp_path / "work" / "likeness.safetensors"
    one = learn_latent_face(_people(range(VIEWS)), plan, cache, told.append)
    assert told
    told.clear()
    again = learn_latent_face(_people(range(VIEWS)), plan, cache, told.append)
    assert not told
    assert _same(one, again)
    assert not _same(one, learn_latent_face(_people(range(VIEWS), seed=1), plan, cache, told.append))
    assert told
    told.clear()
    learn_latent_face(_people(range(VIEWS), seed=1), replace(plan, steps=3), cache, told.append)
    assert told


def _same(one: LatentFace, other: LatentFace) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_learning_it_draws_nothing_from_the_numbers_of_the_training_around_it() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    learn_latent_face(_people(range(VIEWS)), replace(PLAN, steps=1, batch=4), say=quiet)
    assert torch.equal(torch.rand(3), wanted)


class _Everywhere(LatentFace):
    """Says the mean of each channel, so that what it wants is plain."""

    def forward(self, windows: Tensor) -> Tensor:
        return functional.normalize(windows.mean(dim=(2, 3)), dim=1)


def test_a_training_asks_for_the_person_as_much_as_its_plan_says(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    corpus = toy_corpus(tokenizer)
    plan = TrainPlan(steps=1, warmup=1, precision="no", mix=Mix(batch=4))

    def loss(likeness: float) -> float:
        subject = replace(toy_subject(tokenizer), sense=_Everywhere(8, 128).requires_grad_(False))
        return float(Trainer(corpus, subject, replace(plan, likeness=likeness), tmp_path).advance())

    none, some, twice = loss(0), loss(0.5), loss(1.0)
    assert some > none
    assert twice - none == pytest.approx(2 * (some - none), rel=1e-3)


def test_asking_for_the_person_brings_the_guess_nearer_to_the_face(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    corpus = toy_corpus(tokenizer)
    subject = replace(toy_subject(tokenizer), sense=_Everywhere(8, 128).requires_grad_(False))
    # beside a loss that counts nothing, so that what moves the weights is this alone
    plan = TrainPlan(steps=40, rate=3e-3, warmup=1, precision="no", min_snr=1e-9, likeness=1.0, mix=Mix(batch=8))
    trainer = Trainer(corpus, subject, plan, tmp_path)

    def far() -> float:
        batch = draw(corpus, Mix(batch=32), torch.Generator().manual_seed(1))
        trainer.generator.manual_seed(1)
        with torch.no_grad():
            return float(trainer.loss(batch))

    before = far()
    for _ in range(40):
        trainer.advance()
    assert far() < 0.5 * before
