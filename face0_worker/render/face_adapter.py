"""IP-Adapter-FaceID: a face as tokens of its own beside the text, which every cross-attention listens to apart.

Ye et al. 2023 (arXiv 2308.06721), and the checkpoints that its authors trained on face embeddings. With q the queries
of a cross-attention layer, t the text and f a normalised embedding of unit length,

    tokens = norm(W2 gelu(W1 f + b1) + b2)                                   (n, 512) -> (n, 4, width)
    out    = attention(q, Wk t, Wv t) + scale * attention(q, W'k tokens, W'v tokens)

"No face" is what the first line makes of a zero embedding, as the adapter's authors and diffusers have it. The tokens
stand behind the text's in one context, row by row, so each row of a batch hears its own person and nobody else's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from face0_worker.contract.errors import BadInput
from face0_worker.render.card import Card, FaceAdapter
from face0_worker.render.loras import Change, Changes, check_change
from face0_worker.render.weight_files import Stored

PROJECTION, LAYERS = "image_proj.", "ip_adapter."
_LAYER = re.compile(r"ip_adapter\.(\d+)\.(to_[kv]_ip|to_(q|k|v|out)_lora\.(down|up))\.weight")


class FaceProjection(nn.Module):
    """The adapter's tokens of a face: (n, embedding) -> (n, tokens, text_width). Its weights have the file's names.

    The embedding may have any length but zero's: it is scaled to unit length, as insightface's `normed_embedding`.
    """

    def __init__(self, embedding: int, tokens: int, text_width: int, width: int) -> None:
        super().__init__()
        self.tokens, self.text_width, self.embedding = tokens, text_width, embedding
        self.proj = nn.Sequential(nn.Linear(embedding, width), nn.GELU(), nn.Linear(width, tokens * text_width))
        self.norm = nn.LayerNorm(text_width)

    def forward(self, embedding: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(embedding, dim=1)
        return torch.as_tensor(self.norm(self.proj(unit).reshape(len(unit), self.tokens, self.text_width)))

    def no_face(self) -> Tensor:
        """Return what stands for no face, (1, tokens, text_width): the tokens of a zero embedding."""
        zeros = torch.zeros(1, self.embedding, device=self.norm.weight.device)
        return torch.as_tensor(self(zeros))


class FaceAttention(nn.Module):
    """A cross-attention's processor whose context ends with `tokens` face tokens, heard apart from the text."""

    def __init__(self, hidden: int, text_width: int, adapter: FaceAdapter) -> None:
        super().__init__()
        self.tokens, self.scale = adapter.tokens, adapter.scale
        self.to_k_ip = nn.Linear(text_width, hidden, bias=False)
        self.to_v_ip = nn.Linear(text_width, hidden, bias=False)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Return what the layer makes of (rows, places, hidden) in a context (rows, text and face tokens, width)."""
        text, face = encoder_hidden_states[:, : -self.tokens], encoder_hidden_states[:, -self.tokens :]
        query = attn.to_q(hidden_states)
        heard = _heard(query, attn.to_k(text), attn.to_v(text), attn.heads)
        heard = heard + self.scale * _heard(query, self.to_k_ip(face), self.to_v_ip(face), attn.heads)
        return torch.as_tensor(attn.to_out[1](attn.to_out[0](heard)))


def _heard(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of several heads side by side: all tensors (rows, places or tokens, hidden)."""
    split = (one.unflatten(2, (heads, -1)).transpose(1, 2) for one in (query, key, value))
    return scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def empty_projection(card: Card, stored: Mapping[str, Stored], text_width: int) -> FaceProjection:
    """Return the projection of a checked adapter, its weights without memory."""
    tokens = 0 if card.adapter is None else card.adapter.tokens
    with init_empty_weights():
        return FaceProjection(card.embedder_dim, tokens, text_width, stored[f"{PROJECTION}proj.0.weight"].shape[0])


def attach(unet: Any, adapter: FaceAdapter, text_width: int) -> None:
    """Give each cross-attention of an empty UNet a FaceAttention, its weights without memory."""
    processors = dict(unet.attn_processors)
    with init_empty_weights():
        for name in processors:
            if _is_cross(name):
                hidden = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
                processors[name] = FaceAttention(hidden, text_width, adapter)
    unet.set_attn_processor(processors)


def attention_weights(unet: Any, stored: Mapping[str, Stored], what: str) -> dict[str, Stored]:
    """Return the adapter's own attention weights under the names that they have in the UNet.

    Raises: BadInput: the adapter holds something else.
    """
    found = {}
    for name, (processor, rest, one) in _placed(unet, stored, what).items():
        if "lora" not in rest:
            if not _is_cross(processor):
                raise BadInput(f"{what} holds {name}, but layer {processor} does not listen to the text")
            found[f"{processor}.{rest}.weight"] = one
    return found


def lora_weights(
    unet: Any, stored: Mapping[str, Stored], scale: float, what: str, wanted: Mapping[str, tuple[int, ...]]
) -> Changes:
    """Return what the LoRA that belongs to the adapter adds to the UNet's own attention weights.

    Raises: BadInput: it is of another architecture, or a part of it is absent.
    """
    halves: dict[str, dict[str, Stored]] = {}
    for processor, rest, one in _placed(unet, stored, what).values():
        if "lora" in rest:
            layer, _, half = rest.partition("_lora.")
            weight = f"{processor.removesuffix('.processor')}.{layer}{'.0' if layer == 'to_out' else ''}.weight"
            halves.setdefault(weight, {})[half] = one
    found: Changes = {}
    for weight, pair in sorted(halves.items()):
        if pair.keys() != {"up", "down"} or pair["up"].shape[1:] != pair["down"].shape[:1]:
            raise BadInput(f"{what} is not whole: the two parts of its LoRA for {weight} don't fit each other")
        change = Change(pair["up"], pair["down"], scale)
        check_change(what, weight, change, wanted)
        found[weight] = [change]
    return found


def _placed(unet: Any, stored: Mapping[str, Stored], what: str) -> dict[str, tuple[str, str, Stored]]:
    """Return (processor, the rest of the name, tensor) of each of the adapter's layers, which it only numbers."""
    processors = list(unet.attn_processors)
    found = {}
    for name, one in stored.items():
        if name.startswith(PROJECTION):
            continue
        said = _LAYER.fullmatch(name)
        if said is None or int(said[1]) >= len(processors):
            raise BadInput(f"{what} holds {name}, which has no place in this model: it is for another architecture")
        found[name] = (processors[int(said[1])], said[2], one)
    return found


def _is_cross(processor: str) -> bool:
    return processor.endswith("attn2.processor")
