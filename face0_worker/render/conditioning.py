"""What the denoiser is told: the text encoder's output with its last tokens overridden by a face.

Valevski et al. 2023 (arXiv 2306.06638), section 3. "No face" is zero tokens, never the padding's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from face0_worker.contract.errors import BadInput
from face0_worker.render.guidance import Rows

NO_FACE = 0  # the first row of Conditioning.faces


class FaceMapper(nn.Module):
    """Face0's mapper: four linear layers, ReLU after the three hidden ones, from an embedding to k tokens.

    Shapes: (n, embedding) -> (n, tokens, text_width). The embedding is normalised, as `Embedder.normalise`
    returns it.
    """

    def __init__(self, embedding: int, tokens: int, text_width: int, width: int = 768) -> None:
        super().__init__()
        self.tokens, self.text_width = tokens, text_width
        sizes = (embedding, width, width, width, tokens * text_width)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))

    def forward(self, embedding: Tensor) -> Tensor:
        x = embedding
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.relu(layer(x))
        x = torch.as_tensor(last(x))
        return x.reshape(len(x), self.tokens, self.text_width)


def override_tokens(text: Tensor, face: Tensor) -> Tensor:
    """Return `text` with its last k tokens replaced by `face`; the inputs are left as they are.

    Shapes: text (n, length, d), face (n, k, d) -> (n, length, d); k may be 0.
    Raises: BadInput: the shapes don't fit.
    """
    fits = text.dim() == face.dim() == 3 and len(text) == len(face) and text.shape[2] == face.shape[2]
    if not fits or face.shape[1] > text.shape[1]:
        raise BadInput(f"face tokens {tuple(face.shape)} don't fit text tokens {tuple(text.shape)}")
    return torch.cat([text[:, : text.shape[1] - face.shape[1]], face], dim=1)


@dataclass(frozen=True)
class EncodedTexts:
    """Encoded prompts: `tokens` (n, length, d) float32; `truncated[i]`: the end of prompt i was not used."""

    tokens: Tensor
    truncated: tuple[bool, ...]


def encode_texts(tokenizer: Any, text_encoder: Any, texts: Sequence[str], face_tokens: int) -> EncodedTexts:
    """Encode each text so that all of it stands before the last `face_tokens` tokens, its end token included.

    The encoder is causal, so the padding that the face will override does not change what stands before it.
    """
    length = int(text_encoder.config.max_position_embeddings)
    free = length - face_tokens
    # the tokenizer's own warning about long texts would put nothing new beside the truncated flag
    whole = [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
    cut = tokenizer(list(texts), truncation=True, max_length=free)
    padded = tokenizer.pad(cut, padding="max_length", max_length=length, return_tensors="pt")
    ids = padded["input_ids"].to(next(text_encoder.parameters()).device)
    tokens = torch.cat([text_encoder(part).last_hidden_state.float() for part in ids.split(at_once(ids))])
    return EncodedTexts(tokens, tuple(count > free for count in whole))


def at_once(rows: Tensor) -> int:
    """Return how many rows to encode in one call.

    One on a CPU: its float32 products round differently with the number of rows, and after rounding to
    bfloat16 the same item would not be the same picture in every batch (promise P10).
    """
    return 1 if rows.device.type == "cpu" else max(1, len(rows))


@dataclass(frozen=True)
class Conditioning:
    """What every branch of every item of a batch is told, each distinct text and face stored once.

    `texts` (t, length, d); `faces` (1 + f, k, d), where row 0 is zero tokens (NO_FACE); `text_of[item][branch]`
    and `face_of[item][branch]` are rows of them; `truncated` has one flag per item.
    """

    texts: Tensor
    faces: Tensor
    text_of: tuple[tuple[int, int, int, int], ...]
    face_of: tuple[tuple[int, int, int, int], ...]
    truncated: tuple[bool, ...]

    def context(self, rows: Rows) -> Tensor:
        """Return what the denoiser's cross-attention sees for these rows: (rows, length, d)."""
        pairs = list(zip(rows.items, rows.branches, strict=True))
        texts = self.texts[[self.text_of[item][branch] for item, branch in pairs]]
        return override_tokens(texts, self.faces[[self.face_of[item][branch] for item, branch in pairs]])
