"""The denoising loop: how often the denoiser runs, on what noise, and which schedules are refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from face0_worker.contract import job
from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.conditioning import Conditioning, Context
from face0_worker.render.euler import draw
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.sampler import SAMPLERS, denoise, initial_noise, make_scheduler
from tests.fakes import tiny_embedding

STEPS = 4
ITEMS = [
    RenderItem("a", "red", negative_prompt="blue", seed=1, width=64, height=64, steps=STEPS, guidance=Guidance(w=3.0)),
    RenderItem("b", "a blue thing", seed=2, width=64, height=64, steps=STEPS, guidance=Guidance(w=3.0)),
]


def silent(step: int, steps: int) -> None:
    """Ignore the progress."""


def evaluated_rows(pipeline: Pipeline, guidances: list[Guidance], **asked: Any) -> list[int]:
    """Return how many rows each call of the denoiser had."""
    counts: list[int] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])))
    item = RenderItem("a", "red", width=64, height=64, steps=STEPS)
    requests = [
        RenderRequest(replace(item, seed=n, guidance=guidance, **asked), tiny_embedding(n))
        for n, guidance in enumerate(guidances)
    ]
    make_pictures(pipeline, requests, silent)
    hook.remove()
    return counts


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_joint_guidance_takes_two_evaluations_a_step_with_every_sampler(tiny_sdxl: Pipeline, sampler: str) -> None:
    assert evaluated_rows(tiny_sdxl, [Guidance(w=7.5, c=1.0)], sampler=sampler) == [2] * STEPS


@pytest.mark.parametrize(
    ("guidance", "rows"),
    [
        (Guidance(w=7.5, c=1.0), 2),  # photographs: joint and none
        (Guidance(w=7.5, c=0.4, a=0.0), 3),  # stylised: joint, text and none
        (Guidance(w=7.5, c=0.7, a=0.0), 3),
        (Guidance(w=7.5, c=1.4, a=1.0), 3),  # very unreal: joint, face and none
        (Guidance(w=7.5, c=0.5, a=0.5), 4),
        (Guidance(w=7.5, c=0.0, a=0.0), 2),  # plain text to image
        (Guidance(w=1.0, c=1.0), 1),
        (Guidance(w=1.0, c=0.6, a=0.0), 2),
    ],
)
def test_each_regime_takes_the_evaluations_that_its_coefficients_need(
    tiny: Pipeline, guidance: Guidance, rows: int
) -> None:
    assert evaluated_rows(tiny, [guidance]) == [rows] * STEPS


def test_items_of_different_guidance_share_each_call(tiny: Pipeline) -> None:
    stylised, half = Guidance(w=7.5, c=0.6), Guidance(w=7.5, c=1.0, start=0.0, stop=0.5)
    assert evaluated_rows(tiny, [stylised, half, Guidance(w=1.0)]) == [6, 6, 5, 5]


def test_an_interval_is_evaluated_from_its_start_and_no_more_at_its_stop(tiny: Pipeline) -> None:
    # four steps stand at 0, 1/4, 1/2 and 3/4 of the denoising
    assert evaluated_rows(tiny, [Guidance(w=7.5, start=0.25, stop=0.75)]) == [1, 2, 2, 1]
    assert evaluated_rows(tiny, [Guidance(w=7.5, start=0.26, stop=0.76)]) == [1, 1, 2, 2]
    assert evaluated_rows(tiny, [Guidance(w=7.5, c=0.6, start=0.5)]) == [2, 2, 3, 3]


def test_noise_depends_on_the_seed_alone() -> None:
    shape = (4, 8, 8)
    together = initial_noise([5, 6, 2**63 - 1], shape)
    alone = initial_noise([6], shape)
    assert torch.equal(together.first[1], alone.first[0])
    assert not torch.equal(together.first[0], together.first[1])
    # and so does what a sampler draws later
    later = draw(together.generators, together.first)
    assert torch.equal(later[1], draw(alone.generators, alone.first)[0])
    assert not torch.equal(later, together.first)


def test_every_step_is_reported_and_an_exception_from_it_ends_the_loop(tiny: Pipeline) -> None:
    class Stopped(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def stop_at_two(step: int, steps: int) -> None:
        seen.append((step, steps))
        if step == 2:
            raise Stopped

    with pytest.raises(Stopped):
        make_pictures(tiny, [RenderRequest(ITEMS[0], None)], stop_at_two)
    assert seen == [(1, STEPS), (2, STEPS)]


def test_a_denoiser_in_half_precision_is_sampled_in_float32() -> None:
    told = Conditioning(torch.zeros(1, 77, 4), torch.zeros(1, 3, 4), ((0,) * 4,), ((0,) * 4,), (False,))
    scheduler = make_scheduler({"beta_schedule": "scaled_linear"}, "ddim", 3)
    kinds = set()

    def predict(latents: torch.Tensor, timestep: torch.Tensor, context: Context) -> torch.Tensor:
        kinds.add(latents.dtype)
        return (latents * 0.1).to(torch.bfloat16)

    latents = denoise(predict, scheduler, initial_noise([1], (4, 2, 2)), told, [Guidance()], silent)
    assert latents.dtype is torch.float32
    assert kinds == {torch.float32}


def test_noise_can_not_be_predicted_from_pure_noise() -> None:
    with pytest.raises(BadInput, match="v_prediction"):
        make_scheduler({"rescale_betas_zero_snr": True}, "ddim", 4)


def test_karras_spacing_is_refused_from_pure_noise() -> None:
    with pytest.raises(BadInput, match="use dpmpp_2m"):
        make_scheduler({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, "dpmpp_2m_karras", 4)


@pytest.mark.parametrize(
    ("config", "sampler", "steps", "said"),
    [
        ({}, "plms", 4, "sampler 'plms' is unknown"),
        ({}, "ddim", 0, "1 to 1000"),
        ({}, "ddim", 1001, "1 to 1000"),
        ({}, "lcm", 51, "1 to 50"),
        ({}, "ddim", 1000, "take one or two less"),
        ({"timestep_spacing": "trailing"}, "ddim", 61, "take one or two less"),
        ({"timestep_spacing": "trailing"}, "dpmpp_2m", 103, "take one or two less"),
    ],
)
def test_samplers_and_steps_that_can_not_be_made_are_refused(
    config: dict[str, Any], sampler: str, steps: int, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        make_scheduler(config, sampler, steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_number_of_steps_leaves_the_schedule(sampler: str) -> None:
    made = 0
    for spacing, steps in itertools.product(("leading", "trailing", "linspace"), (1, 7, 20, 49, 61, 103, 500, 1000)):
        try:
            scheduler = make_scheduler({"timestep_spacing": spacing}, sampler, steps)
        except BadInput:
            continue
        made += 1
        assert len(scheduler.timesteps) == steps
        assert scheduler.timesteps.min() >= 0
        assert scheduler.timesteps.max() <= 999
    assert made >= 12


def test_a_samplers_name_decides_its_sigmas_whatever_the_model_prefers() -> None:
    preferred = {"use_karras_sigmas": True}
    plain, karras = (make_scheduler(preferred, name, 10) for name in ("dpmpp_2m", "dpmpp_2m_karras"))
    assert torch.equal(plain.sigmas, make_scheduler({}, "dpmpp_2m", 10).sigmas)
    # Karras et al. 2022, eq. 5 with rho = 7
    top, bottom = float(karras.sigmas[0]) ** (1 / 7), float(karras.sigmas[9]) ** (1 / 7)
    wanted = (top + torch.linspace(0, 1, 10, dtype=torch.float64) * (bottom - top)) ** 7
    torch.testing.assert_close(karras.sigmas[:10].double(), wanted, rtol=1e-4, atol=1e-4)


def test_a_list_may_name_every_sampler_that_there_is() -> None:
    assert set(job.SAMPLERS) == set(SAMPLERS)


def test_a_list_may_name_exactly_the_samplers_that_can_be_rendered() -> None:
    assert tuple(SAMPLERS) == job.SAMPLERS
