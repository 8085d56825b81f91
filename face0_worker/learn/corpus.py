"""What one training step draws from: everything on the device, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from face0_worker.learn.autoencoder import to_unit
from face0_worker.learn.face_weight import face_weight
from face0_worker.learn.wordings import wordings

WORDINGS = 12  # of each caption
ENCODED_AT_ONCE = 64


@dataclass(frozen=True)
class Corpus:
    """Pictures ready to learn from, all tensors but perhaps `latents` on one device.

    `latents` (2, m, c, h, w): as they are and mirrored, scaled to unit variance; `kept` (n,) says which of them each
    picture's are. `words` (n, k, t) say k wordings: t token ids, int16, or the row of an encoded text; `silence` (t,)
    those of the empty text. `faces` (n, d) float32 normalised, rows of zeros where no
    face was found; `boxes` (n, 4) float32 in parts of the picture. The pictures of one person in which a face was
    found stand together in `order`: `first` and `views` (n,) say where i's begin and how many they are, `place` (n,)
    which of them is i itself, -1 for none. `persons` (n, d) float32 is the direction of a person's embeddings over all
    views, of length one, zero where no face was found.
    """

    latents: Tensor
    kept: Tensor
    words: Tensor
    silence: Tensor
    faces: Tensor
    boxes: Tensor
    order: Tensor
    first: Tensor
    views: Tensor
    place: Tensor
    persons: Tensor

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def device(self) -> torch.device:
        """Where batches are wanted."""
        return self.words.device


def build_corpus(
    latents: Tensor,
    words: Tensor,
    silence: Tensor,
    people: Sequence[str],
    faces: np.ndarray,
    boxes: np.ndarray,
    kept: Tensor | None = None,
) -> Corpus:
    """Return the corpus of n pictures on the device of `words` (n, k, t). `kept` None: `latents` lie in their order."""
    device = words.device
    found = np.abs(faces).sum(axis=1) > 0
    mine: dict[str, list[int]] = {}
    for index in np.flatnonzero(found).tolist():
        mine.setdefault(people[index], []).append(index)
    starts: dict[str, int] = {}
    order: list[int] = []
    for person, indices in mine.items():
        starts[person] = len(order)
        order += indices
    position = {index: number for number, index in enumerate(order)}
    first = np.array([starts.get(person, 0) for person in people], np.int64)
    views = np.array([len(mine.get(person, ())) for person in people], np.int64)
    place = np.array([position[i] - first[i] if i in position else -1 for i in range(len(people))], np.int64)
    sums = np.zeros_like(faces, dtype=np.float32)
    for indices in mine.values():
        sums[indices] = faces[indices].sum(axis=0)
    persons = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)

    def there(table: np.ndarray | list[int], kind: type = np.int64) -> Tensor:
        return torch.from_numpy(np.asarray(table, kind)).to(device)

    return Corpus(
        latents,
        (torch.arange(len(people)) if kept is None else kept).to(device),
        words,
        silence,
        faces=there(faces, np.float32),
        boxes=there(boxes, np.float32),
        order=there(order or [0]),
        first=there(first),
        views=there(views),
        place=there(place),
        persons=there(persons, np.float32),
    )


def tokenise_wordings(captions: Sequence[str], tokenizer: CLIPTokenizer, seed: int = 0) -> Tensor:
    """Return the token ids (n, WORDINGS, 77) int16 of every caption's wordings; each text is tokenised once."""
    rng = np.random.default_rng(seed)
    texts = [text for caption in captions for text in wordings(caption, WORDINGS, rng)]
    row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    ids = tokens_of(list(row_of), tokenizer)
    rows = torch.tensor([row_of[text] for text in texts])
    return ids[rows].reshape(len(captions), WORDINGS, -1)


def tokens_of(texts: Sequence[str], tokenizer: CLIPTokenizer) -> Tensor:
    """Return token ids (n, 77) int16, padded and cut to the tokenizer's length."""
    length = tokenizer.model_max_length
    padded = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return torch.as_tensor(padded["input_ids"]).to(torch.int16)


@torch.no_grad()
def encode_latents(pixels: np.ndarray, vae: Any, device: torch.device) -> Tensor:
    """Return the scaled latents (2, n, c, h, w) of pictures uint8 (n, s, s, 3), plain and mirrored, on the device."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    halves: list[list[Tensor]] = [[], []]
    for start in range(0, len(pixels), ENCODED_AT_ONCE):
        units = to_unit(torch.from_numpy(pixels[start : start + ENCODED_AT_ONCE]).to(device))
        for half, picture in zip(halves, (units, units.flip(-1)), strict=True):
            with torch.autocast(device.type, torch.bfloat16):
                latents = vae.encode(picture.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
            half.append((latents.float() * float(vae.config.scaling_factor)).to(kind).contiguous())
    return torch.stack([torch.cat(half) for half in halves])


@dataclass(frozen=True)
class Batch:
    """One batch: `latents` (b, c, h, w) float32; `words` (b, t) int64; `faces` (b, d) float32, zero rows for no
    face; `weight` (b, 1, h, w) float32, what each place counts in the loss; `boxes` (b, 4) float32, where the faces
    lie."""

    latents: Tensor
    words: Tensor
    faces: Tensor
    weight: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Mix:
    """What a batch is made of. `drop_*` are the chances that face, text or both are left out (as IP-Adapter-FaceID
    does, for guidance); `other_view` the chance that another picture of the same person is the condition;
    `face_noise` the deviation of what is added to each number of an embedding, whose own is one; `face_weight` how
    much more than elsewhere a place in the middle of the face counts."""

    batch: int = 256
    drop_face: float = 0.09
    drop_text: float = 0.09
    drop_both: float = 0.09
    other_view: float = 0.8
    face_noise: float = 0.1
    face_weight: float = 6.0


def draw(corpus: Corpus, mix: Mix, generator: torch.Generator) -> Batch:
    """Draw one batch on the corpus's device, where `generator` is too; nothing waits for the device."""
    device, size = corpus.device, mix.batch

    def chance() -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    def below(limit: Tensor | int) -> Tensor:
        return torch.minimum((chance() * limit).long(), torch.as_tensor(limit, device=device) - 1).clamp_(min=0)

    chosen, mirrored = below(len(corpus)), below(2)
    lot = chance()
    no_face = (lot < mix.drop_both) | (lot > 1 - mix.drop_face)
    no_text = lot < mix.drop_both + mix.drop_text
    words = corpus.words[chosen, below(corpus.words.shape[1])]
    words = torch.where(no_text[:, None], corpus.silence, words).long()
    first, views, place = corpus.first[chosen], corpus.views[chosen], corpus.place[chosen]
    others = views - (place >= 0).long()
    shifted = (place + 1 + below(others)) % views.clamp(min=1)  # from the one after it, round: never itself
    use_other = (others > 0) & ((place < 0) | (chance() < mix.other_view))
    view = torch.where(use_other, shifted, place.clamp(min=0))
    known = (views > 0) & ~no_face
    faces = corpus.faces[corpus.order[(first + view).clamp(max=len(corpus.order) - 1)]]
    faces = faces + mix.face_noise * torch.randn(faces.shape, generator=generator, device=device)
    shelf = corpus.latents.device
    latents = corpus.latents[mirrored.to(shelf), corpus.kept[chosen].to(shelf)].to(device).float()
    boxes = mirror(corpus.boxes[chosen], mirrored)
    weight = face_weight(boxes, latents.shape[-1], mix.face_weight)
    return Batch(latents, words, faces * known[:, None], weight, boxes)


def mirror(boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Return boxes (b, 4) as they lie in the pictures of which those are mirrored where `mirrored` (b,) is one."""
    left, top, right, bottom = boxes.unbind(1)
    return torch.where(mirrored[:, None] == 1, torch.stack([1 - right, top, 1 - left, bottom], dim=1), boxes)
