"""A mapper before training: nothing that tells faces apart is lost on the way to the tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from face0_worker.learn.model_folder import TOY, new_parts, write_tokenizer
from face0_worker.learn.straight_mapper import straighten
from face0_worker.render.conditioning import FaceMapper

# embedding, tokens, text width, hidden width
SHAPES = [(128, 3, 256, 512), (128, 3, 64, 64), (512, 3, 768, 768), (16, 1, 16, 33)]
Sizes = tuple[int, int, int, int]


def _straight(sizes: Sizes) -> FaceMapper:
    torch.manual_seed(3)
    return straighten(FaceMapper(*sizes))


@pytest.mark.parametrize("sizes", SHAPES)
def test_a_straight_mapper_is_linear_and_says_it_as_loud_as_text(sizes: Sizes) -> None:
    mapper = _straight(sizes)
    one, other = torch.randn(2, 2000, sizes[0])
    with torch.no_grad():
        torch.testing.assert_close(mapper(2 * one - 3 * other), 2 * mapper(one) - 3 * mapper(other), atol=1e-3, rtol=0)
        assert float(mapper(one).std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sizes", SHAPES)
def test_a_straight_mapper_keeps_every_direction_of_a_face_that_has_room(sizes: Sizes) -> None:
    embedding, tokens, text_width, width = sizes
    with torch.no_grad():
        said = _straight(sizes)(torch.eye(embedding)).flatten(1)
    lengths = torch.linalg.svdvals(said)
    room = min(embedding, width // 2, tokens * text_width)
    # as many directions as there is room for, and none of them is said louder than another
    torch.testing.assert_close(lengths[:room], lengths[:1].expand(room), rtol=1e-3, atol=0)
    assert bool((lengths[room:] < 1e-3).all())


def test_a_new_model_begins_with_a_straight_mapper(tmp_path: Path) -> None:
    torch.manual_seed(3)
    mapper = new_parts(write_tokenizer(tmp_path / "tokenizer"), 128, TOY)["mapper"]
    face = torch.randn(4, 128)
    with torch.no_grad():
        torch.testing.assert_close(mapper(-face), -mapper(face))
