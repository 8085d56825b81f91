"""Promise P10: the same item gives the same picture in whatever batch it is rendered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.pipeline import Pipeline
from tests.fakes import tiny_embedding, write_tiny_model

MAX_DIFFERENCE = 1e-4  # of [0, 1], float32
MIN_PSNR_DB = 45.0  # CPU bfloat16
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])

guidances = st.sampled_from(
    [
        Guidance(w=3.0, c=1.0),
        Guidance(w=7.5, c=1.0),
        Guidance(w=3.0, c=0.6, a=0.0),
        Guidance(w=3.0, c=1.4, a=1.0),
        Guidance(w=2.0, c=0.5, a=0.5, start=0.3, stop=0.8),
        Guidance(w=1.0),
    ]
)
items = st.builds(
    RenderItem,
    sku=st.just("sku"),
    prompt=st.sampled_from(["", "red", "a blue thing", "red " * 90]),
    negative_prompt=st.sampled_from(["", "blue"]),
    seed=st.integers(0, 2**63 - 1),
    width=st.just(64),
    height=st.just(64),
    steps=st.just(3),
    guidance=guidances,
)
Pair = tuple[RenderItem, int | None]
people = st.one_of(st.none(), st.integers(0, 5))
batches = st.lists(st.tuples(items, people), min_size=2, max_size=6)
samplers = st.sampled_from(["ddim", "dpmpp_2m"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def float32(folder: Path) -> Pipeline:
    """The tiny model in float32."""
    return Pipeline.load(folder, digest="", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def bfloat16(folder: Path) -> Pipeline:
    """The tiny model in bfloat16."""
    return Pipeline.load(folder, digest="", device="cpu", precision="bfloat16")


def pictures(pipeline: Pipeline, batch: list[Pair], sampler: str) -> np.ndarray:
    """Render one batch to floats (n, h, w, 3) in [0, 1]."""
    requests = [
        RenderRequest(
            RenderItem(**{**vars(item), "sampler": sampler}), None if person is None else tiny_embedding(person)
        )
        for item, person in batch
    ]
    return make_pictures(pipeline, requests, lambda step, steps: None)[0]


@FEW
@given(batch=batches, sampler=samplers, data=st.data())
def test_in_float32_a_batch_equals_each_item_alone_and_any_order(
    float32: Pipeline, batch: list[Pair], sampler: str, data: st.DataObject
) -> None:
    together = pictures(float32, batch, sampler)
    for index, one in enumerate(batch):
        alone = pictures(float32, [one], sampler)[0]
        assert np.abs(together[index] - alone).max() <= MAX_DIFFERENCE
    order = data.draw(st.permutations(range(len(batch))))
    shuffled = pictures(float32, [batch[index] for index in order], sampler)
    assert np.abs(shuffled - together[order]).max() <= MAX_DIFFERENCE


@FEW
@given(batch=batches)
def test_in_float32_euler_keeps_it_too(tmp_path_factory: pytest.TempPathFactory, batch: list[Pair]) -> None:
    folder = tmp_path_factory.mktemp("epsilon")
    pipeline = Pipeline.load(
        write_tiny_model(folder, prediction_type="epsilon"), digest="", device="cpu", precision="float32"
    )
    together = pictures(pipeline, batch, "euler")
    for index, one in enumerate(batch):
        assert np.abs(together[index] - pictures(pipeline, [one], "euler")[0]).max() <= MAX_DIFFERENCE


@FEW
@given(batch=batches, sampler=samplers)
def test_in_bfloat16_a_batch_is_each_item_alone_to_45_db(bfloat16: Pipeline, batch: list[Pair], sampler: str) -> None:
    together = pictures(bfloat16, batch, sampler)
    for index, one in enumerate(batch):
        error = float(np.square(together[index] - pictures(bfloat16, [one], sampler)[0]).mean())
        assert -10 * np.log10(max(error, 1e-12)) >= MIN_PSNR_DB
