"""The mean of two models holds half of each, and is made only where a mean means something."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from face0_worker.cli import main
from face0_worker.contract.errors import BadInput
from face0_worker.models import digest_model
from face0_worker.render.average import average_models
from face0_worker.render.pipeline import Pipeline
from tests.fakes import write_tiny_model

UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
LEARNED = (UNET, "text_encoder/model.safetensors", "face0/mapper.safetensors")
CARD = "face0/face0.json"


def edit(path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    save_file({name: change(value) for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


def tell(folder: Path, **changes: Any) -> None:
    path = folder / CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_words(folder: Path) -> None:
    for path in (folder / "tokenizer").glob("*.json"):
        if path.name in ("tokenizer.json", "vocab.json"):
            path.write_text(path.read_text() + "\n")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and what a training made of it: all that learns is another, the VAE is the same."""
    first = write_tiny_model(tmp_path / "first")
    second = tmp_path / "second"
    shutil.copytree(first, second)
    for file in LEARNED:
        edit(second / file, lambda value: value + 0.25 if value.is_floating_point() else value)
    tell(first, training={"step": 10}, licences={"weights": "CC0-1.0", "pictures": "CC0-1.0"})
    gate = {"identity": 0.3, "sharpness": 0.3, "skin_drift": 9.0, "pictures": 8, "share": 0.02}
    tell(second, training={"step": 5}, licences={"weights": "Apache-2.0", "tokenizer": "MIT"}, gate=gate, name="later")
    (second / "README.md").write_text("# later\n")
    return first, second


def test_each_weight_is_half_of_each_and_the_card_tells_both(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = pair
    digest = average_models(first, second, tmp_path / "out")
    assert digest == digest_model(tmp_path / "out")
    assert digest not in (digest_model(first), digest_model(second))
    for file in LEARNED:
        mine, theirs, means = (load_file(folder / file) for folder in (first, second, tmp_path / "out"))
        assert means.keys() == theirs.keys()
        for name, value in means.items():
            assert value.dtype == theirs[name].dtype
            torch.testing.assert_close(value.float(), (mine[name].float() + theirs[name].float()) / 2)
        with safe_open(tmp_path / "out" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert (tmp_path / "out" / VAE).read_bytes() == (second / VAE).read_bytes()
    card = json.loads((tmp_path / "out" / CARD).read_text())
    assert card["training"] == {"average_of": [{"step": 10}, {"step": 5}]}
    assert card["licences"] == {"weights": "CC0-1.0, Apache-2.0", "pictures": "CC0-1.0", "tokenizer": "MIT"}
    assert card["name"] == "later"
    assert "gate" not in card  # its bars were of other weights
    assert "Averaged" in (tmp_path / "out" / "README.md").read_text()
    Pipeline.load(tmp_path / "out", digest=digest, device="cpu", precision="float32")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: edit(folder / VAE, lambda value: value + 0.01), "latents of one VAE mean nothing to another"),
        (lambda folder: tell(folder, embedder={"name": "x", "digest": "1" * 64, "dimension": 128}), "another embedder"),
        (lambda folder: tell(folder, size=128), "another size"),
        (lambda folder: other_words(folder), "a token means another word to each"),
        (lambda folder: tell(folder, format=2, loras=[{"file": "a.safetensors", "scale": 1.0}]), "a.safetensors"),
        (lambda folder: shutil.rmtree(folder / "unet"), "unet"),
    ],
)
def test_what_has_no_mean_is_refused_and_nothing_is_written(
    pair: tuple[Path, Path], tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    first, second = pair
    change(second)
    with pytest.raises(Exception, match=said) as refused:
        average_models(first, second, tmp_path / "out")
    assert type(refused.value).__module__ == BadInput.__module__
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_models_of_other_shapes_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", kind="sd2")
    with pytest.raises(BadInput, match="different parts, or the same in another shape"):
        average_models(pair[0], other, tmp_path / "out")


def test_the_command_writes_a_folder_once(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--home", str(tmp_path / "home"), "model", "average", *map(str, pair), "--out", str(tmp_path / "out")]
    for code in (0, 2):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert int(ended.value.code or 0) == code
    said = capsys.readouterr()
    assert digest_model(tmp_path / "out") in said.out
    assert "exists already; name a new folder with --out" in said.err
