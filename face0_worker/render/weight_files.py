"""Safetensors files by their headers: what is stored, where and in which shape. Needs no torch and runs no code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from face0_worker.contract.errors import BadInput, ModelMissing

# bytes of one value; what a diffusion model is stored in. Quantised kinds are left out: nothing here multiplies them
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# the format's own limit, so that eight bytes of nonsense don't ask for a gigabyte of memory
_LONGEST_HEADER = 100_000_000
# loading one of these can run code that somebody hid in it
PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
PROGRAMS = frozenset({".py", ".pyc", ".so", ".dll", ".dylib"})


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: its kind as safetensors names it, its shape, and its bytes [start, stop) of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check a safetensors file's header; the weights themselves are not read.

    Raises: ModelMissing: no such file, or it is cut short or damaged. BadInput: it is something else under this
    name (a pickle, a zip archive), or holds a kind of number that is not supported.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as opened:
            start = opened.read(9)
            _refuse_disguise(path, start)
            length = int.from_bytes(start[:8], "little")
            if len(start) < 9 or length > min(_LONGEST_HEADER, size - 8):
                raise ModelMissing(f"{path} can't be read: it is cut short or no safetensors file; copy it again")
            entries = json.loads(start[8:] + opened.read(length - 1))
    except FileNotFoundError as error:
        raise ModelMissing(f"{path} is missing; copy the model again") from error
    except (OSError, ValueError) as error:
        raise ModelMissing(f"{path} can't be read ({type(error).__name__}); copy it again") from error
    if not isinstance(entries, dict):
        raise ModelMissing(f"{path} can't be read: its header is no safetensors header; copy it again")
    metadata = entries.pop("__metadata__", {})
    begin = 8 + length
    tensors = {name: _stored(path, name, entry, begin) for name, entry in entries.items()}
    _check_places(path, tensors, begin, size)
    return Header(tensors, metadata if isinstance(metadata, dict) else {})


def _refuse_disguise(path: Path, start: bytes) -> None:
    # a safetensors file starts with the length of its header in 8 bytes, and then a brace
    if start[8:] == b"{":
        return
    kind = "a zip archive, as PyTorch's pickled weights are," if start.startswith(b"PK\x03\x04") else ""
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        kind = "a pickle"
    if kind:
        raise BadInput(f"{path} is {kind} and not safetensors; loading it could run hidden code. Get the safetensors")


def _stored(path: Path, name: str, entry: Any, begin: int) -> Stored:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(side) for side in entry["shape"])
        start, stop = (int(place) for place in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelMissing(f"{path} can't be read: its header is damaged at {name}; copy it again") from error
    if dtype not in WIDTHS:
        raise BadInput(f"{path}: {name} is stored as {dtype}; weights in {', '.join(sorted(FLOATS))} are supported")
    if min(shape, default=0) < 0 or stop - start != math.prod(shape) * WIDTHS[dtype]:
        raise ModelMissing(f"{path} can't be read: its header is damaged at {name}; copy it again")
    return Stored(path, dtype, shape, begin + start, begin + stop)


def _check_places(path: Path, tensors: Mapping[str, Stored], begin: int, size: int) -> None:
    """The format has neither gaps nor overlaps: nothing else can hide in the file."""
    place = begin
    for tensor in sorted(tensors.values(), key=lambda one: (one.start, one.stop)):
        if tensor.start != place:
            raise ModelMissing(f"{path} can't be read: its header is damaged; copy it again")
        place = tensor.stop
    if place != size:
        state = "cut short" if place > size else "longer than its weights"
        raise ModelMissing(f"{path} can't be read: it is {state} ({size:,} of {place:,} bytes); copy it again")


def find_weights(folder: Path, stem: str) -> dict[str, Stored]:
    """Return the tensors of one component: `stem`.safetensors, its shards, or its fp16 variant.

    Raises: as read_header; ModelMissing: none of them is there.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if (folder / f"{stem}.safetensors").is_file() or not index.is_file():
        plain, variant = folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"
        return dict(read_header(variant if variant.is_file() and not plain.is_file() else plain).tensors)
    found: dict[str, Stored] = {}
    for shard in _shards(index):
        found.update(read_header(folder / shard).tensors)
    return found


def _shards(index: Path) -> list[str]:
    try:
        shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelMissing(f"{index} can't be read ({type(error).__name__}); copy the model again") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BadInput(f"{index} names {shard!r}; only safetensors files beside it are loaded")
    return shards


def check_contents(folder: Path) -> None:
    """Refuse what has no place in a model folder: pickles, program code, and links that lead out of it.

    Raises: BadInput: the message names the first of each kind.
    """
    home = folder.resolve()
    pickled, programs = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(home)):
            raise BadInput(
                f"model folder {folder}: {name} is a link to a folder or leads out of the model, where its digest "
                "can't vouch for it; copy the model with its files (cp -rL)"
            )
        if path.suffix.lower() in PICKLES:
            pickled.append(name)
        if path.suffix.lower() in PROGRAMS:
            programs.append(name)
    if pickled:
        raise BadInput(
            f"model folder {folder} holds pickled weights ({pickled[0]}, {len(pickled)} in all); "
            "keep safetensors only and remove them"
        )
    if programs:
        raise BadInput(
            f"model folder {folder} holds program code ({programs[0]}); a model's own code is never run here: remove it"
        )
