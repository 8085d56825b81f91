"""What a step draws: whose face conditions whose picture, what is left out, and what a mirror does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from face0_worker.learn.corpus import (
    WORDINGS,
    Batch,
    Corpus,
    Mix,
    build_corpus,
    draw,
    encode_latents,
    tokenise_wordings,
    tokens_of,
)
from face0_worker.learn.face_weight import face_weight
from face0_worker.learn.model_folder import TOY, vae_config
from tests.unit.learn.toy_training import CAPTION, FACELESS, PEOPLE, toy_corpus

DRAWN = 6000
MIX = Mix(batch=DRAWN, face_noise=0.0)


@pytest.fixture(scope="module")
def corpus(tokenizer: CLIPTokenizer) -> Corpus:
    return toy_corpus(tokenizer)


def _draw(corpus: Corpus, mix: Mix = MIX, seed: int = 0) -> Batch:
    return draw(corpus, mix, torch.Generator().manual_seed(seed))


def _pictures(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return which picture each row of a batch is, and whether it is mirrored."""
    told = batch.latents[:, 0, 0, 0]
    mirrored = told >= 9.5
    return ((told - 10 * mirrored) * 10).round().long(), mirrored


def _conditions(batch: Batch) -> Tensor:
    """Return whose face each row has: the number of its picture, -1 for none."""
    return batch.faces[:, 0].round().long() - 1


def test_the_condition_is_a_face_of_the_same_person_or_none(corpus: Corpus) -> None:
    batch = _draw(corpus)
    for picture, condition in zip(*(x.tolist() for x in (_pictures(batch)[0], _conditions(batch))), strict=True):
        assert condition == -1 or PEOPLE[condition] == PEOPLE[picture]
        assert condition not in FACELESS


def test_another_view_of_the_person_is_the_condition_where_there_is_one(corpus: Corpus) -> None:
    batch = _draw(corpus)
    (picture, _), condition = _pictures(batch), _conditions(batch)
    shown = condition >= 0
    for mine, others in ((0, {1, 2}), (1, {0, 2}), (2, {0, 1})):
        faces = condition[shown & (picture == mine)]
        assert float((faces != mine).float().mean()) == pytest.approx(MIX.other_view, abs=0.05)
        assert set(faces.tolist()) == others | {mine}
    assert set(condition[shown & (picture == 4)].tolist()) == {3}  # no face of its own: the other view's, always
    assert set(condition[shown & (picture == 3)].tolist()) == {3}  # the other view shows no face: its own
    assert set(condition[shown & (picture == 5)].tolist()) == {5}  # the only picture
    assert not bool(shown[picture == 6].any())  # nobody knows this face


def test_a_left_out_face_is_zeros_in_spite_of_the_noise(corpus: Corpus) -> None:
    batch = _draw(corpus, Mix(batch=DRAWN, face_noise=0.1))
    known = _pictures(batch)[0] < 6
    none = batch.faces.abs().sum(dim=1) == 0
    assert bool(none[~known].all())
    assert float(none[known].float().mean()) == pytest.approx(MIX.drop_face + MIX.drop_both, abs=0.02)
    noise = batch.faces[~none] - batch.faces[~none].round()
    assert float(noise.std()) == pytest.approx(0.1, abs=0.01)


def test_left_out_text_is_the_empty_text_and_faces_and_texts_go_as_often_as_planned(corpus: Corpus) -> None:
    batch = _draw(corpus)
    silent = (batch.words == corpus.silence).all(dim=1)
    known = _pictures(batch)[0] < 6
    faceless = (batch.faces.abs().sum(dim=1) == 0) & known
    shares = {"text": silent[known], "both": silent[known] & faceless[known], "face": faceless[known]}
    planned = {"text": MIX.drop_text + MIX.drop_both, "both": MIX.drop_both, "face": MIX.drop_face + MIX.drop_both}
    for name, share in shares.items():
        assert float(share.float().mean()) == pytest.approx(planned[name], abs=0.02), name


def test_the_empty_text_has_the_tokens_that_the_renderer_gives_it(corpus: Corpus, tokenizer: CLIPTokenizer) -> None:
    assert corpus.silence.tolist() == [tokenizer.bos_token_id] + [tokenizer.eos_token_id] * 76


def test_the_text_is_a_wording_of_the_drawn_picture(corpus: Corpus) -> None:
    batch = _draw(corpus)
    picture = _pictures(batch)[0]
    known = (batch.words[:, None] == corpus.words[picture]).all(dim=2).any(dim=1)
    silent = (batch.words == corpus.silence).all(dim=1)
    assert bool((known | silent).all())


def test_a_mirrored_picture_has_its_face_weighed_where_the_mirror_puts_it(corpus: Corpus) -> None:
    batch = _draw(corpus)
    picture, mirrored = _pictures(batch)
    faced = ~torch.isin(picture, torch.tensor(FACELESS))
    left, right = batch.weight[:, 0, :, :4].sum(dim=(1, 2)), batch.weight[:, 0, :, 4:].sum(dim=(1, 2))
    assert bool((left > right)[faced & ~mirrored].all())
    assert bool((right > left)[faced & mirrored].all())
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(batch.weight[faced & mirrored][0], batch.weight[faced & ~mirrored][0].flip(-1))


def test_a_face_weighs_more_in_its_middle_and_nothing_where_there_is_none() -> None:
    weight = face_weight(torch.tensor([[0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.0, 0.0]]), 16, 2.0)
    assert float(weight[0].max()) == pytest.approx(3, abs=0.15)
    assert float(weight[0, 0, 0, 0]) == pytest.approx(1, abs=0.1)
    assert torch.equal(weight[1], torch.ones(1, 16, 16))


def test_the_same_seed_draws_the_same_batch(corpus: Corpus) -> None:
    one, again, other = (_draw(corpus, Mix(batch=16), seed) for seed in (3, 3, 4))
    assert torch.equal(one.faces, again.faces)
    assert torch.equal(one.words, again.words)
    assert not torch.equal(one.faces, other.faces)


def test_a_corpus_in_which_nobody_has_a_face_conditions_on_none(tokenizer: CLIPTokenizer) -> None:
    nobody = np.zeros((2, 128), np.float32), np.zeros((2, 4), np.float32)
    corpus = build_corpus(
        torch.zeros(2, 2, 8, 8, 8),
        tokenise_wordings((CAPTION, "x"), tokenizer),
        tokens_of([""], tokenizer)[0],
        ("a", "b"),
        *nobody,
    )
    batch = _draw(corpus, Mix(batch=64))
    assert not bool(batch.faces.any())
    assert bool((batch.weight == 1).all())


def test_every_text_has_tokens_and_long_ones_are_cut(tokenizer: CLIPTokenizer) -> None:
    ids = tokens_of(["red turtleneck", "セーター", "x" * 500], tokenizer)
    assert ids.shape == (3, 77)
    assert bool((ids[:, 0] == tokenizer.bos_token_id).all())
    assert bool((ids[:, -1] == tokenizer.eos_token_id).all())
    assert tokenizer.decode(ids[0].tolist(), skip_special_tokens=True).strip() == "red turtleneck"


def test_the_caption_itself_is_the_first_of_its_wordings(corpus: Corpus, tokenizer: CLIPTokenizer) -> None:
    assert corpus.words.shape == (len(PEOPLE), WORDINGS, 77)
    assert tokenizer.decode(corpus.words[0, 0].tolist(), skip_special_tokens=True) == CAPTION.replace(",", " ,")


def test_mirrored_latents_are_those_of_the_mirrored_pictures_and_both_are_scaled() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**vae_config(TOY), scaling_factor=2.0).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    plain = encode_latents(pixels, vae, torch.device("cpu"))
    turned = encode_latents(pixels[:, :, ::-1].copy(), vae, torch.device("cpu"))
    assert plain.shape == (2, 3, 8, 8, 8)
    assert torch.equal(plain[1], turned[0])
    assert torch.equal(plain[0], turned[1])
    vae.register_to_config(scaling_factor=1.0)
    torch.testing.assert_close(plain, 2 * encode_latents(pixels, vae, torch.device("cpu")))
