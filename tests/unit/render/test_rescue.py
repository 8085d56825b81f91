"""What half precision broke is made again in float32."""

from __future__ import annotations

import gc
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from face0_worker.contract.errors import ItemFailed
from face0_worker.models import digest_model
from face0_worker.render.batch import RenderRequest
from face0_worker.render.loading import load_component
from face0_worker.render.pipeline import Pipeline
from tests.fakes import tiny_embedding
from tests.unit.render.batches import ITEM, Spoiled, pixels_of, render, requests_of


class HalfBroken(Spoiled):
    """A denoiser that spoils one face in less than float32: with NaN, or with a value that decodes to black."""

    def __init__(self, real: torch.nn.Module, cursed: torch.Tensor, value: float) -> None:
        super().__init__(real)
        self.cursed, self.value = cursed, value

    def forward(self, latents: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, **more: Any) -> Any:
        out = super().forward(latents, timestep, encoder_hidden_states=encoder_hidden_states, **more)[0]
        if out.dtype != torch.float32:
            hit = (encoder_hidden_states[:, -3:].float() - self.cursed).abs().amax(dim=(1, 2)) < 0.1
            out[hit] = self.value
        return (out,)


@pytest.fixture
def half(tiny_folder: Path) -> Pipeline:
    """The tiny model in bfloat16, known by its true digest."""
    return Pipeline.load(tiny_folder, digest=digest_model(tiny_folder), device="cpu", precision="bfloat16")


def spoil(pipeline: Pipeline, person: int, value: float = torch.nan) -> None:
    """Make a pipeline break one person's pictures."""
    pipeline.unet = HalfBroken(pipeline.unet, pipeline.encode_faces([tiny_embedding(person)])[1], value)


def test_a_picture_that_half_precision_broke_is_made_again_in_float32_and_says_so(
    half: Pipeline, tiny: Pipeline
) -> None:
    exact = [RenderRequest(replace(ITEM, seed=n), tiny_embedding(n)) for n in (1, 2, 3)]
    (wanted,) = render(tiny, [exact[1]])
    asked = [replace(one, item=replace(one.item, precision="bfloat16")) for one in exact]
    plain = render(half, asked)
    spoil(half, person=2)
    made = render(half, asked)
    assert [one.error for one in made] == [None] * 3
    said = [(one.verdict.precision, one.verdict.rerendered) for one in made if one.verdict is not None]
    assert said == [("bfloat16", ""), ("float32", "not_a_number"), ("bfloat16", "")]
    assert np.array_equal(pixels_of(made[1]), pixels_of(wanted)), "the float32 picture, exactly"
    for index in (0, 2):
        assert np.array_equal(pixels_of(made[index]), pixels_of(plain[index]))
    assert next(half.unet.parameters()).dtype == torch.bfloat16
    assert half.precision == "bfloat16"


def test_made_again_in_float32_means_all_of_its_bits(half: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    decode, seen = Pipeline.decode, []

    def look(self: Pipeline, latents: torch.Tensor) -> np.ndarray:
        seen.append((self.precision, cudnn.allow_tf32, matmul.allow_tf32))
        return decode(self, latents)

    monkeypatch.setattr(Pipeline, "decode", look)
    spoil(half, person=1)
    render(half, requests_of(2, precision="bfloat16"))
    assert seen == [("bfloat16", True, False), ("float32", False, False)]
    assert cudnn.allow_tf32, "what the others run with is as it was"


def test_a_black_picture_is_made_again_and_a_dark_one_is_not(half: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, decoded = Pipeline.decode, []

    def dark(self: Pipeline, latents: torch.Tensor) -> np.ndarray:
        pictures = decode(self, latents)
        decoded.append(self.precision)
        if self.precision == "bfloat16":
            pictures[:] = 0.0
            pictures[1, :9, :9] = 0.2  # a person before a black wall
        return pictures

    monkeypatch.setattr(Pipeline, "decode", dark)
    made = render(half, requests_of(2, precision="bfloat16"))
    said = [(one.verdict.precision, one.verdict.rerendered) for one in made if one.verdict is not None]
    assert said == [("float32", "black"), ("bfloat16", "")]
    assert pixels_of(made[0]).max() > 50
    assert decoded == ["bfloat16", "float32"], "once, and that one alone"


def test_one_load_serves_all_broken_pictures_of_a_batch_and_is_let_go(
    half: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = load_component

    def counted(survey: Any, name: str, dtype: torch.dtype, **more: Any) -> Any:
        loads.append(name)
        module = load(survey, name, dtype, **more)
        weakref.finalize(module, loads.append, "gone")
        return module

    monkeypatch.setattr("face0_worker.render.rescue.load_component", counted)
    spoil(half, person=1)
    asked = [RenderRequest(replace(ITEM, seed=n, precision="bfloat16"), tiny_embedding(1)) for n in range(3)]
    assert [one.error for one in render(half, asked)] == [None] * 3
    gc.collect()
    # the VAE decodes in float32 already
    assert loads == ["unet", "gone"]


def test_what_is_broken_in_float32_too_ends_alone(half: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    cursed = half.encode_faces([tiny_embedding(2)])[1]
    load = load_component
    monkeypatch.setattr(
        "face0_worker.render.rescue.load_component",
        lambda *args, **more: Spoiled(
            load(*args, **more), breaks=lambda context: (context[:, -3:] - cursed).abs().amax(dim=(1, 2)) < 0.1
        ),
    )
    spoil(half, person=2)
    good, bad = (RenderRequest(replace(ITEM, precision="bfloat16"), tiny_embedding(person)) for person in (1, 2))
    first, second, third = render(half, [good, bad, good])
    assert isinstance(second.error, ItemFailed)
    assert "float32" in str(second.error)
    assert first.error is None
    assert third.error is None


def test_a_model_that_changed_on_disk_never_makes_the_second_picture(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    pipeline = Pipeline.load(folder, digest=digest_model(folder), device="cpu", precision="bfloat16")
    spoil(pipeline, person=1)
    (folder / "face0" / "face0.json").write_text((folder / "face0" / "face0.json").read_text() + " ")
    (made,) = render(pipeline, [RenderRequest(replace(ITEM, precision="bfloat16"), tiny_embedding(1))])
    assert isinstance(made.error, ItemFailed)
    assert "changed on disk" in str(made.error)
