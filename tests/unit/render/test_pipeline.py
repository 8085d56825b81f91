"""Loading a model folder: what is refused, and on which device it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from face0_worker.contract.errors import BadInput, Face0Error, ItemFailed, ModelMissing, OutOfMemory
from face0_worker.render.loading import read_parts
from face0_worker.render.pipeline import Pipeline, cpu_flags, device_errors, pick_device, pick_precision
from tests.fakes import write_tiny_model


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def load(folder: Path) -> Pipeline:
    """Load on the CPU in float32."""
    return Pipeline.load(folder, digest="d" * 64, device="cpu", precision="float32")


def edit_json(path: Path, **changes: Any) -> None:
    """Change some fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change a safetensors file in place."""
    weights = safetensors.torch.load_file(path)
    change(weights)
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})


def test_the_facts_are_what_a_worker_offers(tiny: Pipeline) -> None:
    assert tiny.facts() == {
        "name": "tiny",
        "size": 64,
        "aspect": 1.0,
        "precision": "float32",
        "tokens": 3,
        "embedder_digest": "0" * 64,
        "embedder_dim": 128,
        "guidance": {"w": 3.0, "c": 1.0, "a": 0.0, "start": 0.0, "stop": 1.0},
        "steps": 4,
        "sampler": "ddim",
        "licences": {"weights": "CC0-1.0"},
        "device": "cpu",
    }
    assert tiny.digest == "d" * 64
    json.dumps(tiny.facts())


def test_the_same_arguments_write_the_same_model(tmp_path: Path) -> None:
    one, other = (write_tiny_model(tmp_path / name, seed=3) for name in ("one", "other"))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files
    assert all((one / path).read_bytes() == (other / path).read_bytes() for path in files)


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.bin", "old.ckpt", "vae/more/weights.PT", "a.pkl"])
def test_pickled_weights_are_refused_by_name(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).write_bytes(b"pickle")
    with pytest.raises(BadInput, match=name.rpartition("/")[2]):
        load(copied)


@pytest.mark.parametrize(
    "name",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
        "face0/face0.json",
        "face0/mapper.safetensors",
        "model_index.json",
    ],
)
def test_a_missing_or_damaged_file_is_a_missing_model(copied: Path, name: str) -> None:
    (copied / name).write_bytes((copied / name).read_bytes()[:20])
    with pytest.raises(ModelMissing, match=r"model|missing|read"):
        load(copied)
    (copied / name).unlink()
    with pytest.raises(ModelMissing, match=r"model|missing|read"):
        load(copied)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"])
def test_a_weight_that_is_absent_is_never_made_up(copied: Path, part: str) -> None:
    gone: list[str] = []

    def drop(weights: dict[str, torch.Tensor]) -> None:
        gone.append(next(name for name in weights if name.endswith("weight")))
        del weights[gone[0]]

    edit_weights(copied / f"{part}.safetensors", drop)
    with pytest.raises(ModelMissing, match=part.partition("/")[0]):
        load(copied)


def test_a_folder_that_is_not_there_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="FACE0_MODEL"):
        load(tmp_path / "nothing")


def test_a_mapper_that_does_not_fit_the_text_encoder_names_both(copied: Path) -> None:
    edit_json(copied / "face0" / "face0.json", mapper_width=64)
    with pytest.raises(BadInput, match=r"face mapper .* text encoder \(32 wide\): layers"):
        load(copied)


def test_parts_of_different_models_are_refused_with_both_numbers(copied: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    edit = json.loads((copied / "vae" / "config.json").read_text())
    config = {name: value for name, value in edit.items() if not name.startswith("_")} | {"latent_channels": 8}
    AutoencoderKL(**config).save_pretrained(copied / "vae")
    with pytest.raises(BadInput, match=r"in_channels is 4, the VAE's latent_channels is 8"):
        load(copied)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 3}, "format 3"),
        ({"steps": "many"}, "wrong kind"),
        ({"embedder": {"digest": "0"}}, "dimension"),
        ({"guidance": {"w": 3, "start": 1, "stop": 0}}, "interval"),
        ({"guidance": {"strength": 3}}, "wrong kind"),
        ({"size": 60}, "size"),
        ({"sampler": "heun"}, "sampler 'heun' is unknown; known are ddim"),
        ({"sampler": "lcm", "steps": 60}, "steps is 60; 1 to 50"),
        ({"steps": 61}, "take one or two less"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(copied: Path, changes: dict[str, Any], said: str) -> None:
    edit_json(copied / "face0" / "face0.json", **changes)
    with pytest.raises(BadInput, match=said):
        load(copied)


def test_another_kind_of_model_is_refused(copied: Path) -> None:
    edit_json(copied / "model_index.json", text_encoder=["transformers", "T5EncoderModel"])
    with pytest.raises(BadInput, match="T5EncoderModel"):
        load(copied)


def test_a_schedule_of_another_prediction_is_refused(copied: Path) -> None:
    edit_json(copied / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(BadInput, match="'sample'"):
        load(copied)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_without_cuda_is_an_error_and_never_the_cpu(device: str) -> None:
    with pytest.raises(ModelMissing, match="0 CUDA devices"):
        pick_device(device)


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:x", "mps", ""])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(BadInput, match="unknown"):
        pick_device(device)


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(BadInput, match="CUDA"):
        pick_precision("float16", torch.device("cpu"))


def test_auto_takes_what_the_device_computes_in_hardware() -> None:
    assert pick_precision("auto", torch.device("cuda")) == "float16"
    has = cpu_flags() & {"avx512_bf16", "amx_bf16"}
    assert pick_precision("auto", torch.device("cpu")) == ("bfloat16" if has else "float32")


def test_cpu_flags_are_read_from_linux(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 sse\n")
    assert cpu_flags(info) == {"fpu", "avx512_bf16", "sse"}
    assert cpu_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ItemFailed),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), RuntimeError),
    ],
)
def test_errors_of_the_device_are_translated(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised, device_errors("a step"):
        raise error
    assert type(raised.value) is kind
    assert isinstance(raised.value, Face0Error) == (kind is not RuntimeError)


def test_broken_latents_stay_visible_after_decoding(tiny: Pipeline) -> None:
    latents = torch.zeros(2, *tiny.latent_shape(64, 64))
    latents[1] = torch.nan
    pictures = tiny.decode(latents)
    assert pictures.shape == (2, 64, 64, 3)
    assert pictures.dtype == np.float32
    assert np.isfinite(pictures[0]).all()
    assert np.isnan(pictures[1]).any()


@pytest.mark.parametrize(("width", "height", "named"), [(60, 64, "width"), (64, 0, "height"), (64, -8, "height")])
def test_sizes_that_can_not_be_made_are_refused(tiny: Pipeline, width: int, height: int, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        tiny.latent_shape(width, height)


@pytest.mark.parametrize(("kind", "decoded"), [("sd1", torch.float16), ("sdxl", torch.float32)])
def test_sdxls_vae_decodes_in_float32_where_float16_would_overflow(
    tmp_path: Path, kind: str, decoded: torch.dtype
) -> None:
    parts = read_parts(write_tiny_model(tmp_path, kind=kind), torch.float16, torch.float16)
    half = Pipeline(parts, digest="", device=torch.device("cpu"), precision="float16")
    assert half.decode_precision == half.vae.dtype == decoded
    assert half.unet.dtype == torch.float16


def test_bfloat16_decodes_in_float32_and_its_pictures_show_no_bands(tiny_folder: Path) -> None:
    half = Pipeline.load(tiny_folder, digest="", device="cpu", precision="bfloat16")
    (picture,) = half.decode(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert half.unet.dtype == torch.bfloat16
    # between a half and one, bfloat16 has 128 values
    assert len(np.unique(picture[picture > 0.5])) > 1000


def test_latents_are_scaled_and_moved_back_to_what_the_vae_was_trained_on(tiny: Pipeline) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    tiny.vae.register_to_config(scaling_factor=1.0)
    wanted = tiny.decode(latents)
    # as Stable Diffusion's, whose UNet sees latents of unit variance
    tiny.vae.register_to_config(scaling_factor=0.18215)
    np.testing.assert_allclose(tiny.decode(latents * 0.18215), wanted, atol=1e-3)
    tiny.vae.register_to_config(scaling_factor=0.5, latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4)
    mean = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    np.testing.assert_allclose(tiny.decode((latents - mean) * 0.5 / 2), wanted, atol=1e-3)
