"""A single file in the original layout: the same model as its diffusers folder, loaded without asking anybody."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.contract.job import RenderItem
from face0_worker.models import LAYOUTS, digest_model
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.clip_words import write_clip_tokenizer
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.single_file import survey_single
from tests.fakes import tiny_embedding, write_tiny_model
from tests.originals import with_clip_words, write_single_file

ITEM = RenderItem("sku", "a red hat", negative_prompt="blue", seed=7, width=64, height=64, steps=2)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD 1.x model folder with CLIP's whole vocabulary."""
    return with_clip_words(write_tiny_model(tmp_path_factory.mktemp("sd1")))


@pytest.fixture
def single(sd1: Path, tmp_path: Path) -> Path:
    """The same model as one file."""
    return write_single_file(sd1, tmp_path / "portrait.safetensors")


def load(place: Path) -> Pipeline:
    """Load on the CPU in float32."""
    return Pipeline.load(place, digest=digest_model(place), device="cpu", precision="float32")


def picture(pipeline: Pipeline) -> np.ndarray:
    """Render one picture of one person."""
    return make_pictures(pipeline, [RenderRequest(ITEM, tiny_embedding(1))], lambda step, steps: None)[0]


def change(file: Path, **weights: Any) -> None:
    """Replace or (None) drop weights of a single file."""
    held = load_file(file)
    for name, value in weights.items():
        held.pop(name, None)
        if value is not None:
            held[name] = value
    save_file(held, file)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_a_single_file_paints_what_its_folder_paints_and_asks_nobody(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_clip_words(write_tiny_model(tmp_path / "folder", kind=kind))
    file = write_single_file(folder, tmp_path / "portrait.safetensors")

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("somebody was asked over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert np.array_equal(picture(load(file)), picture(load(folder)))


def test_the_digest_is_of_the_file_and_of_the_mapper_beside_it(single: Path, tmp_path: Path) -> None:
    digest = digest_model(single)
    moved = tmp_path / "elsewhere" / "other.safetensors"
    moved.parent.mkdir()
    shutil.copyfile(single, moved)
    shutil.copytree(single.with_suffix(".face0"), moved.with_suffix(".face0"))
    assert digest_model(moved) == digest
    card = moved.with_suffix(".face0") / "face0.json"
    card.write_text(card.read_text() + " ")
    assert digest_model(moved) != digest
    shutil.copyfile(single.with_suffix(".face0") / "face0.json", card)
    assert digest_model(moved) == digest
    change(moved, **{"model.diffusion_model.out.2.bias": torch.ones(4)})
    assert digest_model(moved) != digest


def test_a_file_without_a_mapper_beside_it_says_so(single: Path) -> None:
    shutil.rmtree(single.with_suffix(".face0"))
    with pytest.raises(ModelMissing, match="no face mapper"):
        load(single)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(16, 9, 3, 3)}, "inpainting"),
        ({"lora_unet_down.lora_up.weight": torch.zeros(1)}, "LoRA"),
        ({"down_blocks.0.x": torch.zeros(1)}, "one component"),
    ],
)
def test_files_that_are_no_whole_base_model_are_told_apart(single: Path, weights: dict[str, Any], said: str) -> None:
    change(single, **weights)
    with pytest.raises(BadInput, match=said):
        load(single)


@pytest.mark.parametrize("part", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
def test_a_file_without_one_of_its_parts_names_it(single: Path, part: str) -> None:
    change(single, **{name: None for name in load_file(single) if name.startswith(part)})
    with pytest.raises(BadInput, match="no whole Stable Diffusion model"):
        load(single)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.middle_block.0.in_layers.2.weight",
        "first_stage_model.decoder.conv_out.bias",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    ],
)
def test_a_weight_that_the_file_lacks_is_never_made_up(single: Path, name: str) -> None:
    change(single, **{name: None})
    with pytest.raises((ModelMissing, BadInput), match=r"is not whole|lacks a weight"):
        load(single)


def test_a_file_of_another_size_than_its_layout_is_refused_with_the_way_out(single: Path) -> None:
    shutil.rmtree(single.with_suffix(".face0") / "layout")
    mapper = single.with_suffix(".face0") / "mapper.safetensors"
    held = load_file(mapper)
    held["layers.3.weight"], held["layers.3.bias"] = torch.zeros(3 * 768, 32), torch.zeros(3 * 768)
    save_file(held, mapper)
    with pytest.raises(BadInput, match=r"not built as the layout .*sd15 .*--layout"):
        load(single)


def test_an_sd2_file_has_to_say_what_it_predicts(tmp_path: Path) -> None:
    folder = with_clip_words(write_tiny_model(tmp_path / "folder", kind="sd2"))
    file = write_single_file(folder, tmp_path / "sd2.safetensors")
    beside = file.with_suffix(".face0")
    shutil.rmtree(beside / "layout")
    with pytest.raises(BadInput, match="sd21_base"):
        survey_single(file)
    assert survey_single(file, "sd21").configs["scheduler"]["prediction_type"] == "v_prediction"
    card = json.loads((beside / "face0.json").read_text())
    (beside / "face0.json").write_text(json.dumps({**card, "layout": "sd21_base"}))
    assert survey_single(file).configs["scheduler"]["prediction_type"] == "epsilon"
    (beside / "face0.json").write_text(json.dumps({**card, "layout": str(tmp_path)}))
    with pytest.raises(BadInput, match="none of those that ship"):
        survey_single(file)


def test_a_file_that_says_its_prediction_is_believed_and_never_contradicted(single: Path) -> None:
    shutil.rmtree(single.with_suffix(".face0") / "layout")
    assert survey_single(single).configs["scheduler"]["prediction_type"] == "epsilon"
    save_file(load_file(single), single, metadata={"modelspec.prediction_type": "v"})
    assert survey_single(single).configs["scheduler"]["prediction_type"] == "v_prediction"
    with pytest.raises(BadInput, match="predicts v_prediction, the layout epsilon"):
        survey_single(single, "sd15")


def test_clips_whole_vocabulary_is_rebuilt(tmp_path: Path) -> None:
    write_clip_tokenizer(tmp_path, pad="!")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert len(tokenizer) == 49408
    # as OpenAI's own tokenizer says
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.pad_token_id == 0


@pytest.mark.parametrize(
    ("layout", "unet", "text"),
    [
        ("sd15", 859_520_964, [123_060_480]),
        ("sd21", 865_910_724, [340_387_840]),
        ("sd21_base", 865_910_724, [340_387_840]),
        ("sdxl", 2_567_463_684, [123_060_480, 694_659_840]),
    ],
)
def test_the_layouts_have_as_many_parameters_as_the_public_models(layout: str, unet: int, text: list[int]) -> None:
    def config(part: str) -> dict[str, Any]:
        return dict(json.loads((LAYOUTS / layout / part / "config.json").read_text()))

    def count(module: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    with init_empty_weights():
        assert count(UNet2DConditionModel.from_config(config("unet"))) == unet
        assert count(AutoencoderKL.from_config(config("vae"))) == 83_653_863
        encoders = sorted(path.parent.name for path in (LAYOUTS / layout).glob("text_encoder*/config.json"))
        for encoder, wanted in zip(encoders, text, strict=True):
            model = CLIPTextModelWithProjection(CLIPTextConfig(**config(encoder)))
            projection = 0 if encoder.endswith("_2") else model.text_projection.weight.numel()
            assert count(model) - projection == wanted


@pytest.mark.parametrize("lacking", ["vae/config.json", "scheduler/scheduler_config.json"])
def test_a_layout_that_lacks_a_config_names_it(single: Path, lacking: str) -> None:
    (single.with_suffix(".face0") / "layout" / lacking).unlink()
    with pytest.raises(ModelMissing, match=lacking):
        load(single)


def test_a_layout_brings_no_code_either(single: Path) -> None:
    config = single.with_suffix(".face0") / "layout" / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "mine.Model"}}))
    with pytest.raises(BadInput, match="auto_map"):
        load(single)
