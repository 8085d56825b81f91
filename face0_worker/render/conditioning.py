"""What the denoiser is told: the text encoder's output with its last tokens overridden by a face.

Valevski et al. 2023 (arXiv 2306.06638), section 3: with text tokens CLIP(d) (77, d) and a face embedding f,

    context(d, f) = [CLIP(d)[:77 - k]; mapper(f)]            k = 3 in the paper

"No face" is zero tokens, never the padding's own tokens. In SDXL the context is the joint one of both text
encoders (d = 768 + 1280) and the mapper is as wide; the pooled embedding of the second encoder stays the prompt's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from face0_worker.contract.errors import BadInput
from face0_worker.render.guidance import Rows

NO_FACE = 0  # the first row of Conditioning.faces


class FaceMapper(nn.Module):
    """Face0's mapper: four linear layers, ReLU after the three hidden ones, from an embedding to k tokens.

        mapper(f) = W4 relu(W3 relu(W2 relu(W1 f + b1) + b2) + b3) + b4,  split into k tokens

    Shapes: (n, embedding) -> (n, tokens, text_width). The embedding is normalised, as `Embedder.normalise`
    returns it. `text_width` is that of the whole context: 768 (SD 1.x), 1024 (SD 2.x), 2048 (SDXL).
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
class Context:
    """What one call of the denoiser is told, row by row: `tokens` (rows, length, d) for its cross-attention.

    SDXL is told two things more, which its time embedding takes: `pooled` (rows, p), the prompt as one vector, and
    `sizes` (rows, 6), in pixels: original height and width, top and left of the crop, target height and width.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None

    def told(self) -> tuple[Tensor, ...]:
        """Return what there is of it, in this order."""
        return tuple(one for one in (self.tokens, self.pooled, self.sizes) if one is not None)


@dataclass(frozen=True)
class Conditioning:
    """What every branch of every item of a batch is told, each distinct text and face stored once.

    `texts` (t, length, d); `faces` (1 + f, k, d), where row 0 is zero tokens (NO_FACE); `text_of[item][branch]`
    and `face_of[item][branch]` are rows of them; `truncated` has one flag per item. With `beside` the faces are an
    adapter's: they stand behind the text and override nothing, and row 0 is what it was trained to take for no face.
    SDXL only: `pooled` (t, p)
    goes with `texts`, and `sizes` (items, 6) is what each item says in all its branches.
    """

    texts: Tensor
    faces: Tensor
    text_of: tuple[tuple[int, int, int, int], ...]
    face_of: tuple[tuple[int, int, int, int], ...]
    truncated: tuple[bool, ...]
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    beside: bool = False

    def to(self, dtype: torch.dtype) -> Conditioning:
        """Return the same in another precision; the sizes stay float32: bfloat16 has no 2056."""
        pooled = None if self.pooled is None else self.pooled.to(dtype)
        return replace(self, texts=self.texts.to(dtype), faces=self.faces.to(dtype), pooled=pooled)

    def context(self, rows: Rows) -> Context:
        """Return what the denoiser is told in these rows."""
        pairs = list(zip(rows.items, rows.branches, strict=True))
        texts = [self.text_of[item][branch] for item, branch in pairs]
        faces = [self.face_of[item][branch] for item, branch in pairs]
        said, shown = self.texts[texts], self.faces[faces]
        return Context(
            torch.cat([said, shown], dim=1) if self.beside else override_tokens(said, shown),
            None if self.pooled is None else self.pooled[texts],
            None if self.sizes is None else self.sizes[list(rows.items)],
        )
