"""The public families by their real configurations, with random weights and fewer channels: load, render, misfit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.pipeline import Pipeline
from tests.fakes import tiny_embedding
from tests.full_size import write_full_model

DIVIDE = 8  # of channels and widths; levels, layers, heads and everything else are the real ones
WIDTHS = {"sd15": 768, "sd21": 1024, "sdxl": 2048}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each family."""
    place = tmp_path_factory.mktemp("real")
    return {name: write_full_model(place / name, name, divide=DIVIDE) for name in WIDTHS}


@pytest.mark.parametrize("layout", WIDTHS)
def test_a_folder_of_the_real_configuration_loads_and_paints_two_people(folders: dict[str, Path], layout: str) -> None:
    pipeline = Pipeline.load(folders[layout], digest="", device="cpu", precision="float32")
    assert pipeline.mapper.text_width == WIDTHS[layout] // DIVIDE
    guidance = Guidance(w=3.0, c=0.6)
    item = RenderItem("a", "red", seed=1, width=64, height=64, steps=2, sampler="dpmpp_2m_karras", guidance=guidance)
    asked = [RenderRequest(item, tiny_embedding(person, 512)) for person in (1, 2)]
    together, _ = make_pictures(pipeline, asked, lambda step, steps: None)
    assert together.shape == (2, 64, 64, 3)
    assert np.isfinite(together).all()
    assert together.std() > 0.02, "not one flat colour"
    assert np.abs(together[0] - together[1]).max() > 0.01, "another person, another picture"
    for one, request in zip(together, asked, strict=True):
        alone, _ = make_pictures(pipeline, [request], lambda step, steps: None)
        assert np.abs(one - alone[0]).max() <= 1e-4


@pytest.mark.parametrize(
    ("layout", "part", "other", "said"),
    [
        ("sd15", "text_encoder", "sd21", r"cross_attention_dim is 96, the text encoder's width is 128"),
        ("sd21", "unet", "sd15", r"cross_attention_dim is 96, the text encoder's width is 128"),
        ("sdxl", "unet", "sd15", r"cross_attention_dim is 96, the text encoders' width 96 \+ 160 is 256"),
        ("sdxl", "text_encoder_2", "sd21:text_encoder", r"text_encoder_2"),
        ("sd15", "face0", "sdxl", r"mapper's output is 1024, 4 face tokens by the text's width 96 is 384"),
        ("sdxl", "tokenizer_2", "fewer", r"second tokenizer's vocabulary is 49407, the second text encoder's"),
    ],
)
def test_a_component_of_another_family_is_refused_with_both_names(
    folders: dict[str, Path], tmp_path: Path, layout: str, part: str, other: str, said: str
) -> None:
    mixed = Path(shutil.copytree(folders[layout], tmp_path / "mixed"))
    if other == "fewer":
        words = json.loads((mixed / part / "vocab.json").read_text())
        words.pop("<|unused7|>")
        numbered = {word: number for number, word in enumerate(words)}
        (mixed / part / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False))
    else:
        family, _, named = other.partition(":")
        shutil.rmtree(mixed / part)
        shutil.copytree(folders[family] / (named or part), mixed / part)
    with pytest.raises(BadInput, match=said):
        Pipeline.load(mixed, digest="", device="cpu", precision="float32")
