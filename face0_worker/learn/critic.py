"""Judge patches of pictures as real or decoded: what makes a decoder crisp where an average would be blurred."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class PatchCritic(nn.Module):
    """PatchGAN (Isola et al. 2017): scores for overlapping patches of about 34 px. No normalisation.

    Shapes: (n, 3, h, w) in [-1, 1] -> scores (n, 1, h/8, w/8) and the features of each layer before them.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        sizes = ((3, width), (width, 2 * width), (2 * width, 4 * width))
        self.layers = nn.ModuleList(nn.Conv2d(*pair, 4, stride=2, padding=1) for pair in sizes)
        self.score = nn.Conv2d(4 * width, 1, 3, padding=1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        features, x = [], pictures
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x), features


class Contest:
    """A critic and its optimiser, trained against a decoder (hinge loss)."""

    def __init__(self, device: torch.device, rate: float = 4e-4, width: int = 48) -> None:
        critic: Any = PatchCritic(width)
        self.critic = critic.to(device=device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.critic.parameters(), lr=rate, betas=(0.5, 0.9), fused=True)

    def learn(self, decoded: Tensor, real: Tensor) -> None:
        """Teach the critic to tell `decoded` from `real`, both (n, 3, h, w) in [-1, 1]."""
        with torch.autocast(decoded.device.type, torch.bfloat16):
            scores, _ = self.critic(torch.cat([decoded.detach(), real]))
        fake, true = scores.float().chunk(2)
        loss = functional.relu(1 + fake).mean() + functional.relu(1 - true).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.critic.parameters(), float("inf"))
        # a picture that is not finite must not spoil the critic for good: see VaeTrainer.advance
        self.optimiser.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self.optimiser.step()

    def loss(self, decoded: Tensor, real: Tensor) -> Tensor:
        """What the decoder wants small: patches judged decoded, and features far from the real picture's."""
        with torch.autocast(decoded.device.type, torch.bfloat16):
            scores, features = self.critic(decoded)
            with torch.no_grad():
                _, wanted = self.critic(real)
        apart = [
            functional.l1_loss(mine.float(), theirs.float()) for mine, theirs in zip(features, wanted, strict=True)
        ]
        judged: Tensor = torch.stack(apart).sum() - scores.float().mean()
        return judged
