"""An independent recogniser: it tells people apart by the inner face, and never conditioned a picture."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from face0_worker.contract.errors import BadInput
from face0_worker.learn.face_crops import SIDE, ellipse
from face0_worker.learn.judge_network import Trunk, to_unit, vary_light, vary_place, vary_sharpness

WIDTHS = (32, 64, 128, 192)
DIMENSION = 128
_SEEN_PER_PERSON = 2  # one picture of a person teaches nothing about what stays the same


@dataclass(frozen=True)
class RecogniserPlan:
    """How the recogniser trains. `scale` and `margin` are CosFace's s and m (Wang et al. 2018)."""

    epochs: int = 16
    batch: int = 128
    rate: float = 3e-3
    scale: float = 24.0
    margin: float = 0.25
    seed: int = 0


class Recogniser(nn.Module):
    """Face crops uint8 (n, SIDE, SIDE, 3) to unit vectors float32 (n, DIMENSION)."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(WIDTHS)
        side = SIDE // 2 ** len(WIDTHS)
        self.out = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(WIDTHS[-1] * side * side, DIMENSION, bias=False), nn.BatchNorm1d(DIMENSION)
        )
        self.register_buffer("mask", ellipse(), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        return self.of_unit(to_unit(crops))

    def of_unit(self, x: Tensor) -> Tensor:
        """As forward, for float32 (n, 3, SIDE, SIDE) in [-1, 1]: hair and background are masked here, and always."""
        features = self.trunk((x * self.mask).contiguous(memory_format=torch.channels_last))
        return functional.normalize(self.out(features.flatten(1)).float())

    @torch.no_grad()
    def embed(self, crops: np.ndarray) -> np.ndarray:
        """Return unit vectors float32 (n, DIMENSION) of uint8 crops (n, SIDE, SIDE, 3); mirrored ones count as much."""
        self.eval()
        parts = [np.zeros((0, DIMENSION), np.float32)]
        for start in range(0, len(crops), 256):
            x = torch.from_numpy(crops[start : start + 256]).to(self.mask.device)
            both = functional.normalize(self(x) + self(x.flip(2)))
            parts.append(both.cpu().numpy())
        return np.concatenate(parts)


def train_recogniser(
    crops: np.ndarray,
    people: Sequence[str],
    plan: RecogniserPlan,
    device: torch.device,
    say: Callable[[str], None],
) -> Recogniser:
    """Train on uint8 crops (n, SIDE, SIDE, 3) of `people` (n); those with a single crop are left out.

    Margin softmax over the people. Raises: BadInput: fewer than two people with two crops.
    """
    kept, labels = _often_enough(crops, people)
    torch.manual_seed(plan.seed)
    draw = torch.Generator().manual_seed(plan.seed)
    model = Recogniser().to(device)
    centres = nn.Parameter(functional.normalize(torch.randn(int(labels.max()) + 1, DIMENSION)).to(device))
    optimiser = torch.optim.AdamW([*model.parameters(), centres], lr=plan.rate, weight_decay=5e-2)
    steps = max(1, len(kept) // plan.batch)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.rate, total_steps=plan.epochs * steps)
    start = time.monotonic()
    for epoch in range(plan.epochs):
        model.train()
        total, margin = 0.0, plan.margin * min(1.0, epoch / max(1, plan.epochs // 3))
        for chosen in torch.randperm(len(kept), generator=draw)[: steps * plan.batch].chunk(steps):
            if len(chosen) < 2:  # batch norm needs two
                continue
            x = _varied(to_unit(kept[chosen].to(device)), draw)
            with torch.autocast(device.type, torch.bfloat16):
                vectors = model.of_unit(x)
            loss = margin_softmax(vectors, centres, labels[chosen].to(device), plan.scale, margin)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            rates.step()
            total += float(loss.detach()) / steps
        say(f"recogniser: epoch {epoch + 1} of {plan.epochs}, loss {total:.3f}, {time.monotonic() - start:.0f} s")
    model.eval()
    return model


def _often_enough(crops: np.ndarray, people: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the crops of people who have two or more, with their people as numbers from 0."""
    _, place, counts = np.unique(np.asarray(people), return_inverse=True, return_counts=True)
    often = counts[place] >= _SEEN_PER_PERSON
    if np.count_nonzero(counts >= _SEEN_PER_PERSON) < 2:
        raise BadInput("a recogniser needs at least two people with two pictures each in which a face was found")
    return torch.from_numpy(crops[often]), torch.from_numpy(np.unique(place[often], return_inverse=True)[1])


def margin_softmax(vectors: Tensor, centres: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Return CosFace's loss: softmax over scaled cosines, the own person's less `margin`.

    Shapes: unit vectors (n, d), centres (people, d) of any length, labels (n,) int64 -> scalar.
    """
    cosines = vectors @ functional.normalize(centres).T
    own = functional.one_hot(labels, len(centres)).to(cosines.dtype)
    return functional.cross_entropy(scale * (cosines - margin * own), labels)


def _varied(x: Tensor, draw: torch.Generator) -> Tensor:
    x = vary_place(x, draw, turn_deg=8, zoom=0.08, shift=0.03)
    x = vary_light(x, draw, brightness=0.12, contrast=0.25, colour=0.1)
    return vary_sharpness(x, draw, least=math.ceil(0.3 * SIDE), noise=0.06)
