"""render_batch: every item ends on its own, whatever happens to its neighbours."""

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

from face0_worker.contract.errors import BadInput, ItemFailed, LeaseLost, OutOfMemory
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.models import digest_model
from face0_worker.render.batch import Rendered, RenderRequest, render_batch
from face0_worker.render.loading import load_component
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.quality import judge
from tests.fakes import tiny_embedding

ITEM = RenderItem("sku", "red", seed=7, width=64, height=64, steps=3, guidance=Guidance(w=3.0))


def plain_judge(pixels: np.ndarray, embedding: np.ndarray | None) -> Verdict:
    """Judge without looking for faces."""
    return judge(pixels, 0, None)


def render(pipeline: Pipeline, requests: list[RenderRequest]) -> list[Rendered]:
    """Render with the plain gate and no listener."""
    return render_batch(pipeline, requests, judge=plain_judge, on_step=lambda step, steps: None)


def pixels_of(rendered: Rendered) -> np.ndarray:
    """Return the pixels as integers that can be subtracted."""
    assert rendered.error is None
    assert rendered.pixels is not None
    return rendered.pixels.astype(np.int64)


class Spoiled(torch.nn.Module):
    """A denoiser with a defect: no memory for more than `most` rows, or NaN for the rows that `breaks` names."""

    def __init__(self, real: torch.nn.Module, most: int = 10**6, breaks: Any = None) -> None:
        super().__init__()
        self.real, self.most, self.breaks = real, most, breaks
        self.config = real.config
        self.calls: list[int] = []

    def forward(self, latents: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, **more: Any) -> Any:
        self.calls.append(len(latents))
        if len(latents) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        out = self.real(latents, timestep, encoder_hidden_states, **more)[0].clone()
        if self.breaks is not None:
            out[self.breaks(encoder_hidden_states)] = torch.nan
        return (out,)


def test_one_result_per_request_in_order_with_pixels_and_verdict(tiny: Pipeline) -> None:
    made = render(tiny, [RenderRequest(replace(ITEM, seed=n), tiny_embedding(1)) for n in range(3)])
    alone = [render(tiny, [RenderRequest(replace(ITEM, seed=n), tiny_embedding(1))])[0] for n in range(3)]
    for one, other in zip(made, alone, strict=True):
        assert pixels_of(one).shape == (64, 64, 3)
        assert one.verdict is not None
        assert one.verdict.accepted
        assert np.abs(pixels_of(one) - pixels_of(other)).max() <= 1


def test_the_same_request_gives_the_same_bytes_again(tiny: Pipeline) -> None:
    request = RenderRequest(ITEM, tiny_embedding(1))
    assert np.array_equal(pixels_of(render(tiny, [request])[0]), pixels_of(render(tiny, [request])[0]))


def test_face_prompt_and_seed_each_change_the_picture(tiny: Pipeline) -> None:
    base = RenderRequest(ITEM, tiny_embedding(1))
    others = [
        RenderRequest(ITEM, tiny_embedding(2)),
        RenderRequest(ITEM, None),
        RenderRequest(replace(ITEM, prompt="blue"), base.embedding),
        RenderRequest(replace(ITEM, negative_prompt="blue"), base.embedding),
        RenderRequest(replace(ITEM, seed=8), base.embedding),
    ]
    first, *rest = render(tiny, [base, *others])
    for changed in rest:
        assert np.abs(pixels_of(changed) - pixels_of(first)).mean() > 1


def test_two_people_in_one_batch_do_not_leak_into_each_other(tiny: Pipeline) -> None:
    requests = [RenderRequest(ITEM, tiny_embedding(person)) for person in (1, 2)]
    together = render(tiny, requests)
    for one, request in zip(together, requests, strict=True):
        assert np.abs(pixels_of(one) - pixels_of(render(tiny, [request])[0])).max() <= 1
    assert np.abs(pixels_of(together[0]) - pixels_of(together[1])).mean() > 1


def test_sizes_steps_and_samplers_may_mix_in_one_call(tiny: Pipeline) -> None:
    items = [ITEM, replace(ITEM, width=96), replace(ITEM, steps=2), replace(ITEM, sampler="dpmpp_2m")]
    made = render(tiny, [RenderRequest(item, None) for item in items])
    assert [pixels_of(one).shape for one in made] == [(64, 64, 3), (64, 96, 3), (64, 64, 3), (64, 64, 3)]
    assert not np.array_equal(pixels_of(made[0]), pixels_of(made[3]))


@pytest.mark.parametrize("guidance", [Guidance(w=3.0), Guidance(w=3.0, stop=0.5), Guidance(w=1.0)])
def test_a_face_takes_no_evaluation_that_the_same_item_without_one_does_not(tiny: Pipeline, guidance: Guidance) -> None:
    asked = []
    for embedding in (tiny_embedding(1), None):
        before = replace(tiny.denoiser.tally)
        render(tiny, [RenderRequest(replace(ITEM, guidance=guidance), embedding)])
        asked.append(tiny.denoiser.tally.since(before))
    assert asked[0] == asked[1]


def test_no_requests_give_no_results(tiny: Pipeline) -> None:
    assert render(tiny, []) == []


@pytest.mark.parametrize(
    ("item", "embedding", "said"),
    [
        (replace(ITEM, precision="bfloat16"), None, "bfloat16"),
        (replace(ITEM, sampler="plms"), None, "plms"),
        (replace(ITEM, steps=0), None, "steps"),
        (replace(ITEM, width=63), None, "width"),
        (replace(ITEM, seed=2**63), None, "seed"),
        (replace(ITEM, guidance=Guidance(start=1.0)), None, "interval"),
        (ITEM, np.zeros(64, np.float32), "shape"),
        (ITEM, np.full(128, np.nan, np.float32), "not a number"),
    ],
)
def test_an_item_that_can_not_be_made_is_refused_alone(
    tiny: Pipeline, item: RenderItem, embedding: np.ndarray | None, said: str
) -> None:
    good = RenderRequest(ITEM, tiny_embedding(1))
    before, refused, after = render(tiny, [good, RenderRequest(item, embedding), good])
    assert isinstance(refused.error, BadInput)
    assert said in str(refused.error)
    assert refused.pixels is None
    assert np.array_equal(pixels_of(before), pixels_of(after))


def test_a_batch_too_large_for_memory_is_halved_and_finishes(tiny: Pipeline) -> None:
    requests = [RenderRequest(replace(ITEM, seed=n), tiny_embedding(n)) for n in range(5)]
    wanted = render(tiny, requests)
    tiny.unet = Spoiled(tiny.unet, most=4)
    made = render(tiny, requests)
    for one, other in zip(made, wanted, strict=True):
        assert np.abs(pixels_of(one) - pixels_of(other)).max() <= 1
    assert tiny.unet.calls[0] == 10


def test_an_item_too_large_for_memory_alone_says_so_and_may_be_tried_again(tiny: Pipeline) -> None:
    tiny.unet = Spoiled(tiny.unet, most=2)
    hungry = RenderRequest(replace(ITEM, guidance=Guidance(c=0.5)), None)
    good = RenderRequest(ITEM, None)
    first, second, third = render(tiny, [good, hungry, good])
    assert isinstance(second.error, OutOfMemory)
    assert second.error.retryable
    assert np.array_equal(pixels_of(first), pixels_of(third))


def test_an_item_that_becomes_not_a_number_ends_alone(tiny: Pipeline) -> None:
    good, bad = RenderRequest(ITEM, tiny_embedding(1)), RenderRequest(replace(ITEM, prompt="blue"), tiny_embedding(2))
    wanted = pixels_of(render(tiny, [good])[0])
    cursed = tiny.encode_faces([tiny_embedding(2)])[1]
    tiny.unet = Spoiled(tiny.unet, breaks=lambda context: (context[:, -3:] == cursed).all(dim=(1, 2)))
    first, second, third = render(tiny, [good, bad, good])
    assert isinstance(second.error, ItemFailed)
    assert "not-a-number" in str(second.error)
    assert second.pixels is None
    for one in (first, third):
        assert np.abs(pixels_of(one) - wanted).max() <= 1


def test_a_gate_that_fails_on_one_picture_leaves_the_others(tiny: Pipeline) -> None:
    seen: list[int] = []

    def fails_second(pixels: np.ndarray, embedding: np.ndarray | None) -> Verdict:
        seen.append(len(seen))
        if seen[-1] == 1:
            raise ValueError("a detector broke")
        return plain_judge(pixels, embedding)

    requests = [RenderRequest(replace(ITEM, seed=n), None) for n in range(3)]
    made = render_batch(tiny, requests, judge=fails_second, on_step=lambda step, steps: None)
    assert [one.error is None for one in made] == [True, False, True]
    assert isinstance(made[1].error, ItemFailed)


def test_a_rejected_picture_keeps_its_pixels_and_its_reason(tiny: Pipeline) -> None:
    def reject(pixels: np.ndarray, embedding: np.ndarray | None) -> Verdict:
        return replace(plain_judge(pixels, embedding), accepted=False, reason="black")

    (made,) = render_batch(tiny, [RenderRequest(ITEM, None)], judge=reject, on_step=lambda step, steps: None)
    assert made.pixels is not None
    assert made.verdict is not None
    assert (made.verdict.accepted, made.error) == (False, None)


def test_a_lost_lease_ends_the_batch_at_once(tiny: Pipeline) -> None:
    def lose(step: int, steps: int) -> None:
        raise LeaseLost("the attempt was given to another worker")

    with pytest.raises(LeaseLost):
        render_batch(tiny, [RenderRequest(ITEM, None)] * 2, judge=plain_judge, on_step=lose)


def test_a_prompt_that_was_cut_is_flagged(tiny: Pipeline) -> None:
    made = render(tiny, [RenderRequest(replace(ITEM, prompt=text), None) for text in ("red", "red " * 90)])
    assert [one.truncated for one in made] == [False, True]
    # the verdict goes into the signed receipt
    assert [one.verdict is not None and one.verdict.truncated for one in made] == [False, True]


def test_the_gate_sees_the_pixels_and_the_persons_embedding(tiny: Pipeline) -> None:
    seen: list[tuple[np.ndarray, np.ndarray | None]] = []

    def look(pixels: np.ndarray, embedding: np.ndarray | None) -> Verdict:
        seen.append((pixels, embedding))
        return plain_judge(pixels, embedding)

    face = tiny_embedding(1)
    made = render_batch(
        tiny, [RenderRequest(ITEM, face), RenderRequest(ITEM, None)], judge=look, on_step=lambda step, steps: None
    )
    assert [embedding is face for _, embedding in seen] == [True, False]
    assert all(np.array_equal(pixels_of(one), pixels) for one, (pixels, _) in zip(made, seen, strict=True))


def requests_of(count: int, **changes: Any) -> list[RenderRequest]:
    """Return requests that take two rows of the denoiser each."""
    return [RenderRequest(replace(ITEM, seed=n, **changes), tiny_embedding(n)) for n in range(count)]


def test_the_size_that_fitted_is_remembered_and_the_next_batch_starts_there(tiny: Pipeline) -> None:
    learned: list[tuple[int, int, int]] = []
    tiny.limits.on_learned = lambda width, height, rows: learned.append((width, height, rows))
    tiny.unet = Spoiled(tiny.unet, most=4)
    made = render(tiny, requests_of(8))
    assert all(one.error is None for one in made)
    assert learned == [(64, 64, 8), (64, 64, 4)]
    tiny.unet.calls.clear()
    made = render(tiny, requests_of(8))
    assert all(one.error is None for one in made)
    assert set(tiny.unet.calls) == {4}, "nothing failed again"
    assert len(learned) == 2, "and nothing is told twice"


def test_a_limit_counts_rows_and_belongs_to_one_size(tiny: Pipeline) -> None:
    tiny.limits.did_not_fit((64, 64), 6)
    spy = Spoiled(tiny.unet)
    tiny.unet = spy
    # three rows each: two at once
    assert all(one.error is None for one in render(tiny, requests_of(4, guidance=Guidance(w=3, c=0.5, a=0.0))))
    assert set(spy.calls) == {6}
    spy.calls.clear()
    assert all(one.error is None for one in render(tiny, requests_of(4, width=96)))
    assert set(spy.calls) == {8}


def test_an_item_larger_than_the_limit_still_gets_its_try(tiny: Pipeline) -> None:
    tiny.limits.did_not_fit((64, 64), 1)
    assert [one.error for one in render(tiny, requests_of(2))] == [None, None]


def test_after_many_good_batches_a_larger_one_is_tried_once(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("face0_worker.render.limits.GROW_AFTER", 5)
    learned: list[int] = []
    tiny.limits.on_learned = lambda width, height, rows: learned.append(rows)
    spy = Spoiled(tiny.unet, most=2)
    tiny.unet = spy
    tiny.limits.did_not_fit((64, 64), 2)
    few = requests_of(8, steps=1)
    assert all(one.error is None for one in render(tiny, few))
    assert spy.calls.count(4) == 1
    assert tiny.limits.most((64, 64)) == 2
    assert learned == [2], "a vain try is no news"
    spy.most, spy.calls[:] = 10**6, []
    assert all(one.error is None for one in render(tiny, few))
    assert tiny.limits.most((64, 64)) == 4, "what had taken the memory is gone"


def test_a_failure_that_is_not_of_memory_limits_nothing(tiny: Pipeline) -> None:
    class Breaks(Spoiled):
        def forward(self, latents: torch.Tensor, *more: Any, **named: Any) -> Any:
            if len(latents) > 4:
                raise RuntimeError("cuDNN had a bad day")
            return super().forward(latents, *more, **named)

    tiny.unet = Breaks(tiny.unet)
    assert [one.error for one in render(tiny, requests_of(4))] == [None] * 4
    assert tiny.limits.most((64, 64)) is None


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
