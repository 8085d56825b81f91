"""Loading a model folder: exact, small in memory, offline, and safe with folders that others made."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from face0_worker.contract.errors import BadInput, Face0Error, ModelMissing
from face0_worker.render.adapters import add_lora
from face0_worker.render.loading import read_parts, survey_model
from face0_worker.render.weight_files import read_header
from tests.adapters import write_lora
from tests.benchmarks.loading_memory import measure, write_large_model
from tests.fakes import write_tiny_model

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL."""
    return write_tiny_model(tmp_path_factory.mktemp("xl"), kind="sdxl")


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def copied_xl(tiny_xl: Path, tmp_path: Path) -> Path:
    """A copy of the tiny SDXL that a test may spoil."""
    return Path(shutil.copytree(tiny_xl, tmp_path / "xl"))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load all parts in one precision."""
    return read_parts(folder, dtype, dtype)


def edit_json(path: Path, **changes: Any) -> None:
    """Change some fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change a safetensors file in place."""
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Both modules have the same weights, bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_every_weight_is_the_one_that_the_libraries_would_load(tiny_xl: Path) -> None:
    parts = load(tiny_xl, torch.bfloat16)
    for part, kind, dtype in (
        ("unet", diffusers.UNet2DConditionModel, torch.bfloat16),
        ("vae", diffusers.AutoencoderKL, torch.bfloat16),
        ("text_encoder", transformers.CLIPTextModel, torch.float32),
        ("text_encoder_2", transformers.CLIPTextModelWithProjection, torch.float32),
    ):
        assert_same(getattr(parts, part), kind.from_pretrained(tiny_xl / part, torch_dtype=dtype))
        buffers = [buffer for _, buffer in getattr(parts, part).named_buffers()]
        assert not any(buffer.is_meta for buffer in buffers)
    assert not parts.unet.training
    assert not any(weight.requires_grad for weight in parts.unet.parameters())


def test_loading_asks_nobody(tiny_xl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("somebody was asked over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load(tiny_xl)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_the_peak_of_loading_is_little_more_than_the_weights(tiny_folder: Path, tmp_path: Path) -> None:
    # cast while it loads, a LoRA added to each weight alone: the larger original must never be whole in memory
    large = write_large_model(tmp_path / "base", width=64)
    add_lora(large, write_lora(tmp_path / "lora.safetensors", large, "kohya"), tmp_path / "large", changes={})
    found = measure(tiny_folder, tmp_path / "large", "bfloat16")
    assert found["weights"] > 60e6
    # a larger model stays under 1.2, see docs/models.md; the largest single tensor weighs more here
    assert found["peak"] < 1.35 * found["weights"]


def test_old_names_and_shards_and_variants_load_the_same(copied: Path, tiny_xl: Path) -> None:
    wanted = load(copied)
    text = load_file(copied / TEXT)
    wrapped = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}
    wrapped["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(wrapped, copied / TEXT)
    unet = load_file(copied / UNET)
    names = sorted(unet)
    (copied / UNET).unlink()
    shards = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for shard, held in shards.items():
        save_file({name: unet[name] for name in held}, copied / "unet" / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (copied / f"{UNET}.index.json").write_text(json.dumps(index))
    (copied / VAE).rename(copied / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    found = load(copied)
    for part in ("unet", "vae", "text_encoder"):
        assert_same(getattr(found, part), getattr(wanted, part))


def test_a_vae_of_early_diffusers_loads_with_its_attention(copied: Path) -> None:
    config = json.loads((copied / "vae" / "config.json").read_text())
    vae = diffusers.AutoencoderKL.from_config({**config, "mid_block_add_attention": True})
    vae.save_pretrained(copied / "vae")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if "attentions.0.to_" in name]:
            new = next(new for new in old if f".{new}." in name)
            weights[name.replace(f".{new}.", f".{old[new]}.")] = weights.pop(name)

    edit_weights(copied / VAE, rename)
    assert_same(load(copied).vae, vae)


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": os.getcwd}, protocol=2))


def _zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(os.getcwd))


def _polyglot(path: Path) -> None:
    hidden = path.with_name("hidden.zip")
    _zipped(hidden)
    path.write_bytes(path.read_bytes() + hidden.read_bytes())
    hidden.unlink()


def _longer_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])


def _overlapping(path: Path) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    first, second = [name for name in header if name != "__metadata__"][:2]
    header[second] = header[first]
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + length :])


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (_pickled, BadInput, "is a pickle"),
        (_zipped, BadInput, "zip archive"),
        (_polyglot, ModelMissing, "longer than its weights"),
        (_longer_header, ModelMissing, "no safetensors file"),
        (_overlapping, ModelMissing, "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), ModelMissing, "cut short"),
        (lambda path: path.write_bytes(b""), ModelMissing, "cut short"),
    ],
)
@pytest.mark.parametrize("name", [UNET, TEXT, "face0/mapper.safetensors"])
def test_what_only_looks_like_safetensors_is_refused_by_its_first_bytes_or_size(
    copied: Path, name: str, spoil: Callable[[Path], None], kind: type[Face0Error], said: str
) -> None:
    spoil(copied / name)
    with pytest.raises(kind, match=said) as raised:
        load(copied)
    assert name in str(raised.value)


@pytest.mark.parametrize("length", [0x0280, 0x10280, 0x0480])
def test_a_header_whose_length_looks_like_a_pickle_is_no_pickle(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length).encode()
    path.write_bytes(struct.pack("<Q", length) + header + struct.pack("<f", 1.0))
    assert read_header(path).tensors["w"].shape == (1,)


@pytest.mark.parametrize("name", [UNET, VAE, TEXT, "face0/mapper.safetensors"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_numbers_are_found_before_they_paint(copied: Path, name: str, value: float) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights[max(weights)].view(-1)[-1] = value

    edit_weights(copied / name, spoil)
    with pytest.raises(ModelMissing, match="not numbers"):
        load(copied)


def test_a_weight_too_large_for_half_precision_says_what_to_take(copied: Path) -> None:
    edit_weights(copied / UNET, lambda weights: weights["conv_in.bias"].view(-1)[:1].fill_(1e6))
    with pytest.raises(BadInput, match=r"conv_in.bias holds a value too large for float16; use bfloat16"):
        load(copied, torch.float16)
    load(copied, torch.bfloat16)


@pytest.mark.parametrize(("name", "part"), [(UNET, "unet"), (VAE, "vae"), (TEXT, "text_encoder")])
def test_missing_strange_and_misshapen_weights_each_get_a_sentence(copied: Path, name: str, part: str) -> None:
    whole = (copied / name).read_bytes()
    first = min(load_file(copied / name))
    edit_weights(copied / name, lambda weights: weights.update({"adapter.weight": torch.zeros(2)}))
    with pytest.raises(BadInput, match=rf"{part} in model .* holds adapter.weight"):
        load(copied)
    (copied / name).write_bytes(whole)
    edit_weights(copied / name, lambda weights: weights.update({first: torch.zeros(3, 5)}))
    with pytest.raises(BadInput, match=rf"{part} in model .* is \(3, 5\), its config asks for"):
        load(copied)
    (copied / name).write_bytes(whole)
    edit_weights(copied / name, lambda weights: weights.pop(first))
    with pytest.raises(ModelMissing, match=rf"{part} in model .* is missing"):
        load(copied)


def test_links_that_leave_the_folder_are_refused_and_links_within_are_not(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.safetensors").write_bytes((copied / UNET).read_bytes())
    (copied / UNET).rename(copied / "unet" / "real.safetensors")
    (copied / UNET).symlink_to("real.safetensors")
    load(copied)
    (copied / UNET).unlink()
    (copied / UNET).symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(BadInput, match="link"):
        load(copied)


def test_a_linked_component_folder_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "unet").rename(tmp_path / "unet")
    (copied / "unet").symlink_to(tmp_path / "unet")
    with pytest.raises(BadInput, match=r"unet is a link"):
        load(copied)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("model_index.json", {"_class_name": "PlainBackdoorPipeline"}, "PlainBackdoorPipeline"),
        ("model_index.json", {"_class_name": ["pipeline", "Mine"]}, "Mine"),
        ("model_index.json", {"unet": ["my_unet", "UNet2DConditionModel"]}, "my_unet"),
        ("model_index.json", {"scheduler": ["my_schedule", "DDIMScheduler"]}, "my_schedule"),
        ("model_index.json", {"tokenizer": ["diffusers", "CLIPTokenizer"]}, "diffusers"),
        ("model_index.json", {"extra": ["mine", "Thing"]}, "extra"),
        ("unet/config.json", {"_class_name": "UNetMine"}, "UNetMine"),
        ("text_encoder/config.json", {"architectures": ["MineModel"]}, "MineModel"),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "mine.Model"}}, "auto_map"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["mine.T", None]}}, "auto_map"),
        ("scheduler/scheduler_config.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("unet/config.json", {"block_out_channels": "many"}, "makes no sense"),
        ("vae/config.json", {"block_out_channels": 4}, "makes no sense"),
        ("text_encoder/config.json", {"hidden_size": "wide"}, "makes no sense"),
        ("text_encoder/config.json", {"architectures": {"a": 1}}, "CLIPTextModel is needed"),
    ],
)
def test_code_of_the_models_own_is_refused(copied: Path, file: str, changes: dict[str, Any], said: str) -> None:
    edit_json(copied / file, **changes)
    with pytest.raises(BadInput, match=said):
        load(copied)


@pytest.mark.parametrize("name", ["unet/my_unet.py", "pipeline.py", "unet/fast.so"])
def test_a_folder_with_programs_in_it_is_refused(copied: Path, name: str) -> None:
    (copied / name).write_bytes(b"")
    with pytest.raises(BadInput, match="program code"):
        load(copied)


def test_a_safety_checker_is_left_alone_with_a_note(copied: Path) -> None:
    edit_json(copied / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    load(copied)
    assert survey_model(copied).notes == ("safety_checker is there and is not used",)


def test_a_plain_diffusers_folder_is_told_that_it_has_no_mapper(copied: Path) -> None:
    shutil.rmtree(copied / "face0")
    with pytest.raises(ModelMissing, match=r"no face mapper .* plain Stable Diffusion .* trained"):
        load(copied)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("unet", {"cross_attention_dim": 40}, r"cross_attention_dim is 40, the text encoders' width 32 \+ 48 is 80"),
        ("text_encoder_2", {"projection_dim": 30}, r"input_dim is 72, 6 sizes of 8 and .* projection of 30, .* 78"),
        ("unet", {"addition_time_embed_dim": 4}, r"input_dim is 72, 6 sizes of 4 .* 48"),
        ("unet", {"addition_embed_type": None}, r"addition_embed_type is None, .* two text encoders .* text_time"),
        ("text_encoder_2", {"max_position_embeddings": 64}, r"positions?_embeddings is 77, the second .* 64"),
        ("vae", {"latent_channels": 8}, r"in_channels is 4, the VAE's latent_channels is 8"),
    ],
)
def test_each_misfit_of_sdxl_names_both_sides(copied_xl: Path, file: str, changes: dict[str, Any], said: str) -> None:
    edit_json(copied_xl / file / "config.json", **changes)
    with pytest.raises(BadInput, match=said):
        load(copied_xl)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embedder": {"digest": "0", "dimension": 512}}, r"mapper's input is 128, .* embedder dimension is 512"),
        ({"tokens": 4}, r"mapper's output is 240, 4 face tokens by the text's width 80 is 320"),
    ],
)
def test_a_mapper_for_another_embedder_or_model_names_both(copied_xl: Path, changes: dict[str, Any], said: str) -> None:
    edit_json(copied_xl / "face0" / "face0.json", **changes)
    with pytest.raises(BadInput, match=said):
        load(copied_xl)


def test_a_second_tokenizer_of_another_vocabulary_is_refused(copied_xl: Path) -> None:
    edit_json(copied_xl / "text_encoder_2" / "config.json", vocab_size=600)
    with pytest.raises(BadInput, match=r"the second tokenizer's vocabulary is \d+, .* vocab_size is 600"):
        load(copied_xl)
