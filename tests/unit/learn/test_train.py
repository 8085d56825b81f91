"""Training at toy size on the real code: exact when resumed, planned once, and unmoved by numbers that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from face0_worker.contract.errors import BadInput
from face0_worker.learn.corpus import Corpus, Mix, draw
from face0_worker.learn.model_folder import TOY
from face0_worker.learn.pace import MEASURED_STEPS
from face0_worker.learn.train import LOSSES, STATE, WARM_STEPS, Trainer, TrainPlan
from face0_worker.learn.watching import Lines, Watch
from tests.unit.learn.toy_data import QUIET
from tests.unit.learn.toy_training import toy_corpus, toy_subject

PLAN = TrainPlan(steps=6, warmup=3, mix=Mix(batch=4), checkpoint_s=25)


class Killed(BaseException):
    """What no training survives."""


@pytest.fixture(scope="module")
def corpus(tokenizer: CLIPTokenizer) -> Corpus:
    return toy_corpus(tokenizer)


class Clock:
    """A clock that a training moves: each step takes `step_s`, and `kill_at` is the step that does not end."""

    def __init__(self, trainer: Trainer, step_s: float, *, kill_at: int = -1, pretend: bool = False) -> None:
        self.now, self.step_s, self.kill_at = 0.0, step_s, kill_at
        self.trainer, self.real, self.pretend = trainer, trainer.advance, pretend
        trainer.advance = self.advance  # type: ignore[method-assign]

    def __call__(self) -> float:
        return self.now

    def advance(self) -> Tensor:
        """Do a step, or only count it, and let time pass."""
        if self.trainer.step == self.kill_at:
            raise Killed
        self.now += self.step_s
        if not self.pretend:
            return self.real()
        self.trainer.step += 1
        return torch.zeros(())


def _numbers(trainer: Trainer) -> list[Tensor]:
    """Return copies of everything that a step may change: weights and what the optimiser keeps of them."""
    kept = [value for state in trainer.optimiser.state.values() for value in state.values()]
    return [value.detach().clone() for value in [*trainer.parts.parameters(), *kept]]


def _same(one: Trainer, other: Trainer) -> bool:
    pairs = zip([*_numbers(one), *one.ema.values()], [*_numbers(other), *other.ema.values()], strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_a_resumed_training_has_exactly_the_losses_and_weights_of_an_unbroken_one(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    whole = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path / "whole")
    losses = [float(whole.advance()) for _ in range(6)]
    broken = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path / "broken")
    again = [float(broken.advance()) for _ in range(3)]
    broken.checkpoint()
    # other weights and another seed of torch's own: everything must come from the checkpoint
    resumed = Trainer(corpus, toy_subject(tokenizer, seed=5), PLAN, tmp_path / "broken")
    assert resumed.step == 3
    again += [float(resumed.advance()) for _ in range(3)]
    assert again == losses
    assert _same(resumed, whole)
    assert len(set(losses)) == 6


def test_a_killed_training_loses_at_most_one_checkpoint_interval_and_ends_the_same(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    whole = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path / "whole")
    whole.run(1e9, QUIET, clock=Clock(whole, 10))
    killed = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path / "killed")
    with pytest.raises(Killed):
        killed.run(1e9, QUIET, clock=Clock(killed, 10, kill_at=5))
    resumed = Trainer(corpus, toy_subject(tokenizer, seed=5), PLAN, tmp_path / "killed")
    assert resumed.step == 3  # 20 s of work are lost; the interval is 25 s
    assert resumed.spent_s == 30
    resumed.run(1e9, QUIET, clock=Clock(resumed, 10))
    assert resumed.spent_s == 60
    assert _same(resumed, whole)


def test_a_checkpoint_is_whole_or_not_at_all(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path)
    trainer.advance()
    trainer.checkpoint()
    real = torch.save

    def half(state: Any, path: Path) -> None:
        real(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        raise Killed

    monkeypatch.setattr(torch, "save", half)
    trainer.advance()
    with pytest.raises(Killed):
        trainer.checkpoint()
    monkeypatch.undo()
    assert Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path).step == 1


def test_a_checkpoint_of_another_shape_is_refused(corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path).checkpoint()
    other = toy_subject(tokenizer, shape=replace(TOY, unet=(32, 32, 64)))
    with pytest.raises(BadInput, match="another shape"):
        Trainer(corpus, other, PLAN, tmp_path)


def test_steps_are_planned_once_from_the_pace_noted_and_kept_by_later_sittings(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    plan = replace(PLAN, steps=None)
    first = Trainer(corpus, toy_subject(tokenizer), plan, tmp_path)
    measured = WARM_STEPS + MEASURED_STEPS
    with pytest.raises(Killed):  # two minutes at a second a step, killed before they are over
        first.run(2, QUIET, clock=Clock(first, 1, kill_at=90, pretend=True))
    planned = measured + int(0.96 * (120 - measured))
    assert first.steps == planned
    assert torch.load(tmp_path / STATE, weights_only=True)["steps"] == planned
    second = Trainer(corpus, toy_subject(tokenizer), plan, tmp_path)
    assert 90 - 26 <= second.step < 90
    second.run(100, QUIET, clock=Clock(second, 50, pretend=True))  # a slower machine
    assert (second.step, second.steps) == (planned, planned)
    assert second.rate() == pytest.approx(plan.rate / 100)


def test_a_sitting_ends_with_its_minutes_and_a_later_one_goes_on(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    plan = replace(PLAN, steps=100)
    for sat in (6, 12):
        trainer = Trainer(corpus, toy_subject(tokenizer), plan, tmp_path)
        trainer.run(1, QUIET, clock=Clock(trainer, 10, pretend=True))
        assert trainer.step == sat
    assert trainer.spent_s == 120


def test_the_rate_warms_up_and_falls_in_a_cosine_that_ends_with_the_steps(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    trainer = Trainer(corpus, toy_subject(tokenizer), replace(PLAN, steps=100, warmup=10), tmp_path)
    rates = []
    for trainer.step in range(101):
        rates.append(trainer.rate() / PLAN.rate)
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.505)
    assert rates[100] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


def test_a_step_whose_gradients_are_not_finite_leaves_everything_alone_and_is_counted(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    trainer = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path)
    trainer.advance()
    before = _numbers(trainer)
    averages = {name: value.clone() for name, value in trainer.ema.items()}
    trainer.corpus = replace(corpus, latents=corpus.latents * torch.nan)
    assert not torch.isfinite(trainer.advance())
    assert all(torch.equal(averages[name], value) for name, value in trainer.ema.items())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(before, _numbers(trainer), strict=True))
    trainer.corpus = corpus
    assert torch.isfinite(trainer.advance())
    assert not torch.equal(before[0], _numbers(trainer)[0])
    assert all(torch.isfinite(value).all() for value in [*_numbers(trainer), *trainer.ema.values()])
    assert trainer.facts()["skipped"] == 1
    trainer.checkpoint()
    assert Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path).facts()["skipped"] == 1


def test_left_out_faces_are_zero_tokens_and_shown_ones_are_the_mappers(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    trainer = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path)
    contexts: list[Tensor] = []

    def denoise(noisy: Tensor, times: Tensor, context: Tensor, return_dict: bool) -> tuple[Tensor]:
        contexts.append(context.detach().float())
        return (noisy,)

    trainer.denoise = denoise
    batch = draw(corpus, Mix(batch=64), torch.Generator().manual_seed(0))
    trainer.loss(batch)
    shown = batch.faces.abs().sum(dim=1) > 0
    assert 5 < int(shown.sum()) < 60
    tokens = contexts[0][:, -3:]
    assert not bool(tokens[~shown].any())
    wanted = trainer.parts["mapper"](batch.faces[shown]).detach()
    assert torch.nn.functional.cosine_similarity(tokens[shown].flatten(1), wanted.flatten(1)).min() > 0.999
    assert bool(contexts[0][:, :-3].any(dim=2).all())


def test_who_predicts_the_velocity_has_no_loss(corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    trainer = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path)
    batch = draw(corpus, Mix(batch=32), torch.Generator().manual_seed(0))

    def oracle(noisy: Tensor, times: Tensor, context: Tensor, return_dict: bool) -> tuple[Tensor]:
        signal, share = trainer.subject.schedule.shares(times)
        noise = (noisy - signal * batch.latents) / share
        return (signal * noise - share * batch.latents,)

    trainer.denoise = oracle
    assert float(trainer.loss(batch)) < 1e-4
    trainer.denoise = lambda noisy, times, context, return_dict: (torch.zeros_like(noisy),)
    assert float(trainer.loss(batch)) > 0.1


def test_training_learns(corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    plan = replace(PLAN, steps=30, rate=3e-3)
    trainer = Trainer(corpus, toy_subject(tokenizer), plan, tmp_path)
    losses = [float(trainer.advance()) for _ in range(30)]
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


def test_losses_are_written_as_they_are_told(corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    trainer = Trainer(corpus, toy_subject(tokenizer), replace(PLAN, steps=100), tmp_path)
    told: list[str] = []
    trainer.run(1e9, Watch(Lines(told.append)), clock=Clock(trainer, 1, pretend=True))
    curve = [json.loads(line) for line in (tmp_path / LOSSES).read_text().splitlines()]
    assert [row["step"] for row in curve] == [50, 100]
    assert told[0].startswith("step 50 of 100 loss")


def test_averages_are_lent_and_given_back(corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    trainer = Trainer(corpus, toy_subject(tokenizer), replace(PLAN, ema=0.5), tmp_path)
    for _ in range(3):
        trainer.advance()
    before, averages = _numbers(trainer), [value.clone() for value in trainer.ema.values()]
    assert not torch.equal(before[0], averages[0])
    with trainer.averaged() as parts:
        lent = [value.detach().clone() for value in parts.parameters()]
        assert not parts.training
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(lent, averages, strict=True))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(before, _numbers(trainer), strict=True))
    assert trainer.parts.training


def test_a_step_learns_from_the_mean_of_its_batches(corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    trainer = Trainer(corpus, toy_subject(tokenizer), replace(PLAN, accumulate=2), tmp_path)
    weight = next(iter(trainer.learned.values()))
    slopes = iter((1.0, 3.0))
    trainer.loss = lambda batch: next(slopes) * weight.sum()  # type: ignore[method-assign]
    wanted = 2.0 * float(weight.detach().sum())
    assert float(trainer.advance()) == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert float(trainer.norm) == pytest.approx(2.0 * weight.numel() ** 0.5)
    assert trainer.step == 1


def test_scaled_losses_of_half_precision_change_no_weight_and_a_broken_step_lowers_the_scale(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    plain = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path / "plain")
    scaled = Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path / "scaled")
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    losses = [[float(one.advance()) for _ in range(3)] for one in (plain, scaled)]
    assert losses[0] == losses[1]
    assert _same(plain, scaled)
    scaled.corpus = replace(corpus, latents=corpus.latents * torch.nan)
    before = _numbers(scaled)
    scaled.advance()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(before, _numbers(scaled), strict=True))
    assert scaled.accelerator.scaler.get_scale() == 2.0**9
    scaled.checkpoint()
    assert torch.load(tmp_path / "scaled" / STATE, weights_only=True)["scaler"]["scale"] == 2.0**9


def test_checkpoints_and_looks_come_every_so_many_steps_and_never_after_the_last(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    plan = replace(PLAN, steps=12, checkpoint_every=5, sample_every=4, checkpoint_s=1e9)
    trainer = Trainer(corpus, toy_subject(tokenizer), plan, tmp_path)
    looked: list[tuple[int, int]] = []

    def look(now: Trainer) -> None:
        kept = tmp_path / STATE
        looked.append((now.step, torch.load(kept, weights_only=True)["step"] if kept.is_file() else 0))

    trainer.run(1e9, QUIET, look, clock=Clock(trainer, 1, pretend=True))
    assert looked == [(4, 0), (8, 5)]
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 12


def test_a_training_of_something_else_is_not_gone_on_with(
    corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    Trainer(corpus, toy_subject(tokenizer), PLAN, tmp_path).checkpoint()
    other = replace(toy_subject(tokenizer), about="model 1234 by LoRA of rank 4 at 64 px")
    with pytest.raises(BadInput, match="is of a training of a small model from nothing, not of model 1234"):
        Trainer(corpus, other, PLAN, tmp_path)


def test_the_mapper_has_a_rate_of_its_own(corpus: Corpus, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    plan = replace(PLAN, rate=1e-4, mapper_rate=1e-3, warmup=1, steps=1000)
    trainer = Trainer(corpus, toy_subject(tokenizer), plan, tmp_path)
    trainer.advance()
    trainer.checkpoint()
    again = Trainer(corpus, toy_subject(tokenizer), plan, tmp_path)
    again.advance()
    for one in (trainer, again):
        assert [group["lr"] for group in one.optimiser.param_groups] == pytest.approx([1e-4, 1e-3], rel=1e-2)
    mapper = {id(value) for value in trainer.parts["mapper"].parameters()}
    assert {id(value) for value in trainer.optimiser.param_groups[1]["params"]} == mapper
