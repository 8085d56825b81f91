"""Promise P10: the same item gives the same picture in whatever batch it is rendered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.sampler import SAMPLERS
from tests.adapters import with_face_id
from tests.fakes import tiny_embedding, write_tiny_model

MAX_DIFFERENCE = 1e-4  # of [0, 1], float32
MIN_PSNR_DB = 45.0  # CPU bfloat16
# a failure is told as it was found: to make it smaller would render hundreds of batches, until the time limit hides it
FEW = settings(
    max_examples=16,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
PREDICTION = {"sd1": "v_prediction", "sd2": "v_prediction", "sdxl": "epsilon"}
# the same with an IP-Adapter-FaceID in place of the mapper, where each row has to hear its own person's tokens
FACE_ID = {"sd2 faceid": "sd2", "sdxl faceid": "sdxl"}
KARRAS_REFUSED = ("sd1", "dpmpp_2m_karras")

intervals = st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.25, 0.75), (0.3, 1.0), (0.5, 0.6)])
# w, c, a: the paper's regimes, and what lies between
REGIMES = [(7.5, 1.0, 0.0), (3.0, 1.0, 0.0), (3.0, 0.4, 0.0), (3.0, 0.7, 0.0), (3.0, 1.4, 1.0)]
REGIMES += [(2.0, 0.5, 0.5), (3.0, 0.0, 0.0), (3.0, 0.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.6, 0.0)]
guidances = st.builds(
    lambda regime, interval: Guidance(*regime, *interval),
    st.sampled_from(REGIMES),
    intervals,
)
items = st.builds(
    RenderItem,
    sku=st.just("sku"),
    prompt=st.sampled_from(["", "red", "a blue thing", "red " * 90]),
    negative_prompt=st.sampled_from(["", "blue"]),
    seed=st.integers(0, 2**63 - 1),
    width=st.just(64),
    height=st.just(64),
    steps=st.just(4),
    guidance=guidances,
)
Pair = tuple[RenderItem, int | None]
people = st.one_of(st.none(), st.integers(0, 5))
batches = st.lists(st.tuples(items, people), min_size=2, max_size=5)
paddings = st.lists(st.tuples(items, people), max_size=3)
# Karras' spacing is refused for the one that is trained to pure noise
choices = st.sampled_from(
    [(kind, name) for kind in (*PREDICTION, *FACE_ID) for name in SAMPLERS if (kind, name) != KARRAS_REFUSED]
)
# each core computes its share of the rows, see cores.py
cores = st.sampled_from([1, 2])
Load = Callable[[str, str], Pipeline]


@pytest.fixture(scope="module", autouse=True)
def own_cores() -> Iterator[None]:
    """Let the tests say how many cores there are; elsewhere it is as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Tiny models by kind and precision, each loaded once."""
    folders: dict[str, Path] = {}
    loaded: dict[tuple[str, str], Pipeline] = {}

    def pipeline(kind: str, precision: str) -> Pipeline:
        if kind not in folders:
            place, base = tmp_path_factory.mktemp("model"), FACE_ID.get(kind, kind)
            folders[kind] = write_tiny_model(place / "base", kind=base, prediction_type=PREDICTION[base])
            if kind in FACE_ID:
                folders[kind] = with_face_id(folders[kind], place)
        if (kind, precision) not in loaded:
            loaded[kind, precision] = Pipeline.load(folders[kind], digest="", device="cpu", precision=precision)
        return loaded[kind, precision]

    return pipeline


def pictures(pipeline: Pipeline, batch: list[Pair], sampler: str, cores: int = 1) -> np.ndarray:
    """Render one batch on so many cores to floats (n, h, w, 3) in [0, 1]."""
    torch.set_num_threads(cores)
    dimension = pipeline.card.embedder_dim
    requests = [
        RenderRequest(replace(item, sampler=sampler), None if person is None else tiny_embedding(person, dimension))
        for item, person in batch
    ]
    return make_pictures(pipeline, requests, lambda step, steps: None)[0]


def tamed(batch: list[Pair], sampler: str) -> list[Pair]:
    """Return the batch with the strength that the sampler is made for: LCM's guidance is 1 to 2."""
    if sampler != "lcm":
        return batch
    return [
        (replace(item, guidance=replace(item.guidance, w=min(item.guidance.w, 2.0))), person) for item, person in batch
    ]


@FEW
@given(choice=choices, batch=batches, padding=paddings, cores=cores, data=st.data())
def test_in_float32_an_item_is_itself_alone_in_a_batch_in_any_order_beside_others_and_on_two_cores(
    load: Load, choice: tuple[str, str], batch: list[Pair], padding: list[Pair], cores: int, data: st.DataObject
) -> None:
    kind, sampler = choice
    pipeline, batch, padding = load(kind, "float32"), tamed(batch, sampler), tamed(padding, sampler)
    alone = np.concatenate([pictures(pipeline, [one], sampler) for one in batch])
    order = data.draw(st.permutations(range(len(batch))))
    before = data.draw(st.integers(0, len(padding)))
    shuffled = [batch[index] for index in order]
    together = pictures(pipeline, [*padding[:before], *shuffled, *padding[before:]], sampler, cores)
    assert np.abs(together[before : before + len(batch)] - alone[order]).max() <= MAX_DIFFERENCE


@settings(FEW, max_examples=6)
@given(choice=choices, batch=batches, cores=cores)
def test_in_bfloat16_a_batch_is_each_item_alone_to_45_db(
    load: Load, choice: tuple[str, str], batch: list[Pair], cores: int
) -> None:
    kind, sampler = choice
    pipeline, batch = load(kind, "bfloat16"), tamed(batch, sampler)
    together = pictures(pipeline, batch, sampler, cores)
    for index, one in enumerate(batch):
        error = float(np.square(together[index] - pictures(pipeline, [one], sampler)[0]).mean())
        assert -10 * np.log10(max(error, 1e-12)) >= MIN_PSNR_DB
