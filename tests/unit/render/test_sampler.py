"""The denoising loop against diffusers' own pipeline, and its counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.conditioning import Conditioning
from face0_worker.render.guidance import Branch, Rows
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.sampler import SAMPLERS, denoise, initial_noise, make_scheduler
from tests.fakes import tiny_embedding, write_tiny_model

STEPS = 4
ITEMS = [
    RenderItem("a", "red", negative_prompt="blue", seed=1, width=64, height=64, steps=STEPS, guidance=Guidance(w=3.0)),
    RenderItem("b", "a blue thing", seed=2, width=64, height=64, steps=STEPS, guidance=Guidance(w=3.0)),
]


def stock(folder: Path, sampler: str) -> Any:
    """Return diffusers' own pipeline over the same folder, with the sampler's scheduler."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    kind, options = SAMPLERS[sampler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def silent(step: int, steps: int) -> None:
    """Ignore the progress."""


PAIRS = [(p, s) for p in ("epsilon", "v_prediction") for s in SAMPLERS if (p, s) != ("v_prediction", "euler")]


@pytest.mark.parametrize(("prediction", "sampler"), PAIRS)
def test_with_the_override_off_pictures_equal_stock_diffusers(tmp_path: Path, sampler: str, prediction: str) -> None:
    folder = write_tiny_model(tmp_path, tokens=0, prediction_type=prediction)
    ours = Pipeline.load(folder, digest="", device="cpu", precision="float32")
    items = [RenderItem(**{**vars(item), "sampler": sampler}) for item in ITEMS]
    pictures, _ = make_pictures(ours, [RenderRequest(item, None) for item in items], silent)

    wanted = stock(folder, sampler)(
        prompt=[item.prompt for item in items],
        negative_prompt=[item.negative_prompt for item in items],
        latents=initial_noise([item.seed for item in items], ours.latent_shape(64, 64)),
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        height=64,
        width=64,
        output_type="np",
    ).images
    np.testing.assert_allclose(pictures, wanted, atol=1e-4)


def test_a_face_equals_stock_diffusers_given_our_prompt_embeds(tiny: Pipeline, tiny_folder: Path) -> None:
    faces = [tiny_embedding(1), None]
    pictures, _ = make_pictures(tiny, [RenderRequest(*pair) for pair in zip(ITEMS, faces, strict=True)], silent)
    told = tiny.condition(ITEMS, faces)
    both = (0, 1)
    wanted = stock(tiny_folder, "ddim")(
        prompt_embeds=told.context(Rows(both, (Branch.JOINT,) * 2, (1.0,) * 2)),
        negative_prompt_embeds=told.context(Rows(both, (Branch.NONE,) * 2, (1.0,) * 2)),
        latents=initial_noise([item.seed for item in ITEMS], tiny.latent_shape(64, 64)),
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        height=64,
        width=64,
        output_type="np",
    ).images
    np.testing.assert_allclose(pictures, wanted, atol=1e-4)


def evaluated_rows(pipeline: Pipeline, guidances: list[Guidance]) -> list[int]:
    """Return how many rows each call of the denoiser had."""
    counts: list[int] = []
    pipeline.unet.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])))
    requests = [
        RenderRequest(RenderItem("a", "red", seed=n, width=64, height=64, steps=STEPS, guidance=guidance), None)
        for n, guidance in enumerate(guidances)
    ]
    make_pictures(pipeline, requests, silent)
    return counts


def test_joint_guidance_takes_two_evaluations_a_step(tiny: Pipeline) -> None:
    assert evaluated_rows(tiny, [Guidance(w=7.5, c=1.0)]) == [2] * STEPS


def test_items_of_different_guidance_share_each_call(tiny: Pipeline) -> None:
    stylised, half = Guidance(w=7.5, c=0.6), Guidance(w=7.5, c=1.0, start=0.0, stop=0.5)
    assert evaluated_rows(tiny, [stylised, half, Guidance(w=1.0)]) == [6, 6, 5, 5]


def test_noise_depends_on_the_seed_alone() -> None:
    shape = (4, 8, 8)
    together = initial_noise([5, 6, 2**63 - 1], shape)
    assert torch.equal(together[1], initial_noise([6], shape)[0])
    assert not torch.equal(together[0], together[1])


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

    def predict(latents: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        kinds.add(latents.dtype)
        return (latents * 0.1).to(torch.bfloat16)

    latents = denoise(predict, scheduler, torch.randn(1, 4, 2, 2), told, [Guidance()], silent)
    assert latents.dtype is torch.float32
    assert kinds == {torch.float32}


def test_euler_is_refused_where_float32_can_not_carry_it() -> None:
    with pytest.raises(BadInput, match="euler is not exact"):
        make_scheduler({"rescale_betas_zero_snr": True}, "euler", 4)


@pytest.mark.parametrize(("sampler", "steps"), [("plms", 4), ("ddim", 0), ("ddim", 1001)])
def test_samplers_and_steps_that_can_not_be_made_are_refused(sampler: str, steps: int) -> None:
    with pytest.raises(BadInput, match="sampler" if sampler == "plms" else "steps"):
        make_scheduler({}, sampler, steps)
