"""Conditioning: the mapper, the token override, and where the text ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import RenderItem
from face0_worker.render.conditioning import FaceMapper, override_tokens
from face0_worker.render.guidance import Branch, Rows
from face0_worker.render.pipeline import Pipeline
from tests.fakes import tiny_embedding

LONG = "red blue " * 60


@pytest.mark.parametrize(
    ("embedding", "tokens", "text_width"), [(512, 3, 768), (128, 3, 1024), (512, 4, 2048), (1792, 1, 32)]
)
def test_the_mapper_is_face0s_four_layers_with_relu_between(embedding: int, tokens: int, text_width: int) -> None:
    mapper = FaceMapper(embedding, tokens, text_width)
    shapes = [tuple(layer.weight.shape) for layer in mapper.layers if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(768, embedding), (768, 768), (768, 768), (tokens * text_width, 768)]

    x = torch.randn(2, embedding)
    with torch.no_grad():
        hidden = x
        for layer in list(mapper.layers)[:-1]:
            hidden = layer(hidden).clamp(min=0)
        wanted = mapper.layers[-1](hidden).view(2, tokens, text_width)
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
    context = told.context(Rows((0,) * 4, tuple(Branch), (1.0,) * 4)).tokens
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
    context = told.context(Rows((0,) * 4, tuple(Branch), (1.0,) * 4)).tokens
    assert not context[:, -3:].any()


def test_faces_and_prompts_are_dealt_to_their_own_items(tiny: Pipeline) -> None:
    items = [RenderItem("a", "red"), RenderItem("b", "blue"), RenderItem("c", "red")]
    faces = [tiny_embedding(1), None, tiny_embedding(2)]
    together = tiny.condition(items, faces).context(Rows((0, 1, 2), (Branch.JOINT,) * 3, (1.0,) * 3)).tokens
    for index, (item, face) in enumerate(zip(items, faces, strict=True)):
        alone = tiny.condition([item], [face]).context(Rows((0,), (Branch.JOINT,), (1.0,))).tokens
        assert torch.equal(together[index], alone[0])


def test_text_ends_before_the_face_with_its_end_token(tiny: Pipeline) -> None:
    seen = []
    encoder = tiny.encoders[0]
    encoder.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoded, _ = tiny.encode_prompts([LONG])
    assert encoded.truncated == (True,)
    assert encoded.tokens.shape == (1, 77, 32)
    ids = seen[0][0].tolist()
    assert ids[0] == encoder.tokenizer.bos_token_id
    assert ids[73] == encoder.tokenizer.eos_token_id
    assert encoder.tokenizer.eos_token_id not in ids[1:73]


def test_a_prompt_that_just_fits_is_not_called_truncated(tiny: Pipeline) -> None:
    fits = " ".join(["red"] * 72)
    assert tiny.encode_prompts([fits])[0].truncated == (False,)
    assert tiny.encode_prompts([fits + " red"])[0].truncated == (True,)


def test_equal_prompts_are_encoded_once(tiny: Pipeline) -> None:
    encoded, row_of = tiny.encode_prompts(["red", "blue", "red", "", ""])
    assert len(encoded.tokens) == len(row_of) == 3


ALL_BRANCHES = Rows((0,) * 4, tuple(Branch), (1.0,) * 4)
SIZED = RenderItem("sku", "red", negative_prompt="blue", width=64, height=96)


def test_on_a_cpu_each_prompt_and_face_is_encoded_alone_and_never_depends_on_the_others(tiny: Pipeline) -> None:
    prompts, faces = ["red", "blue", "a green thing"], [tiny_embedding(number) for number in range(3)]
    calls: list[int] = []
    for module in (tiny.encoders[0].model, tiny.mapper):
        module.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    texts, tokens = tiny.encode_prompts(prompts)[0].tokens, tiny.encode_faces(faces)
    # bit for bit, which more rows in a call only happen to keep
    assert calls == [1] * 6
    for number in range(3):
        assert torch.equal(tiny.encode_prompts(prompts[number:])[0].tokens[0], texts[number])
        assert torch.equal(tiny.encode_faces(faces[number:])[1], tokens[1 + number])


def test_sdxl_is_told_both_encoders_penultimate_states_side_by_side(tiny_sdxl: Pipeline) -> None:
    encoded, row_of = tiny_sdxl.encode_prompts(["red"])
    parts, pooled = [], None
    for encoder in tiny_sdxl.encoders:
        ids = encoder.tokenizer("red", padding="max_length", max_length=74, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = encoder.model(ids, output_hidden_states=True)
        parts.append(out.hidden_states[-2])
        pooled = out.get("text_embeds", pooled)
    assert encoded.tokens.shape == (1, 77, 32 + 48)
    torch.testing.assert_close(encoded.tokens[row_of["red"]][:74], torch.cat(parts, dim=2)[0])
    torch.testing.assert_close(encoded.pooled, pooled)


def test_in_sdxl_the_face_overrides_the_joint_tokens_and_the_pooled_prompt_stays(tiny_sdxl: Pipeline) -> None:
    with_face, without = (
        tiny_sdxl.condition([SIZED], [face]).context(ALL_BRANCHES) for face in (tiny_embedding(1), None)
    )
    assert torch.equal(with_face.tokens[:, :74], without.tokens[:, :74])
    assert torch.equal(with_face.tokens[Branch.JOINT][74:], tiny_sdxl.encode_faces([tiny_embedding(1)])[1])
    assert torch.equal(with_face.tokens[Branch.FACE][74:], with_face.tokens[Branch.JOINT][74:])
    assert not with_face.tokens[[Branch.TEXT, Branch.NONE], 74:].any()
    assert not without.tokens[:, 74:].any()

    encoded, row_of = tiny_sdxl.encode_prompts(["red", "blue"])
    assert with_face.pooled is not None
    assert encoded.pooled is not None
    for branch, text in ((Branch.JOINT, "red"), (Branch.TEXT, "red"), (Branch.NONE, "blue")):
        assert torch.equal(with_face.pooled[branch], encoded.pooled[row_of[text]]), branch


def test_where_sdxl_is_told_nothing_it_is_told_zeros(tiny_sdxl: Pipeline) -> None:
    told = tiny_sdxl.condition([replace(SIZED, negative_prompt="")], [None]).context(ALL_BRANCHES)
    assert told.pooled is not None
    for branch in (Branch.FACE, Branch.NONE):
        assert not told.tokens[branch].any()
        assert not told.pooled[branch].any()
    assert told.tokens[Branch.TEXT][:74].any()
    # somebody who asks for the empty prompt says something: the empty prompt
    empty = tiny_sdxl.condition([replace(SIZED, prompt="")], [None]).context(ALL_BRANCHES)
    assert empty.tokens[Branch.TEXT][:74].any()


def test_sdxl_is_told_each_items_own_size(tiny_sdxl: Pipeline) -> None:
    items = [SIZED, replace(SIZED, width=128)]
    told = tiny_sdxl.condition(items, [None, None]).context(Rows((1, 0, 1), (Branch.JOINT,) * 3, (1.0,) * 3))
    assert told.sizes is not None
    assert told.sizes.tolist() == [[96, 128, 0, 0, 96, 128], [96, 64, 0, 0, 96, 64], [96, 128, 0, 0, 96, 128]]


def test_a_prompt_too_long_for_either_encoder_is_called_truncated(tiny_sdxl: Pipeline) -> None:
    # the same words, but the second encoder's tokenizer knows fewer merges: more tokens
    tiny_sdxl.encoders[1] = replace(tiny_sdxl.encoders[1], tokenizer=_letter_by_letter(tiny_sdxl.encoders[1].tokenizer))
    assert tiny_sdxl.encode_prompts([" ".join(["red"] * 30)])[0].truncated == (True,)
    assert tiny_sdxl.encode_prompts([" ".join(["red"] * 20)])[0].truncated == (False,)


def _letter_by_letter(tokenizer: Any) -> Any:
    vocabulary = tokenizer.get_vocab()
    return type(tokenizer)(vocab=vocabulary, merges=[], pad_token="!", model_max_length=77)


def test_an_sdxl_model_offers_its_own_size_and_guidance(tiny_sdxl: Pipeline) -> None:
    facts = tiny_sdxl.facts()
    assert (facts["size"], facts["steps"], facts["guidance"]["w"]) == (1024, 4, 3.0)
    assert tiny_sdxl.latent_shape(1024, 1024) == (4, 128, 128)
