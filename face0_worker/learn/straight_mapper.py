"""A FaceMapper before training: a straight line, so that every direction of an embedding reaches the denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from face0_worker.render.conditioning import FaceMapper


@torch.no_grad()
def straighten(mapper: FaceMapper) -> FaceMapper:
    """Give the mapper weights with which it is linear and its tokens are as large as text's, and return it.

        mapper(f) = s P M3 M2 M1 f,    all semi-orthogonal, s such that numbers of variance one become such

    Each hidden unit has a twin of the opposite sign, and relu(u) - relu(-u) = u: the looks-linear start of Balduzzi
    et al. 2017 (arXiv 1702.08591). As torch begins its layers, what tells faces apart is a fiftieth of what text
    tokens are, and a training finds the few directions that matter most and no others (ADR 0011). Drawn from torch's
    global generator. Directions of an embedding beyond half the width are left out.
    """
    first, *between, last = (layer for layer in mapper.layers if isinstance(layer, torch.nn.Linear))
    half = first.out_features // 2
    for layer in (first, *between, last):
        layer.weight.zero_()
        layer.bias.zero_()
    into = _drawn(half, first.in_features)
    first.weight[: 2 * half] = torch.cat([into, -into])
    for layer in between:
        turn = _drawn(half, half)
        layer.weight[: 2 * half, : 2 * half] = torch.cat([torch.cat([turn, -turn], 1), torch.cat([-turn, turn], 1)])
    size = (max(last.out_features, half) / min(first.in_features, half)) ** 0.5
    out = size * _drawn(last.out_features, half)
    last.weight[:, : 2 * half] = torch.cat([out, -out], 1)
    return mapper


def _drawn(rows: int, columns: int) -> Tensor:
    """Return a semi-orthogonal matrix."""
    return torch.nn.init.orthogonal_(torch.empty(rows, columns))
