"""What a face pack would see in a picture, told from its latents alone: how a training asks whom it draws.

A denoiser's own loss hardly says whether a face is the right one: likeness is a small part of all that a picture is.
So a small network first learns, from the encoded pictures, to tell from the face in the latents what the pack says
of the person; then the denoiser's guess of the clean picture is asked for the person of the photo. PuLID (Guo et al.
2024, arXiv 2404.16022) asks a recogniser in pixels so; in latents nothing is decoded, and any pack will do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from face0_worker.learn.corpus import Corpus, mirror

SIDE = 16  # of a window, in samples
MARGIN = 0.2  # of the box, beyond each of its sides
WIDTHS = (48, 96, 192)
SAY_EVERY = 200
_KEY = "key"


@dataclass(frozen=True)
class LikenessPlan:
    """How the network learns: `steps` of `batch` faces.

    Up to `noise` is added to latents, whose deviation is one, and boxes move a little: what it looks for shall be more
    than a pattern that no eye sees. `contrast` is the part of telling people apart in its loss, `scale` the inverse
    temperature there.
    """

    steps: int = 1000
    batch: int = 128
    rate: float = 1e-3
    noise: float = 0.5
    contrast: float = 0.2
    scale: float = 16.0
    seed: int = 0


class LatentFace(nn.Module):
    """Windows of latents (b, c, SIDE, SIDE) to unit vectors float32 (b, d)."""

    def __init__(self, channels: int, dimension: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, WIDTHS[0], 3, padding=1)]
        before = WIDTHS[0]
        for width in WIDTHS:
            layers += [_Residual(before, width), _Residual(width, width), nn.AvgPool2d(2)]
            before = width
        side = SIDE // 2 ** len(WIDTHS)
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(8, before), nn.SiLU(), nn.Flatten())
        self.out = nn.Sequential(nn.Dropout(0.2), nn.Linear(before * side * side, dimension))

    def forward(self, windows: Tensor) -> Tensor:
        features = self.trunk(windows.contiguous(memory_format=torch.channels_last))
        return functional.normalize(self.out(features).float(), dim=1)


class _Residual(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            nn.GroupNorm(8, inside),
            nn.SiLU(),
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.GroupNorm(8, outside),
            nn.SiLU(),
            nn.Conv2d(outside, outside, 3, padding=1),
        )
        self.short: nn.Module = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.short(x) + self.deep(x))


def windows(latents: Tensor, boxes: Tensor) -> Tensor:
    """Return the faces of latents (b, c, h, w), whose boxes (b, 4) are parts of the picture: (b, c, SIDE, SIDE)."""
    left, top, right, bottom = boxes.unbind(1)
    matrix = torch.zeros(len(boxes), 2, 3, device=boxes.device)
    # affine_grid's places go from -1 to 1
    matrix[:, 0, 0], matrix[:, 1, 1] = (right - left) * (1 + 2 * MARGIN), (bottom - top) * (1 + 2 * MARGIN)
    matrix[:, 0, 2], matrix[:, 1, 2] = left + right - 1, top + bottom - 1
    grid = functional.affine_grid(matrix, [len(boxes), 1, SIDE, SIDE], align_corners=False)
    return functional.grid_sample(latents.float(), grid, padding_mode="border", align_corners=False)


def learn_latent_face(
    corpus: Corpus, plan: LikenessPlan, cache: Path | None = None, say: Callable[[str], None] = print
) -> LatentFace:
    """Learn to tell whose face it is from latents, in the words of the face pack; kept in `cache`, whole or not at all.

    Wanted is the direction of the person's embeddings over all views, which knows less of pose and expression than
    one view's, and that it is nearer than those of the batch's other people (InfoNCE, van den Oord et al. 2018,
    arXiv 1807.03748). It is learned again where the corpus or the plan is another.
    """
    named = _key(corpus, plan)
    with torch.random.fork_rng(devices=[corpus.device] if corpus.device.type == "cuda" else []):
        torch.manual_seed(plan.seed)
        model = LatentFace(corpus.latents.shape[2], corpus.persons.shape[1]).to(corpus.device)
        if _taken(model, cache, named):
            return model.eval().requires_grad_(False)
        _learn(model, corpus, plan, say)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        fresh = cache.with_suffix(".new")
        weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        save_file({**weights, _KEY: named}, fresh)
        fresh.replace(cache)
    return model.eval().requires_grad_(False)


def _taken(model: LatentFace, cache: Path | None, named: Tensor) -> bool:
    """Give the model the weights in `cache`, if they are those of this corpus and plan."""
    stored = load_file(cache) if cache is not None and cache.is_file() else {}
    if not torch.equal(stored.pop(_KEY, torch.zeros(0)), named):
        return False
    model.load_state_dict(stored)
    return True


def _learn(model: LatentFace, corpus: Corpus, plan: LikenessPlan, say: Callable[[str], None]) -> None:
    device, shelf = corpus.device, corpus.latents.device
    found = torch.nonzero(corpus.place >= 0)[:, 0]
    draw = torch.Generator(device).manual_seed(plan.seed)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=5e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.rate, total_steps=plan.steps)
    right = torch.arange(plan.batch, device=device)
    for step in range(1, plan.steps + 1):
        chosen = found[torch.randint(len(found), (plan.batch,), generator=draw, device=device)]
        mirrored = torch.randint(2, (plan.batch,), generator=draw, device=device)
        latents = corpus.latents[mirrored.to(shelf), corpus.kept[chosen].to(shelf)].to(device).float()
        strength = plan.noise * torch.rand(plan.batch, 1, 1, 1, generator=draw, device=device)
        latents = latents + strength * torch.randn(latents.shape, generator=draw, device=device)
        boxes = _moved(mirror(corpus.boxes[chosen], mirrored), draw)
        with torch.autocast(device.type, torch.bfloat16):
            said = model(windows(latents, boxes))
        alike = said @ corpus.persons[chosen].T
        # another picture of the same person is no stranger
        themselves = corpus.first[chosen][:, None] == corpus.first[chosen][None]
        others = (plan.scale * alike).masked_fill(themselves & (right[:, None] != right[None]), -torch.inf)
        near = alike.diagonal().mean()
        loss = 1 - near + plan.contrast * functional.cross_entropy(others, right)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        rates.step()
        if step % SAY_EVERY == 0 or step == plan.steps:
            say(f"faces in latents: step {step} of {plan.steps}, cosine to the person {float(near.detach()):.3f}")
    optimiser.zero_grad(set_to_none=True)


def _moved(boxes: Tensor, draw: torch.Generator) -> Tensor:
    """Move and resize boxes (b, 4) a little."""
    count, device = len(boxes), boxes.device
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shift = 0.08 * torch.randn(count, 2, generator=draw, device=device).repeat(1, 2)
    growth = 0.06 * torch.randn(count, 1, generator=draw, device=device)
    return boxes + sides * (shift + growth * torch.tensor([-1.0, -1.0, 1.0, 1.0], device=device))


def _key(corpus: Corpus, plan: LikenessPlan) -> Tensor:
    """Return what tells one corpus and plan from others, uint8: all faces, and some hundred of the pictures."""
    digest = hashlib.sha256(repr((plan, WIDTHS, MARGIN, tuple(corpus.latents.shape))).encode())
    some = corpus.latents[0, :: max(1, corpus.latents.shape[1] // 200)]
    for table in (corpus.persons, corpus.kept, corpus.boxes, some):
        digest.update(table.detach().cpu().float().contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def unlikeness(sense: LatentFace, guess: Tensor, truth: Tensor, boxes: Tensor) -> Tensor:
    """Return how much less than the `truth` a `guess` of it looks like whoever is in it: (b,) float32, 1 - cosine of
    what `sense` says of the two, latents (b, c, h, w) each; zero where there is no face, a box (b, 4) without extent.

    The truth itself is asked, not the pack: what is like it is right, and there is nothing to be gained beyond it.
    """
    with torch.no_grad():
        wanted = sense(windows(truth, boxes))
    alike: Tensor = (sense(windows(guess, boxes)) * wanted).sum(dim=1)
    return (1 - alike) * (boxes[:, 2] > boxes[:, 0])
