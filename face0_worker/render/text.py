"""Prompts to tokens: one CLIP text encoder (SD 1.x, SD 2.x) or two side by side (SDXL).

What stands here follows diffusers' StableDiffusionPipeline and StableDiffusionXLPipeline, so that a picture
without a face is theirs; only the room for the face tokens is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextEncoder:
    """A CLIP text model and the tokenizer that goes with it."""

    tokenizer: Any
    model: Any


@dataclass(frozen=True)
class EncodedTexts:
    """Encoded prompts: `tokens` (n, length, d) float32; `truncated[i]`: the end of prompt i was not used.

    `pooled` (n, p) is what the second encoder of SDXL says of the whole prompt; None where there is one encoder.
    """

    tokens: Tensor
    truncated: tuple[bool, ...]
    pooled: Tensor | None = None

    def with_zeros(self) -> EncodedTexts:
        """Return the same with one more row, all zeros: how SDXL says nothing at all."""
        pooled = None if self.pooled is None else _one_more(self.pooled)
        return replace(self, tokens=_one_more(self.tokens), truncated=(*self.truncated, False), pooled=pooled)


def encode_texts(encoders: Sequence[TextEncoder], texts: Sequence[str], face_tokens: int) -> EncodedTexts:
    """Encode each text so that all of it stands before the last `face_tokens` tokens, its end token included.

    One encoder gives its last hidden state after the final norm: (n, length, d). SD 2.x wants the penultimate
    layer of OpenCLIP-H; its folders leave the last layer out, so the same holds for them. Two encoders give
    their penultimate hidden states side by side, (n, length, d1 + d2), and the pooled embedding of the second.
    The encoders are causal, so the padding that the face will override does not change what stands before it.
    """
    encoded = [_encode(encoder, texts, face_tokens, penultimate=len(encoders) > 1) for encoder in encoders]
    tokens = torch.cat([one.tokens for one in encoded], dim=2)
    truncated = tuple(any(flags) for flags in zip(*(one.truncated for one in encoded), strict=True))
    return EncodedTexts(tokens, truncated, encoded[-1].pooled)


def at_once(rows: Tensor) -> int:
    """Return how many rows to encode in one call.

    One on a CPU: its float32 products round differently with the number of rows, and after rounding to
    bfloat16 the same item would not be the same picture in every batch (promise P10).
    """
    return 1 if rows.device.type == "cpu" else max(1, len(rows))


def _encode(encoder: TextEncoder, texts: Sequence[str], face_tokens: int, *, penultimate: bool) -> EncodedTexts:
    model, tokenizer = encoder.model, encoder.tokenizer
    length = int(model.config.max_position_embeddings)
    free = length - face_tokens
    # the tokenizer's own warning about long texts would put nothing new beside the truncated flag
    whole = [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
    cut = tokenizer(list(texts), truncation=True, max_length=free)
    padded = tokenizer.pad(cut, padding="max_length", max_length=length, return_tensors="pt")
    ids = padded["input_ids"].to(next(model.parameters()).device)
    out = [model(part, output_hidden_states=penultimate) for part in ids.split(at_once(ids))]
    truncated = tuple(count > free for count in whole)
    if not penultimate:
        return EncodedTexts(torch.cat([one.last_hidden_state.float() for one in out]), truncated)
    tokens = torch.cat([one.hidden_states[-2].float() for one in out])
    # only an encoder with a projection, the second, has text_embeds: each prompt's at its end token
    pooled = [one.text_embeds.float() for one in out if "text_embeds" in one]
    return EncodedTexts(tokens, truncated, torch.cat(pooled) if pooled else None)


def _one_more(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.zeros_like(rows[:1])])
