"""A corpus and untrained parts at toy size: a step takes hundredths of a second on one core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import CLIPTokenizer

from face0_worker.learn.corpus import Corpus, build_corpus, tokenise_wordings, tokens_of
from face0_worker.learn.model_folder import TOY, Shape, new_parts
from face0_worker.learn.small_model import new_subject
from face0_worker.learn.train import Subject

CAPTION = "a portrait of a person with long black hair wearing a red turtleneck, white background"
PEOPLE = ("ann", "ann", "ann", "bob", "bob", "cat", "dan")
# bob's second picture and dan's only one show no face
FACELESS = (4, 6)


def toy_corpus(tokenizer: CLIPTokenizer, people: Sequence[str] = PEOPLE) -> Corpus:
    """Return a corpus in which picture i tells itself: its latents are all i / 10, mirrored 10 + i / 10, and its face
    is i + 1 in every place; faces lie in the left half of the pictures."""
    count = len(people)
    own = torch.arange(count, dtype=torch.float32) / 10
    latents = torch.stack([own, 10 + own])[:, :, None, None, None].expand(2, count, 8, 8, 8).contiguous()
    faces = np.repeat(np.arange(1, count + 1, dtype=np.float32)[:, None], 128, axis=1)
    boxes = np.tile(np.array([[0.0, 0.2, 0.5, 0.7]], np.float32), (count, 1))
    if people is PEOPLE:
        faces[list(FACELESS)], boxes[list(FACELESS)] = 0, 0
    captions = [f"{CAPTION.replace('red', colour)}" for colour, _ in zip(COLOURS, people, strict=False)]
    words, silence = tokenise_wordings(captions, tokenizer), tokens_of([""], tokenizer)[0]
    return build_corpus(latents, words, silence, people, faces, boxes)


COLOURS = ("red", "green", "blue", "yellow", "pink", "purple", "orange")


def toy_subject(tokenizer: CLIPTokenizer, seed: int = 0, shape: Shape = TOY) -> Subject:
    """Return untrained parts of the toy shape as what is trained."""
    torch.manual_seed(seed)
    return new_subject(new_parts(tokenizer, 128, shape), torch.device("cpu"))
