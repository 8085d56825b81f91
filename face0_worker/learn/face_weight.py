"""What a place of a picture counts in a loss: faces are small, hard, and what is looked at."""

from __future__ import annotations

import torch
from torch import Tensor


def place_weight(boxes: Tensor, rows: Tensor, columns: Tensor, extra: float) -> Tensor:
    """Weight (b, 1, h, w) of the places at `rows` (b, h) and `columns` (b, w): one, rising to 1 + `extra` in the middle
    of each box (b, 4). All are in parts of the picture.

    A box without extent, where no face was found, adds nothing.
    """
    left, top, right, bottom = (boxes[:, side, None] for side in range(4))

    def bump(at: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.exp(-2 * ((at - (low + high) / 2) / (high - low).clamp(min=1e-3)).square())

    hill = bump(rows, top, bottom)[:, :, None] * bump(columns, left, right)[:, None, :] * (right > left)[:, :, None]
    return 1 + extra * hill[:, None]


def face_weight(boxes: Tensor, size: int, extra: float) -> Tensor:
    """Weight (b, 1, size, size) of all places of pictures, as `place_weight`."""
    at = ((torch.arange(size, device=boxes.device) + 0.5) / size)[None]
    return place_weight(boxes, at, at, extra)
