"""A training from end to end at toy size: the folder it writes is one that the renderer loads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.contract.job import RenderItem
from face0_worker.contract.receipt import Verdict
from face0_worker.learn import small_model
from face0_worker.learn.autoencoder import VaePlan
from face0_worker.learn.corpus import Mix
from face0_worker.learn.likeness import LikenessPlan
from face0_worker.learn.model_folder import SMALL, TOY
from face0_worker.learn.small_model import LATENT_FACE, SmallPlan, assemble, train_small
from face0_worker.learn.train import TrainPlan
from face0_worker.learn.watching import Lines, Watch
from face0_worker.render.batch import RenderRequest, render_batch
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.quality import judge
from tests.unit.learn.toy_data import QUIET, names, write_people

CPU = torch.device("cpu")
PLAN = SmallPlan(TOY, VaePlan(steps=2, batch=2, crop=32), TrainPlan(steps=2, warmup=1, mix=Mix(batch=2)), minutes=None)
SENSE = LikenessPlan(steps=1, batch=4)
PROMPT = "a portrait of a person wearing a red turtleneck, white background"


class Killed(BaseException):
    """What no training survives."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("toy") / "data", [*names(3), *names(1, held_out=True)])


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    out = data.parent / "small"
    train_small([data], out, PLAN, CPU, watch=QUIET)
    return out


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.parent.name}/{name}": value for file in files for name, value in load_file(file).items()}


def _plain_judge(pixels: np.ndarray, embedding: np.ndarray | None) -> Verdict:
    return judge(pixels, 0, None)


def test_a_trained_model_renders_a_picture_and_its_face_counts(trained: Path) -> None:
    pipeline = Pipeline.load(trained, digest="d" * 64, device="cpu", precision="float32")
    item = RenderItem("sku", PROMPT, seed=1, width=64, height=64, steps=2)
    faces = [np.full(128, 1, np.float32), np.linspace(-2, 2, 128, dtype=np.float32)]
    requests = [RenderRequest(item, face) for face in faces]
    one, other = render_batch(pipeline, requests, judge=_plain_judge, on_step=lambda step, steps: None)
    assert one.error is None
    assert one.pixels is not None
    assert other.pixels is not None
    assert one.pixels.shape == (64, 64, 3)
    assert not one.truncated
    assert not np.array_equal(one.pixels, other.pixels)


def test_the_card_says_what_was_learned_from_and_how(trained: Path) -> None:
    card = json.loads((trained / "face0" / "face0.json").read_text())
    assert card["name"] == "small"
    assert card["embedder"]["name"] == "toy"
    assert card["licences"]["pictures"] == "CC0-1.0"
    training = card["training"]
    assert (training["pictures"], training["people"]) == (9, 3)  # three views each; the held-out one is not among them
    assert (training["step"], training["steps"], training["skipped"]) == (2, 2, 0)
    assert training["left_out"] == {"unreadable": 0, "faceless": 0}
    assert training["plan"]["mix"]["batch"] == 2
    told = (trained / "README.md").read_text()
    assert told.startswith("# small\n")
    assert "9 pictures of 3 people for 2 steps of\n  2 pictures" in told


def test_a_model_names_no_folder_of_the_machine_it_was_made_on(trained: Path) -> None:
    for file in trained.rglob("*"):
        if file.suffix in (".json", ".md", ".txt"):
            assert str(trained.parent) not in file.read_text(encoding="utf-8"), file


def test_samples_of_held_out_people_and_the_vae_lie_beside_the_training(trained: Path) -> None:
    work = trained.with_name("small.training")
    assert (work / "samples" / "step-000002.png").stat().st_size > 1000
    assert (work / "vae.png").is_file()


def test_a_training_that_is_done_changes_nothing_when_it_is_started_again(trained: Path, data: Path) -> None:
    before = _weights(trained)
    told: list[str] = []
    train_small([data], trained, PLAN, CPU, watch=Watch(Lines(told.append)))
    after = _weights(trained)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("encoded" in line or "vae step" in line for line in told)  # both were kept


def test_a_picture_that_changed_under_its_name_is_encoded_again(trained: Path, data: Path, tmp_path: Path) -> None:
    changed, out = tmp_path / "data", tmp_path / "small"
    shutil.copytree(data, changed)
    shutil.copytree(trained.with_name("small.training"), tmp_path / "small.training")
    picture = next(file for file in (changed / "images").iterdir() if file.name.startswith(names(1)[0]))
    shutil.copy(next(file for file in changed.rglob("*_1.png") if file.read_bytes() != picture.read_bytes()), picture)
    told: list[str] = []
    train_small([changed], out, PLAN, CPU, watch=Watch(Lines(told.append)))
    assert any(line.startswith("encoded 9 pictures") for line in told)


def test_a_training_whose_vae_became_another_is_not_gone_on_with(trained: Path, data: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "small", tmp_path / "small.training"
    shutil.copytree(trained.with_name("small.training"), work)
    weights = work / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(BadInput, match=r"with the VAE .* remove it"):
        train_small([data], out, replace(PLAN, denoiser=replace(PLAN.denoiser, steps=3)), CPU, watch=QUIET)
    assert not out.exists()


def test_a_training_from_a_model_starts_at_its_weights(trained: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "further"
    none = replace(PLAN, denoiser=replace(PLAN.denoiser, steps=0, seed=5), start=trained)
    train_small([data], out, none, CPU, watch=QUIET)
    before, after = _weights(trained), _weights(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    more = replace(PLAN, denoiser=replace(PLAN.denoiser, steps=1), start=trained)
    train_small([data], out, more, CPU, watch=QUIET)
    moved = _weights(out)
    assert any(not torch.equal(before[name], moved[name]) for name in before)
    assert all(torch.equal(before[name], moved[name]) for name in before if name.startswith("vae/"))
    told, earlier = (json.loads((one / "face0" / "face0.json").read_text())["training"] for one in (out, trained))
    assert told["before"] == earlier  # what a model was made of is not forgotten
    assert "before" not in earlier


def test_a_training_from_a_model_begins_its_mapper_anew_and_goes_on_with_its_vae_where_that_is_asked(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    none = replace(PLAN, denoiser=replace(PLAN.denoiser, steps=0), start=trained)
    train_small([data], tmp_path / "mapper", replace(none, new_mapper=True), CPU, watch=QUIET)
    train_small([data], tmp_path / "vae", replace(none, vae_goes_on=True), CPU, watch=QUIET)
    before = _weights(trained)
    for name, part in (("mapper", "face0/"), ("vae", "vae/")):
        after = _weights(tmp_path / name)
        moved = {key.split("/")[0] + "/" for key in before if not torch.equal(before[key], after[key])}
        assert moved == {part}
        told = json.loads((tmp_path / name / "face0" / "face0.json").read_text())["training"]
        assert (told["new_mapper"], told["vae_goes_on"]) == (name == "mapper", name == "vae")


def test_a_training_that_asks_for_the_person_learns_first_what_to_ask_with(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    asking = replace(PLAN, denoiser=replace(PLAN.denoiser, likeness=100.0), sense=SENSE, start=trained)
    silent = replace(asking, denoiser=PLAN.denoiser)
    for name, plan in (("asking", asking), ("silent", silent)):
        train_small([data], tmp_path / name, plan, CPU, watch=QUIET)
    assert (tmp_path / "asking.training" / LATENT_FACE).is_file()
    assert not (tmp_path / "silent.training" / LATENT_FACE).exists()
    one, other = _weights(tmp_path / "asking"), _weights(tmp_path / "silent")
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert not list((tmp_path / "asking").rglob(LATENT_FACE))  # it is no part of the model


def test_a_training_from_a_model_without_plain_words_writes_them(trained: Path, data: Path, tmp_path: Path) -> None:
    bare, out = tmp_path / "bare", tmp_path / "further"
    shutil.copytree(trained, bare)
    words = [(bare / "tokenizer" / name) for name in ("vocab.json", "merges.txt")]
    known = [json.loads(words[0].read_text()), words[1].read_text()]
    for file in words:
        file.unlink()
    train_small([data], out, replace(PLAN, denoiser=replace(PLAN.denoiser, steps=0), start=bare), CPU, watch=QUIET)
    assert json.loads((out / "tokenizer" / "vocab.json").read_text()) == known[0]
    assert (out / "tokenizer" / "merges.txt").read_text() == known[1]


def test_what_is_no_model_of_this_shape_is_not_gone_on_from(trained: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"it has no face0/face0\.json"):
        train_small([data], tmp_path / "out", replace(PLAN, start=data), CPU, watch=QUIET)
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    config = json.loads((other / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(json.dumps({**config, "block_out_channels": [32, 32, 64]}))
    with pytest.raises(BadInput, match="not a model of this shape"):
        train_small([data], tmp_path / "out", replace(PLAN, start=other), CPU, watch=QUIET)


def test_a_model_folder_is_written_whole_or_not_at_all(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    shutil.copytree(trained, out)
    card = json.loads((out / "face0" / "face0.json").read_text())
    before = _weights(out)
    vae = Pipeline.load(out, digest="d" * 64, device="cpu", precision="float32").vae
    tokenizer = trained.with_name("small.training") / "tokenizer"

    def killed(folder: Path, parts: object, facts: object) -> None:
        (folder / "unet").mkdir()
        raise Killed

    monkeypatch.setattr(small_model, "write_model", killed)
    with pytest.raises(Killed):
        assemble(out, vae, tokenizer, torch.nn.ModuleDict(), card)
    assert _weights(out).keys() == before.keys()
    out.replace(out.with_name("small.old"))  # as a kill between the two renames leaves it
    with pytest.raises(Killed):
        assemble(out, vae, tokenizer, torch.nn.ModuleDict(), card)
    assert _weights(out).keys() == before.keys()


def test_a_folder_that_is_no_model_is_never_replaced(data: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear")
    with pytest.raises(BadInput, match="is there already and is not a model"):
        train_small([data], tmp_path / "letters", PLAN, CPU, watch=QUIET)
    assert (tmp_path / "letters" / "one.txt").read_text() == "dear"


def test_a_consent_withdrawn_while_training_ends_it_before_a_model_is_written(trained: Path, tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(1), card={"consent": "c1"})
    shutil.copytree(trained.with_name("small.training") / "vae", tmp_path / "small.training" / "vae")
    asked: list[str] = []

    def permit(consent_id: str) -> None:
        asked.append(consent_id)
        if len(asked) > 1:
            raise ConsentRefused("revoked", "revoked")

    with pytest.raises(ConsentRefused):
        train_small([folder], tmp_path / "small", PLAN, CPU, permit=permit, watch=QUIET)
    assert asked == ["c1", "c1"]
    assert not (tmp_path / "small").exists()


def test_the_shape_that_ships_is_256_px(trained: Path) -> None:
    assert (SMALL.size, SMALL.latents) == (256, 8)
