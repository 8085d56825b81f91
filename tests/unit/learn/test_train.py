"""Training at toy size on the real code: it learns, and a killed run goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from face0_worker.learn.autoencoder import VaePlan, reconstruction_loss, train_vae
from face0_worker.learn.model_folder import write_tokenizer
from face0_worker.learn.train import Corpus, Trainer, TrainPlan, draw, face_weight, vary_caption

CAPTION = "a portrait of a person with long hair wearing a red turtleneck, white background"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def corpus() -> Corpus:
    """Two people with three pictures each; in the last no face was found."""
    latents = torch.randn(2, 6, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    faces = np.random.default_rng(0).standard_normal((6, 128)).astype(np.float32)
    faces[5] = 0
    views = tuple(np.array(mine) for mine in [[0, 1, 2]] * 3 + [[3, 4]] * 3)
    return Corpus(latents, faces, (CAPTION,) * 6, views)


def _weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.parts.parameters()])


def test_a_resumed_training_equals_an_unbroken_one(corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    plan = TrainPlan(steps=2, batch=2)
    whole = Trainer(corpus, tokenizer, plan, tmp_path / "whole")
    whole.run(minutes=5, say=lambda line: None)
    broken = Trainer(corpus, tokenizer, plan, tmp_path / "broken")
    broken.plan = TrainPlan(steps=1, batch=2, warmup=plan.warmup)
    broken.run(minutes=5, say=lambda line: None)
    resumed = Trainer(corpus, tokenizer, plan, tmp_path / "broken")
    assert resumed.step == 1
    resumed.run(minutes=5, say=lambda line: None)
    # the rate of step 0 is the same: a cosine starts at its top
    torch.testing.assert_close(_weights(resumed), _weights(whole), rtol=1e-4, atol=1e-5)


def test_the_condition_is_a_face_of_the_same_person_or_none(corpus: Corpus) -> None:
    plan = TrainPlan(steps=1, batch=64, face_noise=0.0)
    _, captions, faces = draw(corpus, plan, np.random.default_rng(1))
    known = {tuple(face) for face in corpus.faces[:5].tolist()}
    for caption, face in zip(captions, faces.tolist(), strict=True):
        assert tuple(face) in known or not any(face)
        assert caption == "" or "red" in caption
    shares = [sum(not any(face) for face in faces.tolist()), captions.count("")]
    assert min(shares) > 0
    assert max(shares) < 32


def test_captions_are_varied_but_keep_what_they_say() -> None:
    rng = np.random.default_rng(0)
    said = {vary_caption(CAPTION, rng) for _ in range(200)}
    assert len(said) > 5
    assert all("red" in caption and "white background" in caption for caption in said)


def test_every_text_has_tokens(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer(["red turtleneck", "セーター", "x" * 500], truncation=True, max_length=77)["input_ids"]
    assert all(2 < len(one) <= 77 for one in ids)
    assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == "red turtleneck"


def test_the_face_weighs_twice_and_the_corners_once() -> None:
    weight = face_weight(16)
    assert float(weight.max()) == pytest.approx(2, abs=0.05)
    assert float(weight[0, 0]) == pytest.approx(1, abs=0.05)


def test_the_vae_learns_and_its_latents_get_unit_variance(tmp_path: Path) -> None:
    flat = np.random.default_rng(0).integers(0, 255, (8, 1, 1, 3), dtype=np.uint8)
    pixels = np.repeat(np.repeat(flat, 64, axis=1), 64, axis=2)
    quiet = lambda line: None  # noqa: E731
    untrained = train_vae(pixels, tmp_path / "untrained", VaePlan(steps=1, batch=4, crop=32), quiet)
    vae = train_vae(pixels, tmp_path / "trained", VaePlan(steps=60, batch=4, crop=32), quiet)
    units = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(units).latent_dist.mode()
        out, before = vae.decode(latents).sample, untrained(units).sample
    assert float(reconstruction_loss(out, units)) < 0.8 * float(reconstruction_loss(before, units))
    assert float((latents * vae.config.scaling_factor).std()) == pytest.approx(1, rel=0.1)
    assert (tmp_path / "trained" / "config.json").is_file()
