"""What the options of `face0-worker train` become, by the machine and by what the training begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import torch

from face0_worker.contract.errors import BadInput
from face0_worker.learn.model_folder import SMALL, TOY
from face0_worker.learn.options import small_plan, tune_plan
from face0_worker.learn.train_commands import add_train_commands

CPU = torch.device("cpu")


def _said(*arguments: str) -> dict[str, Any]:
    """Return what the command's own options say of these arguments."""
    group = click.Group()
    add_train_commands(group, lambda ctx: lambda consent: None)
    command = group.commands["train"]
    context = command.make_context("train", ["--data", "data", "--out", "out", *arguments])
    return {name: value for name, value in context.params.items() if name not in ("data", "out")}


def test_a_small_model_is_asked_for_the_person_more_than_for_the_rest() -> None:
    plan = small_plan(_said("--steps", "10"), CPU)
    assert plan.denoiser.likeness == 0.5
    assert plan.denoiser.mix.face_weight == 6.0
    assert plan.denoiser.mix.batch == 32
    assert (plan.shape, plan.start, plan.minutes, plan.vae_only) == (SMALL, None, None, False)


def test_every_option_reaches_its_place_in_the_plan_of_a_small_model() -> None:
    said = _said(
        *("--minutes", "7", "--steps", "20", "--batch", "5", "--rate", "0.001", "--ema", "0.9", "--accumulate", "3"),
        *("--drop-face", "0.1", "--drop-text", "0.2", "--drop-both", "0.3", "--face-weight", "4", "--likeness", "0.25"),
        *("--checkpoint-s", "9", "--checkpoint-every", "8", "--sample-every", "6", "--seed", "2", "--shape", "toy"),
        *("--from", "there", "--new-mapper", "--vae-minutes", "1", "--vae-only", "--compile"),
    )
    plan = small_plan(said, CPU)
    assert (plan.minutes, plan.start, plan.vae_only, plan.shape) == (7.0, Path("there"), True, TOY)
    assert (plan.new_mapper, plan.vae_goes_on) == (True, True)
    assert (plan.vae.minutes, plan.vae.steps, plan.vae.checkpoint_s, plan.vae.seed) == (1.0, None, 9.0, 2)
    denoiser = plan.denoiser
    assert (denoiser.steps, denoiser.rate, denoiser.ema, denoiser.accumulate) == (20, 0.001, 0.9, 3)
    assert (denoiser.checkpoint_s, denoiser.checkpoint_every, denoiser.sample_every) == (9.0, 8, 6)
    assert (denoiser.likeness, denoiser.seed, denoiser.compiled) == (0.25, 2, True)
    mix = denoiser.mix
    assert (mix.batch, mix.drop_face, mix.drop_text, mix.drop_both, mix.face_weight) == (5, 0.1, 0.2, 0.3, 4.0)


def test_a_training_that_goes_on_from_a_model_warms_up_faster() -> None:
    anew, further = (small_plan(_said("--steps", "10", *more), CPU) for more in ((), ("--from", "there")))
    assert further.denoiser.warmup < anew.denoiser.warmup
    assert (further.vae_goes_on, further.new_mapper) == (False, False)


def test_a_base_learns_with_the_papers_plain_loss_unless_more_is_asked() -> None:
    base = Path("base")
    plain = tune_plan(_said("--base", "base", "--steps", "10", "--precision", "no"), base, CPU).train
    assert (plain.likeness, plain.mix.face_weight, plain.mix.drop_face) == (0.0, 0.0, 0.05)
    asked = _said("--base", "base", "--steps", "10", "--precision", "no", "--likeness", "0.3", "--face-weight", "2")
    more = tune_plan(asked, base, CPU).train
    assert (more.likeness, more.mix.face_weight) == (0.3, 2.0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "say when to stop"),
        (("--steps", "1", "--new-mapper"), "name it with --from"),
        (("--steps", "1", "--rank", "4"), "--rank belongs to a training that begins with a model"),
        (("--steps", "1", "--drop-face", "0.5", "--drop-text", "0.6"), "together at most 1"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        small_plan(_said(*arguments), CPU)


def test_what_belongs_to_a_training_from_nothing_is_refused_with_a_base() -> None:
    with pytest.raises(BadInput, match="--from belongs to a training from nothing"):
        tune_plan(_said("--base", "base", "--steps", "1", "--from", "there"), Path("base"), CPU)
