"""Conditioning: the mapper, the token override, and where the text ends."""

from __future__ import annotations

import pytest
import torch

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import RenderItem
from face0_worker.render.conditioning import FaceMapper, override_tokens
from face0_worker.render.guidance import Branch, Rows
from face0_worker.render.pipeline import Pipeline
from tests.fakes import tiny_embedding

LONG = "red blue " * 60


def test_the_mapper_is_face0s_four_layers_with_relu_between() -> None:
    mapper = FaceMapper(512, 3, 768)
    shapes = [tuple(layer.weight.shape) for layer in mapper.layers if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(768, 512), (768, 768), (768, 768), (3 * 768, 768)]

    x = torch.randn(2, 512)
    with torch.no_grad():
        hidden = x
        for layer in list(mapper.layers)[:-1]:
            hidden = layer(hidden).clamp(min=0)
        wanted = mapper.layers[-1](hidden).view(2, 3, 768)
        torch.testing.assert_close(mapper(x), wanted)
    assert wanted.min() < 0, "no ReLU after the last layer"


def test_a_face_overrides_the_last_tokens_and_nothing_else() -> None:
    text, face = torch.randn(2, 77, 8), torch.randn(2, 3, 8)
    before = text.clone()
    told = override_tokens(text, face)
    assert torch.equal(told[:, :74], before[:, :74])
    assert torch.equal(told[:, 74:], face)
    assert torch.equal(text, before)


def test_without_face_tokens_the_text_is_left_whole() -> None:
    text = torch.randn(1, 77, 8)
    assert torch.equal(override_tokens(text, torch.zeros(1, 0, 8)), text)


@pytest.mark.parametrize("face", [(1, 3, 8), (2, 3, 4), (2, 78, 8)])
def test_tokens_that_do_not_fit_are_refused(face: tuple[int, int, int]) -> None:
    with pytest.raises(BadInput, match="don't fit"):
        override_tokens(torch.zeros(2, 77, 8), torch.zeros(face))


def test_each_branch_is_told_what_the_paper_says(tiny: Pipeline) -> None:
    item = RenderItem("sku", "red", negative_prompt="blue")
    told = tiny.condition([item], [tiny_embedding(1)])
    context = told.context(Rows((0,) * 4, tuple(Branch), (1.0,) * 4))
    encoded, row_of = tiny.encode_prompts(["red", "blue", ""])
    words = {text: encoded.tokens[row] for text, row in row_of.items()}
    face, nobody = tiny.encode_faces([tiny_embedding(1)])[1], torch.zeros(3, 32)

    for branch, text, tokens in (
        (Branch.JOINT, "red", face),
        (Branch.FACE, "", face),
        (Branch.TEXT, "red", nobody),
        (Branch.NONE, "blue", nobody),
    ):
        assert torch.equal(context[branch][:74], words[text][:74]), branch
        assert torch.equal(context[branch][74:], tokens), branch


def test_no_face_is_zero_tokens_in_every_branch(tiny: Pipeline) -> None:
    told = tiny.condition([RenderItem("sku", "red")], [None])
    context = told.context(Rows((0,) * 4, tuple(Branch), (1.0,) * 4))
    assert not context[:, -3:].any()


def test_faces_and_prompts_are_dealt_to_their_own_items(tiny: Pipeline) -> None:
    items = [RenderItem("a", "red"), RenderItem("b", "blue"), RenderItem("c", "red")]
    faces = [tiny_embedding(1), None, tiny_embedding(2)]
    together = tiny.condition(items, faces).context(Rows((0, 1, 2), (Branch.JOINT,) * 3, (1.0,) * 3))
    for index, (item, face) in enumerate(zip(items, faces, strict=True)):
        alone = tiny.condition([item], [face]).context(Rows((0,), (Branch.JOINT,), (1.0,)))
        assert torch.equal(together[index], alone[0])


def test_text_ends_before_the_face_with_its_end_token(tiny: Pipeline) -> None:
    seen = []
    tiny.text_encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoded, _ = tiny.encode_prompts([LONG])
    assert encoded.truncated == (True,)
    assert encoded.tokens.shape == (1, 77, 32)
    ids = seen[0][0].tolist()
    assert ids[0] == tiny.tokenizer.bos_token_id
    assert ids[73] == tiny.tokenizer.eos_token_id
    assert tiny.tokenizer.eos_token_id not in ids[1:73]


def test_a_prompt_that_just_fits_is_not_called_truncated(tiny: Pipeline) -> None:
    fits = " ".join(["red"] * 72)
    assert tiny.encode_prompts([fits])[0].truncated == (False,)
    assert tiny.encode_prompts([fits + " red"])[0].truncated == (True,)


def test_equal_prompts_are_encoded_once(tiny: Pipeline) -> None:
    encoded, row_of = tiny.encode_prompts(["red", "blue", "red", "", ""])
    assert len(encoded.tokens) == len(row_of) == 3
