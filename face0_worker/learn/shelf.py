"""Encoded things on disk, each known by a digest of what it was made of: encoded once, read where they are used."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from face0_worker.contract.errors import BadInput

_LINE = 65  # a sha256 in hex and an end of line


class Shelf:
    """Float16 arrays of one shape in a folder, by digest; it only grows, and what is whole in it stays whole.

    Arrays are written before their digests, so whoever is killed between the two leaves arrays that nobody knows of,
    and these are overwritten. One process writes at a time. Raises: BadInput: the folder holds other shapes.
    """

    def __init__(self, folder: Path, shape: Sequence[int]) -> None:
        self.folder, self.shape = folder, tuple(shape)
        self._bytes = 2 * int(np.prod(self.shape))
        folder.mkdir(parents=True, exist_ok=True)
        self._keys, self._values, about = folder / "digests.txt", folder / "values.bin", folder / "shape.json"
        if about.is_file() and json.loads(about.read_text()) != list(self.shape):
            raise BadInput(f"{folder} holds arrays of {about.read_text()}, not {list(self.shape)}; remove it")
        about.write_text(json.dumps(list(self.shape)))
        for path in (self._keys, self._values):
            path.touch()
        # no more than both files have whole
        count = min(self._keys.stat().st_size // _LINE, self._values.stat().st_size // self._bytes)
        os.truncate(self._keys, count * _LINE)
        os.truncate(self._values, count * self._bytes)
        self._row = {digest: row for row, digest in enumerate(self._keys.read_text("ascii").split())}
        self._count = count

    def __contains__(self, digest: str) -> bool:
        return digest in self._row

    def put(self, digests: Sequence[str], values: Tensor) -> None:
        """Add arrays (n, *shape), one for each digest."""
        stored = values.detach().to("cpu", torch.float16).contiguous()
        if tuple(stored.shape) != (len(digests), *self.shape):
            raise BadInput(f"{self.folder} takes arrays of {self.shape}, not {tuple(stored.shape)}")
        with self._values.open("ab") as opened:
            opened.write(stored.numpy().tobytes())
        with self._keys.open("a", encoding="ascii") as opened_keys:
            opened_keys.writelines(f"{digest}\n" for digest in digests)
        self._row |= {digest: self._count + row for row, digest in enumerate(digests)}
        self._count += len(digests)

    def rows(self, digests: Sequence[str]) -> Tensor:
        """Return where in `tensor` each array stands, int64 (n,); all must be there."""
        return torch.tensor([self._row[digest] for digest in digests], dtype=torch.int64)

    def tensor(self) -> Tensor:
        """Return all arrays (m, *shape) float16 on the CPU; they are read from disk only where they are looked at."""
        # copy on write: torch wants memory that it may write to, and nothing of it reaches the file
        return torch.from_numpy(np.memmap(self._values, np.float16, "c", shape=(self._count, *self.shape)))
