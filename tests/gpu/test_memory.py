"""What a GPU runs out of: memory, which halves a batch, and numbers, which send a picture through float32."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.render.batch import Rendered, RenderRequest, render_batch
from face0_worker.render.conditioning import Context
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.quality import judge
from tests.fakes import tiny_embedding, write_tiny_model
from tests.gpu.conftest import Bench

pytestmark = pytest.mark.gpu


def plain_judge(pixels: np.ndarray, embedding: np.ndarray | None) -> Verdict:
    """Judge without looking for faces."""
    return judge(pixels, 0, None)


def render(pipeline: Pipeline, requests: list[RenderRequest]) -> list[Rendered]:
    """Render with the plain gate and no listener."""
    return render_batch(pipeline, requests, judge=plain_judge, on_step=lambda step, steps: None)


def people(pipeline: Pipeline, count: int, side: int, steps: int) -> list[RenderRequest]:
    """Return requests that take two rows of the denoiser each."""
    item = RenderItem("sku", "red", width=side, height=side, steps=steps, guidance=Guidance(w=3.0))
    precision, dimension = pipeline.precision, pipeline.card.embedder_dim
    return [
        RenderRequest(replace(item, seed=n, precision=precision), tiny_embedding(n, dimension)) for n in range(count)
    ]


def pixels_of(rendered: Rendered) -> np.ndarray:
    """Return the pixels as integers that can be subtracted."""
    assert rendered.error is None
    assert rendered.pixels is not None
    return rendered.pixels.astype(np.int64)


def test_sd15_loads_and_renders_512_px_in_float16(bench: Bench, sd15: Path) -> None:
    bench.forget_peak()
    began = time.monotonic()
    pipeline = bench.load(sd15, "float16")
    bench.say("SD 1.5, float16: loading, with its digest the first time", time.monotonic() - began, "s")
    bench.say("SD 1.5, float16: loaded", bench.peak() / 2**20, "MiB")
    side, steps = bench.pick(512, 64), bench.pick(20, 2)
    for count in (1, bench.pick(8, 2)):
        render(pipeline, people(pipeline, count, side, 1))
        bench.forget_peak()
        began = time.monotonic()
        made = render(pipeline, people(pipeline, count, side, steps))
        took = time.monotonic() - began
        bench.say(f"SD 1.5, float16, 512 px, 20 steps: {count} at once", took / count, "s a picture")
        bench.say(f"SD 1.5, float16, 512 px: peak of {count} at once", bench.peak() / 2**20, "MiB")
        for one in made:
            assert pixels_of(one).shape == (side, side, 3)
            assert one.verdict is not None
            assert (one.verdict.precision, one.verdict.rerendered) == ("float16", "")
            assert one.verdict.contrast > 0.02


def test_a_batch_too_large_for_the_device_is_halved_and_the_size_that_fits_is_remembered(
    bench: Bench, sd15: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = bench.load(sd15, "float16")
    side = bench.pick(512, 64)
    requests, peaks = people(pipeline, 8, side, 2), []
    for count in (4, 8):
        # the first time, libraries try what is fastest, and hold memory for it
        render(pipeline, requests[:count])
        bench.forget_peak()
        wanted = render(pipeline, requests[:count])
        peaks.append(bench.peak())
    learned: list[tuple[int, int, int]] = []
    pipeline.limits.on_learned = lambda width, height, rows: learned.append((width, height, rows))
    calls: list[int] = []
    predict = pipeline.predict

    def counted(latents: torch.Tensor, timestep: torch.Tensor, context: Context) -> torch.Tensor:
        calls.append(len(latents))
        return predict(latents, timestep, context)

    monkeypatch.setattr(pipeline, "predict", counted)
    pipeline.release()
    with bench.only_room_for(sum(peaks) // 2, pipeline, rows=8):
        first = render(pipeline, requests)
        assert learned[0] == (side, side, 8)
        assert [one.error for one in first] == [None] * 8
        known = len(learned)
        calls.clear()
        again = render(pipeline, requests)
    # two steps of sixteen rows, none of them twice: nothing failed again
    assert set(calls) == {learned[-1][2]}
    assert sum(calls) == 2 * 16
    assert len(learned) == known
    bench.say(
        "memory: peak of 4 and of 8 at once",
        peaks[1] / peaks[0],
        "ratio",
        mib=[peak >> 20 for peak in peaks],
        rows=learned[-1][2],
    )
    for made in (first, again):
        for one, other in zip(made, wanted, strict=True):
            assert np.abs(pixels_of(one) - pixels_of(other)).mean() < 2, "the same person's picture"


def test_a_vae_that_overflows_in_float16_is_rescued_in_float32(bench: Bench, tmp_path: Path) -> None:
    place = write_tiny_model(tmp_path / "loud", prediction_type="epsilon")
    file = place / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    # as SDXL's: what flows through its blocks is larger than float16's 65504, and its last norm brings it back
    weights["decoder.conv_in.weight"] = weights["decoder.conv_in.weight"] * 1e5
    weights["decoder.conv_in.bias"] = weights["decoder.conv_in.bias"] * 1e5
    largest = max(float(weights[f"decoder.conv_in.{name}"].abs().max()) for name in ("weight", "bias"))
    assert largest < torch.finfo(torch.float16).max, "the weights themselves fit"
    save_file(weights, file, metadata={"format": "pt"})
    half, exact = bench.load(place, "float16"), bench.load(place, "float32")
    made = render(half, people(half, 3, 64, 3))
    wanted = render(exact, people(exact, 3, 64, 3))
    for one, other in zip(made, wanted, strict=True):
        assert one.verdict is not None
        assert (one.verdict.precision, one.verdict.rerendered) == ("float32", "not_a_number")
        assert np.abs(pixels_of(one) - pixels_of(other)).max() <= 1
    assert half.precision == "float16"
    bench.say("pictures rescued from an overflowing VAE", len(made), "pictures")
