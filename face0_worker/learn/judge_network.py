"""What both judges are made of: a small convolutional trunk, and the variations that they learn to overlook."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """A residual block (He et al. 2016) that halves the side: (n, a, s, s) -> (n, b, s/2, s/2)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, 2, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outside)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outside)
        self.short = nn.Conv2d(inside, outside, 1, bias=False)
        self.grow = nn.PReLU(outside)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.second_norm(self.second(functional.relu(self.first_norm(self.first(x)))))
        return torch.as_tensor(self.grow(deep + self.short(functional.avg_pool2d(x, 2))))


class Trunk(nn.Module):
    """Pictures (n, 3, s, s) in [-1, 1] to features (n, widths[-1], s / 2**len(widths), ...)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(*(_Block(inside, outside) for inside, outside in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.blocks(self.stem(x)))


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def vary_place(x: Tensor, draw: torch.Generator, *, turn_deg: float, zoom: float, shift: float) -> Tensor:
    """Mirror half of the pictures (n, 3, s, s); turn, zoom and shift each a little, by parts of one and of the side."""
    n = len(x)
    angle = _spread(draw, n) * turn_deg * torch.pi / 180
    scale = 1 + _spread(draw, n) * zoom
    mirror = torch.where(torch.rand(n, generator=draw) < 0.5, -1.0, 1.0)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = scale * angle.cos() * mirror, -scale * angle.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = scale * angle.sin() * mirror, scale * angle.cos()
    matrix[:, 0, 2], matrix[:, 1, 2] = 2 * shift * _spread(draw, n), 2 * shift * _spread(draw, n)
    grid = functional.affine_grid(matrix.to(x.device), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def vary_light(x: Tensor, draw: torch.Generator, *, brightness: float, contrast: float, colour: float) -> Tensor:
    """Change brightness, contrast and the balance of the channels of each picture (n, 3, s, s) in [-1, 1]."""
    n = len(x)
    gain = 1 + contrast * _spread(draw, n, 1, 1, 1) + colour * _spread(draw, n, 3, 1, 1)
    added = 2 * brightness * _spread(draw, n, 1, 1, 1)
    return (x * gain.to(x.device) + added.to(x.device)).clamp(-1, 1)


def vary_sharpness(x: Tensor, draw: torch.Generator, *, least: int, noise: float) -> Tensor:
    """Take resolution from half of the pictures (n, 3, s, s), down to `least` px, and add noise to all.

    A generated picture is softer than a rendered one; a judge that had seen sharp ones only would tell the two
    apart where it should tell people apart.
    """
    side, n = x.shape[-1], len(x)
    order = torch.randperm(n, generator=draw)
    out = x.clone()
    for part in order[: n // 2].chunk(4):
        small = int(torch.randint(least, side, (1,), generator=draw))
        less = functional.interpolate(x[part], size=(small, small), mode="bilinear", antialias=True)
        out[part] = functional.interpolate(less, size=(side, side), mode="bicubic").clamp(-1, 1)
    grain = torch.randn(out.shape, generator=draw) * noise * torch.rand(n, 1, 1, 1, generator=draw)
    return out + grain.to(out.device)


def _spread(draw: torch.Generator, *shape: int) -> Tensor:
    """Return numbers drawn evenly from [-1, 1]."""
    return 2 * torch.rand(*shape, generator=draw) - 1
