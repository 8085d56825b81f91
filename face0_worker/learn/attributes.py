"""The attribute classifiers: what a picture shows, learned from what rendered pictures were rendered from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from face0_worker.contract.errors import BadInput
from face0_worker.learn.face_crops import OVERVIEW_SIDE
from face0_worker.learn.judge_network import Trunk, to_unit, vary_light, vary_place, vary_sharpness

WIDTHS = (24, 48, 96, 144, 192)

Truth = Mapping[str, Any]


@dataclass(frozen=True)
class AttributePlan:
    """How the classifiers train."""

    epochs: int = 8
    batch: int = 128
    rate: float = 3e-3
    seed: int = 0


class AttributeClassifier(nn.Module):
    """One trunk with one head per attribute; `values` names each attribute's classes, in the data's own words."""

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        super().__init__()
        self.values = {name: tuple(told) for name, told in values.items()}
        self.trunk = Trunk(WIDTHS)
        side = OVERVIEW_SIDE // 2 ** len(WIDTHS)
        # where something is matters: a garment lies below, a background above
        self.out = nn.Sequential(nn.Dropout(0.2), nn.Linear(WIDTHS[-1] * side * side, 256), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(told)) for name, told in self.values.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Pictures float32 (n, 3, OVERVIEW_SIDE, OVERVIEW_SIDE) in [-1, 1] to logits (n, classes) per attribute."""
        features = self.out(self.trunk(x.contiguous(memory_format=torch.channels_last)).flatten(1))
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def tell(self, overviews: np.ndarray) -> list[dict[str, Any]]:
        """Return each picture's most likely value of each attribute; uint8 (n, OVERVIEW_SIDE, OVERVIEW_SIDE, 3)."""
        self.eval()
        told: list[dict[str, Any]] = []
        device = next(self.parameters()).device
        for start in range(0, len(overviews), 256):
            logits = self(to_unit(torch.from_numpy(overviews[start : start + 256]).to(device)))
            best = {name: logit.argmax(dim=1).tolist() for name, logit in logits.items()}
            count = len(overviews[start : start + 256])
            told += [{name: self.values[name][best[name][row]] for name in best} for row in range(count)]
        return told


def train_attributes(
    overviews: np.ndarray,
    truths: Sequence[Truth],
    values: Mapping[str, Sequence[Any]],
    plan: AttributePlan,
    device: torch.device,
    say: Callable[[str], None],
) -> AttributeClassifier:
    """Train on uint8 overviews (n, OVERVIEW_SIDE, OVERVIEW_SIDE, 3). Raises: BadInput: no attribute, or one picture."""
    if not values or len(truths) < 2:
        raise BadInput("attribute classifiers need at least two pictures and one attribute with two values")
    labels = {name: torch.tensor([told.index(truth[name]) for truth in truths]) for name, told in values.items()}
    torch.manual_seed(plan.seed)
    draw = torch.Generator().manual_seed(plan.seed)
    model = AttributeClassifier(values).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=2e-2)
    batch = min(plan.batch, len(truths))
    steps = len(truths) // batch
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.rate, total_steps=plan.epochs * steps)
    every, start = torch.from_numpy(overviews), time.monotonic()
    for epoch in range(plan.epochs):
        model.train()
        total = 0.0
        for chosen in torch.randperm(len(every), generator=draw)[: steps * batch].chunk(steps):
            x = _varied(to_unit(every[chosen].to(device)), draw)
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(x)
            wanted = {name: labels[name][chosen].to(device) for name in labels}
            losses = [functional.cross_entropy(logits[name].float(), wanted[name]) for name in wanted]
            loss = torch.stack(losses).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            rates.step()
            total += float(loss.detach()) / steps
        say(f"attributes: epoch {epoch + 1} of {plan.epochs}, loss {total:.3f}, {time.monotonic() - start:.0f} s")
    model.eval()
    return model


def _varied(x: Tensor, draw: torch.Generator) -> Tensor:
    x = vary_place(x, draw, turn_deg=4, zoom=0.06, shift=0.03)
    # colours are what is asked: hardly any change of their balance
    x = vary_light(x, draw, brightness=0.05, contrast=0.1, colour=0.02)
    return vary_sharpness(x, draw, least=OVERVIEW_SIDE // 3, noise=0.04)
