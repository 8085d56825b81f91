"""render_batch: every item ends on its own, whatever happens to its neighbours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from face0_worker.contract.errors import BadInput, ItemFailed, LeaseLost
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.render.batch import RenderRequest, render_batch
from face0_worker.render.pipeline import Pipeline
from tests.fakes import tiny_embedding
from tests.unit.render.batches import ITEM, Spoiled, pixels_of, plain_judge, render


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
