"""Noise and its prediction: what a scheduler's config says, whichever sampler it is of."""

from __future__ import annotations

import pytest
import torch

from face0_worker.learn.model_folder import SCHEDULER
from face0_worker.learn.schedule import Schedule

CPU = torch.device("cpu")
# as Stable Diffusion 1.5's folder has it
SD15 = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def test_the_noise_is_the_target_of_who_predicts_noise_and_the_velocity_of_who_predicts_that() -> None:
    latents, noise = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), -1.0)
    times = torch.tensor([0, 999])
    assert torch.equal(Schedule.of(SD15, CPU).target(latents, noise, times), noise)
    velocity = Schedule.of({**SD15, "prediction_type": "v_prediction"}, CPU)
    signal, share = velocity.shares(times)
    assert torch.allclose(signal.square() + share.square(), torch.ones(2, 1, 1, 1))
    assert torch.allclose(velocity.target(latents, noise, times), -signal - 3 * share)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_who_says_what_is_wanted_means_the_clean_picture(prediction: str) -> None:
    schedule = Schedule.of({**SD15, "prediction_type": prediction}, CPU)
    draw, times = torch.Generator().manual_seed(0), torch.tensor([0, 300, 900])
    latents, noise = (torch.randn(3, 2, 4, 4, generator=draw) for _ in range(2))
    signal, share = schedule.shares(times)
    guess = schedule.guess(signal * latents + share * noise, schedule.target(latents, noise, times), times)
    assert torch.allclose(guess, latents, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_nearly_clean_pictures_count_as_much_as_their_noise_tells_and_no_more_than_five(prediction: str) -> None:
    schedule = Schedule.of({**SD15, "prediction_type": prediction}, CPU)
    times = torch.arange(1000)
    snr = schedule.clean / (1 - schedule.clean)
    known = snr if prediction == "epsilon" else snr + 1
    assert torch.allclose(schedule.weight(times, 5.0).flatten(), known.clamp(max=5) / known, rtol=1e-3)
    assert float(schedule.weight(times, 5.0).max()) == 1.0


def test_pure_noise_has_no_picture_left_and_still_counts() -> None:
    schedule = Schedule.of(SCHEDULER, CPU)
    assert float(schedule.clean[-1]) == pytest.approx(0, abs=1e-7)
    assert float(schedule.weight(torch.tensor([999]), 5.0)) == 1.0


def test_the_sampler_steps_back_along_the_same_schedule() -> None:
    schedule = Schedule.of(SD15, CPU)
    assert torch.equal(schedule.sampler().alphas_cumprod, schedule.clean)
    assert schedule.sampler().config.prediction_type == "epsilon"
