"""A Stable Diffusion folder becomes a Face0 model: toy size, real code, from the command to the renderer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from face0_worker.cli import commands
from face0_worker.commandline import run_group
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.contract.job import RenderItem
from face0_worker.learn import album
from face0_worker.learn.album import caption_wordings, read_album, word_rows
from face0_worker.learn.base_model import LORA, learning_parts, read_base, text_encoder
from face0_worker.learn.corpus import Mix
from face0_worker.learn.dataset import is_held_out, read_index
from face0_worker.learn.likeness import LikenessPlan
from face0_worker.learn.shelf import Shelf
from face0_worker.learn.small_model import LATENT_FACE
from face0_worker.learn.sources import refuse
from face0_worker.learn.train import STATE, Trainer, TrainPlan
from face0_worker.learn.tuned_folder import lora_path
from face0_worker.learn.tuning import TunePlan, tune
from face0_worker.learn.watching import Lines, Watch
from face0_worker.models import digest_model
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.loading import load_component, survey_model
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.text import encode_texts
from tests.fakes import write_tiny_model
from tests.unit.learn.toy_data import QUIET, names, quiet, write_people

CPU = torch.device("cpu")
MIX = Mix(batch=2, drop_face=0.05, drop_text=0.05, drop_both=0.05, face_noise=0.0, face_weight=0.0)
TRAIN = TrainPlan(steps=3, rate=1e-2, mapper_rate=1e-3, warmup=1, ema=0.5, precision="no", mix=MIX, checkpoint_every=1)
LICENCE = "creativeml-openrail-m"


class Killed(BaseException):
    """What no training survives."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    return write_people(place / "data", [*names(3), *names(1, held_out=True)])


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    return plain_model(place / "base", "sd1", "epsilon")


def plain_model(folder: Path, kind: str, prediction: str) -> Path:
    """Write a Stable Diffusion folder as people have it: no face, a licence in its README, random weights."""
    write_tiny_model(folder, kind=kind, prediction_type=prediction)
    shutil.rmtree(folder / "face0")
    (folder / "README.md").write_text(f"---\nlanguage: en\nlicense: {LICENCE}\n---\n# A model\n")
    return folder


def plan_of(base: Path, **changes: Any) -> TunePlan:
    """Return a plan whose samples are one picture."""
    return replace(TunePlan(base, rank=4, prompts=("red",), train=TRAIN), **changes)


@pytest.fixture(scope="module")
def tuned(base: Path, data: Path) -> Path:
    """A model by LoRA, through the real command."""
    out = base.parent / "tuned"
    options = "--steps 3 --batch 2 --rank 4 --rate 0.01 --ema 0.5 --precision no --checkpoint-every 1 --prompt red"
    said = ["train", "--base", str(base), "--data", str(data), "--out", str(out), *options.split()]
    assert run_group(commands, "face0-worker", said) == 0
    return out


def _weights(folder: Path, part: str) -> dict[str, Tensor]:
    (file,) = (folder / part).glob("*.safetensors")
    return dict(load_file(file))


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _paint(model: Path) -> np.ndarray:
    pipeline = Pipeline.load(model, digest="d" * 64, device="cpu", precision="float32")
    item = RenderItem("sku", "red", seed=1, width=64, height=64, steps=2)
    faces = [np.full(128, 1, np.float32), np.linspace(-2, 2, 128, dtype=np.float32)]
    made, _ = make_pictures(pipeline, [RenderRequest(item, face) for face in faces], lambda step, steps: None)
    return made


def test_a_tuned_model_renders_and_its_face_counts(tuned: Path) -> None:
    one, other = _paint(tuned)
    assert np.isfinite(one).all()
    assert not np.array_equal(one, other)


def test_text_encoder_and_vae_stay_and_unet_and_mapper_learn(tuned: Path, base: Path) -> None:
    for part in ("text_encoder", "vae"):
        assert _same(_weights(tuned, part), _weights(base, part))
    before, after = _weights(base, "unet"), _weights(tuned, "unet")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # LoRA: the attention's products alone
    assert moved == {
        name for name in before if any(f"{end}.weight" in name for end in ("to_q", "to_k", "to_v", "to_out.0"))
    }


def test_the_loras_beside_it_make_the_base_the_same_model(tuned: Path, base: Path, tmp_path: Path) -> None:
    joined = tmp_path / "joined"
    shutil.copytree(base, joined)
    shutil.copytree(tuned / "face0", joined / "face0")
    (joined / "face0" / "loras").mkdir()
    shutil.copy(lora_path(tuned), joined / "face0" / "loras" / "it.safetensors")
    card = json.loads((joined / "face0" / "face0.json").read_text())
    card |= {"format": 2, "loras": [{"file": "it.safetensors", "scale": 1.0}]}
    (joined / "face0" / "face0.json").write_text(json.dumps(card))
    with_loras = load_component(survey_model(joined), "unet", torch.float32).state_dict()
    for name, value in _weights(tuned, "unet").items():
        torch.testing.assert_close(with_loras[name], value, atol=1e-6, rtol=1e-5)


def test_the_card_says_of_what_it_was_made_and_how_and_carries_the_licence_on(tuned: Path, base: Path) -> None:
    card = json.loads((tuned / "face0" / "face0.json").read_text())
    assert card["base"] == {"name": "base", "digest": digest_model(base)}
    assert card["licences"] == {"weights": LICENCE, "base": LICENCE, "pictures": "CC0-1.0"}
    training = card["training"]
    assert (training["method"], training["rank"], training["step"], training["pictures"]) == ("lora", 4, 3, 9)
    mix = training["plan"]["mix"]
    assert (mix["drop_face"], mix["drop_text"], mix["drop_both"]) == (0.05, 0.05, 0.05)
    told = (tuned / "README.md").read_text()
    assert told.startswith(f"---\nlicense: {LICENCE}\n---\n")
    assert "by LoRA of rank 4" in told
    assert str(base.parent) not in told + json.dumps(card)


def test_a_held_out_person_is_drawn_and_events_are_written_beside_the_training(tuned: Path) -> None:
    work = tuned.with_name("tuned.training")
    assert (work / "samples" / "step-000003.png").stat().st_size > 1000
    assert list((work / "events").iterdir())
    assert not (tuned / "samples").exists()  # a model's digest is over its folder


def test_older_transformers_find_the_words_of_a_written_tokenizer(tuned: Path, tmp_path: Path) -> None:
    bare = tmp_path / "tokenizer"
    bare.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tuned / "tokenizer" / name, bare / name)
    alone = CLIPTokenizer.from_pretrained(bare)
    whole = CLIPTokenizer.from_pretrained(tuned / "tokenizer")
    assert alone("red blue")["input_ids"] == whole("red blue")["input_ids"]


def test_all_of_a_unet_that_predicts_velocity_learns_by_the_full_method(place: Path, data: Path) -> None:
    base, out = plain_model(place / "sd2", "sd2", "v_prediction"), place / "full"
    tune([data], out, plan_of(base, method="full"), CPU, watch=QUIET)
    before, after = _weights(base, "unet"), _weights(out, "unet")
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert not lora_path(out).exists()
    assert np.isfinite(_paint(out)).all()


@dataclass(frozen=True)
class Deadly:
    """A screen whose training dies at a step, before that step's checkpoint."""

    step: int
    say: Callable[[str], None] = quiet
    told: Callable[[str], None] = quiet

    def at(self, step: int, steps: int | None) -> None:
        """Die there."""
        if step == self.step:
            raise Killed


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """The loss of every step that is made, with the step's number."""
    seen: list[tuple[int, float]] = []
    advance = Trainer.advance

    def noted(trainer: Trainer) -> Tensor:
        step, loss = trainer.step, advance(trainer)
        seen.append((step, float(loss)))
        return loss

    monkeypatch.setattr(Trainer, "advance", noted)
    return seen


def test_a_killed_training_loses_one_interval_and_ends_with_the_same_losses_and_model(
    base: Path, data: Path, tmp_path: Path, losses: list[tuple[int, float]]
) -> None:
    plan = plan_of(base, train=replace(TRAIN, steps=5, checkpoint_every=2, accumulate=2, sample_every=100))
    tune([data], tmp_path / "whole", plan, CPU, watch=QUIET)
    unbroken = dict(losses)
    losses.clear()
    with pytest.raises(Killed):
        tune([data], tmp_path / "broken", plan, CPU, watch=Watch(Deadly(4)))
    assert torch.load(tmp_path / "broken.training" / STATE, weights_only=True)["step"] == 2
    tune([data], tmp_path / "broken", plan, CPU, watch=QUIET)
    assert [step for step, _ in losses] == [0, 1, 2, 3, 2, 3, 4]
    assert all(loss == unbroken[step] for step, loss in losses)
    for part in ("unet", "face0"):
        assert _same(_weights(tmp_path / "broken", part), _weights(tmp_path / "whole", part))


def test_pictures_and_texts_are_encoded_once_and_again_only_where_they_changed(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    plan = plan_of(base, cache=tmp_path / "cache", train=replace(TRAIN, steps=1))
    told: list[str] = []
    tune([mine], tmp_path / "one", plan, CPU, watch=Watch(Lines(told.append)))
    assert "encoded 9 of 9 new pictures" in told
    read: list[str] = []
    real = album.read_pixels

    def noted(line: Any, size: int) -> np.ndarray:
        read.append(line.file)
        return real(line, size)

    monkeypatch.setattr(album, "read_pixels", noted)
    told.clear()
    lines = [line for line in read_index(mine) if line.person == names(1)[0]]
    # two pictures change places: everything is known by what it is
    one, two = lines[0].path.read_bytes(), lines[1].path.read_bytes()
    lines[0].path.write_bytes(two)
    lines[1].path.write_bytes(one)
    held = names(1, held_out=True)[0]
    tune([mine], tmp_path / "two", plan, CPU, watch=Watch(Lines(told.append)))
    assert {file for file in read if held not in file} == set()
    assert not any(line.startswith("encoded") for line in told)


def test_a_base_without_a_mapper_gets_one_that_begins_as_a_straight_line(base: Path) -> None:
    parts = learning_parts(read_base(base), {"dimension": 128}, LORA, 4, "no", checkpointing=False)
    face = torch.randn(4, 128)
    with torch.no_grad():
        torch.testing.assert_close(parts["mapper"](-face), -parts["mapper"](face))


def test_a_base_that_has_a_mapper_for_these_faces_goes_on_with_it(tuned: Path, data: Path, tmp_path: Path) -> None:
    none = plan_of(tuned, train=replace(TRAIN, steps=0))
    other = tmp_path / "other"
    shutil.copytree(tuned, other)
    card = json.loads((other / "face0" / "face0.json").read_text())
    card["embedder"]["digest"] = "1" * 64
    (other / "face0" / "face0.json").write_text(json.dumps(card))
    with pytest.raises(BadInput, match="has a face mapper of 3 tokens for face pack 111111111111"):
        tune([data], tmp_path / "out", replace(none, base=other), CPU, watch=QUIET)
    tune([data], tmp_path / "on", none, CPU, watch=QUIET)
    for part in ("unet", "face0"):
        assert _same(_weights(tmp_path / "on", part), _weights(tuned, part))


def test_single_pictures_with_a_text_beside_them_are_learned_from(base: Path, data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    for line in read_index(mine):
        line.path.with_suffix(".txt").write_text(line.caption)
    (mine / "people.jsonl").unlink()
    told: list[str] = []
    tune([mine], tmp_path / "out", plan_of(base, train=replace(TRAIN, steps=1)), CPU, watch=Watch(Lines(told.append)))
    alone = [line.file for line in read_index(mine)]
    held = sum(is_held_out(file) for file in alone)
    learned = len(alone) - held
    assert f"{learned} pictures of {learned} people to learn from, {held} held out" in told


def test_a_consent_withdrawn_while_training_ends_it_before_a_model_is_written(base: Path, tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(1), card={"consent": "c1"})
    asked: list[str] = []
    told: list[str] = []

    def permit(consent_id: str) -> None:
        asked.append(consent_id)
        if len(asked) > 1:
            raise ConsentRefused("revoked", "revoked")

    with pytest.raises(ConsentRefused):
        tune([folder], tmp_path / "out", plan_of(base), CPU, permit=permit, watch=Watch(Lines(told.append)))
    assert any(line.startswith("nobody is held out") for line in told)
    assert asked == ["c1", "c1"]
    assert not (tmp_path / "out").exists()


def test_bases_that_are_not_trained_are_refused_in_one_sentence(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is an SDXL model; training begins with Stable Diffusion"):
        read_base(plain_model(tmp_path / "xl", "sdxl", "epsilon"))
    with pytest.raises(BadInput, match="not there"):
        read_base(tmp_path / "nothing")
    (tmp_path / "one.safetensors").touch()
    with pytest.raises(BadInput, match="a single file"):
        read_base(tmp_path / "one.safetensors")
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    (bare / "README.md").write_text("# A model\nlicense: none of this\n")
    with pytest.raises(BadInput, match="states no licence"):
        read_base(bare)
    assert read_base(bare, "MIT").licence == "MIT"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--base B --steps 1 --vae-steps 3", "--vae-steps belongs to a training from nothing"),
        ("--base B --steps 1 --from M", "--from belongs to a training from nothing"),
        ("--steps 1 --rank 4", "--rank belongs to a training that begins with a model"),
        ("--base B", "say when to stop"),
        ("--base B --steps 1 --method full --rank 4", "--rank belongs to --method lora"),
        ("--base B --steps 1 --precision fp16 --device cpu", "--precision fp16 needs CUDA"),
        ("--base B --steps 1 --drop-face 0.5 --drop-text 0.6", "together at most 1"),
        ("--base B --steps 1 --size 60", "multiple of 16 px"),
    ],
)
def test_options_that_do_not_go_together_are_said(
    base: Path, data: Path, options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(base) if word == "B" else word for word in options.split()]
    out = data.parent / "never"
    assert run_group(commands, "face0-worker", ["train", "--data", str(data), "--out", str(out), *words]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
    assert not out.with_name("never.training").exists()


def test_every_wording_is_what_the_renderer_would_say_of_it(base: Path, data: Path, tmp_path: Path) -> None:
    encoder, shelf = text_encoder(read_base(base), CPU), Shelf(tmp_path, (77, 32))
    told = caption_wordings(read_album([data], None, refuse, quiet), 0)
    told[0] = ("red", "red red", "blue", "")
    album.shelve_texts([text for some in told for text in some], encoder, 3, shelf, quiet)
    table, words = shelf.tensor(), word_rows(told, shelf)
    assert words.shape == (9, 4, 1)
    for rows, texts in zip(words[:, :, 0], told, strict=True):
        torch.testing.assert_close(table[rows].float(), encode_texts([encoder], texts, 3).tokens, atol=2e-3, rtol=2e-3)
    assert len({tuple(one.flatten().tolist()) for one in table[words[0, :, 0]]}) == 4


def test_a_base_that_is_asked_for_the_person_learns_first_what_to_ask_with(
    base: Path, data: Path, tmp_path: Path
) -> None:
    train = replace(TRAIN, steps=1, likeness=1.0)
    plan = plan_of(base, train=train, sense=LikenessPlan(steps=1, batch=4))
    tune([data], tmp_path / "out", plan, CPU, watch=QUIET)
    assert (tmp_path / "out.training" / LATENT_FACE).is_file()
    assert json.loads((tmp_path / "out" / "face0" / "face0.json").read_text())["training"]["plan"]["likeness"] == 1.0
