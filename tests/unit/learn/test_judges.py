"""The judges at toy size: they learn what they should, overlook what they must, and are kept by digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.faces.embed import Embedder
from face0_worker.learn.attributes import AttributeClassifier, AttributePlan, train_attributes
from face0_worker.learn.dataset import is_held_out
from face0_worker.learn.face_crops import OVERVIEW_SIDE, SIDE, alignment, crop_face, ellipse
from face0_worker.learn.judges import CARD, JudgesPlan, have_judges, load_judges, train_judges, write_judges
from face0_worker.learn.recogniser import Recogniser, RecogniserPlan, margin_softmax, train_recogniser
from face0_worker.learn.truth import read_pictures
from tests.unit.learn.toy_people import SIX, write_toy_people

CPU = torch.device("cpu")


def quiet(line: str) -> None:
    """Say nothing."""


def _blobs(people: int, views: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Crops of `people`, each a smooth pattern of their own, in `views` that differ in light and noise."""
    draw = torch.Generator().manual_seed(seed)
    own = functional.interpolate(torch.rand(people, 3, 5, 5, generator=draw), size=(SIDE, SIDE), mode="bicubic")
    seen = own.repeat_interleave(views, 0)
    seen = seen * (0.8 + 0.4 * torch.rand(len(seen), 1, 1, 1, generator=draw))
    seen = seen + 0.03 * torch.randn(seen.shape, generator=draw)
    names = [f"p{number}" for number in range(people) for _ in range(views)]
    return (seen.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy(), names


def test_the_recogniser_tells_people_apart_whom_it_never_saw() -> None:
    crops, people = _blobs(40, 4, seed=0)
    plan = RecogniserPlan(epochs=6, batch=32)
    model = train_recogniser(crops, people, plan, CPU, quiet)
    unseen, names = _blobs(10, 2, seed=1)
    vectors = model.embed(unseen)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T - 2 * np.eye(20)
    assert np.mean([names[near] == name for near, name in zip(cosines.argmax(1), names, strict=True)]) >= 0.8


def test_hair_and_background_change_nothing() -> None:
    crops, _ = _blobs(2, 1, seed=0)
    torch.manual_seed(0)
    model = Recogniser()
    outside = ellipse()[0, 0].numpy() == 0
    assert 0.2 < outside.mean() < 0.5
    changed = crops.copy()
    changed[:, outside] = 255 - changed[:, outside]
    np.testing.assert_array_equal(model.embed(changed), model.embed(crops))
    inner = crops.copy()
    inner[:, SIDE // 2, SIDE // 2] = 255 - inner[:, SIDE // 2, SIDE // 2]
    assert np.abs(model.embed(inner) - model.embed(crops)).max() > 0


def test_without_a_margin_the_loss_is_softmax_over_cosines() -> None:
    vectors, centres = torch.randn(5, 8), torch.randn(3, 8)
    vectors, labels = functional.normalize(vectors), torch.tensor([0, 1, 2, 0, 1])
    plain = functional.cross_entropy(10 * vectors @ functional.normalize(centres).T, labels)
    assert float(margin_softmax(vectors, centres, labels, 10, 0)) == pytest.approx(float(plain), rel=1e-5)
    assert float(margin_softmax(vectors, centres, labels, 10, 0.3)) > float(plain)


def test_one_picture_a_person_is_too_few() -> None:
    crops, _ = _blobs(4, 1, seed=0)
    with pytest.raises(BadInput, match="two people with two pictures"):
        train_recogniser(crops, ["a", "b", "c", "d"], RecogniserPlan(), CPU, quiet)


def test_a_face_is_brought_to_the_same_place_however_it_lies_in_the_picture() -> None:
    source = np.array([[100.0, 100], [140, 104], [118, 125], [100, 145], [134, 148]])
    turn = np.deg2rad(25)
    by = 1.7 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = source @ by.T + (30, -12)
    place = np.array([20.0, 40.0, 1.0])
    np.testing.assert_allclose(by @ (alignment(source) @ place) + (30, -12), alignment(moved) @ place, atol=1e-9)


def test_a_crop_shows_the_face_upright() -> None:
    pixels = np.zeros((200, 200, 3), np.uint8)
    points = np.array([[80.0, 80], [120, 80], [100, 103], [83, 127], [117, 127]])
    for (x, y), colour in zip(
        points.astype(int), ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)), strict=True
    ):
        pixels[y - 4 : y + 4, x - 4 : x + 4] = colour
    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)  # (x, y) -> (y, 200 - x)
    there = np.stack([points[:, 1], 200 - points[:, 0]], axis=1)
    one, other = crop_face(Image.fromarray(pixels), points), crop_face(turned, there)
    assert np.abs(one.astype(int) - other).mean() < 3
    assert one[:32, :32, 0].max() > 200 > one[32:, 32:, 0].max() + 100
    assert one[:32, 32:, 1].max() > 200


def test_landmarks_are_the_largest_faces_and_none_where_nobody_is(embedder: Embedder) -> None:
    with Image.open(SIX) as opened:
        six = opened.convert("RGB")
    found = embedder.landmarks(six)
    assert found is not None
    np.testing.assert_allclose(found, embedder.find(six)[0].landmarks)
    assert embedder.landmarks(Image.new("RGB", (128, 128), "grey")) is None


def test_classifiers_learn_what_is_seen_in_the_datas_own_words() -> None:
    rng = np.random.default_rng(0)
    names = np.array(["crimson", "navy"])[rng.integers(2, size=64)]
    glasses = rng.integers(2, size=64).astype(bool)
    pictures = rng.integers(100, 140, (64, OVERVIEW_SIDE, OVERVIEW_SIDE, 3), dtype=np.uint8)
    pictures[names == "crimson", 60:] = (200, 20, 40)
    pictures[names == "navy", 60:] = (20, 20, 90)
    pictures[glasses, 20:30, 20:76] = 0
    truths = [{"colour": str(name), "glasses": bool(worn)} for name, worn in zip(names, glasses, strict=True)]
    values = {"colour": ("crimson", "navy"), "glasses": (False, True)}
    model = train_attributes(pictures[:48], truths[:48], values, AttributePlan(epochs=6, batch=8), CPU, quiet)
    assert np.mean([told == truth for told, truth in zip(model.tell(pictures[48:]), truths[48:], strict=True)]) > 0.85


def test_judges_come_back_as_they_were_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    crops, _ = _blobs(2, 1, seed=0)
    recogniser, classifier = Recogniser().eval(), AttributeClassifier({"glasses": (False, True)}).eval()
    card = {"format": 1, "people": ["p1"], "attributes": {"values": {"glasses": [False, True]}}}
    write_judges(tmp_path, recogniser, classifier, card)
    loaded = load_judges(tmp_path, CPU)
    np.testing.assert_array_equal(loaded.recogniser.embed(crops), recogniser.embed(crops))
    assert loaded.people == {"p1"}
    file = tmp_path / "recogniser.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelMissing, match="damaged"):
        load_judges(tmp_path, CPU)


def test_half_written_judges_are_none(tmp_path: Path) -> None:
    assert not have_judges(tmp_path)
    with pytest.raises(ModelMissing, match="train them"):
        load_judges(tmp_path, CPU)


def test_judges_learn_from_nobody_who_is_held_out_and_say_how_good_they_are(tmp_path: Path, embedder: Embedder) -> None:
    pictures = read_pictures(write_toy_people(tmp_path / "people"))
    plan = JudgesPlan(RecogniserPlan(epochs=1, batch=8), AttributePlan(epochs=1, batch=8))
    judges = train_judges(pictures, embedder, tmp_path / "judges", plan=plan, device=CPU, say=quiet)
    assert judges.people
    assert not [person for person in judges.people if is_held_out(person)]
    assert judges.card["held_out"]["people"] == len({one.person for one in pictures if is_held_out(one.person)})
    assert 0 <= judges.card["recogniser"]["auc_all_pairs"] <= 1
    assert set(judges.card["attributes"]["held_out_accuracy"]) >= {"garment_colour", "background"}
    assert (tmp_path / "judges" / CARD).stat().st_mtime >= (
        tmp_path / "judges" / "recogniser.safetensors"
    ).stat().st_mtime
