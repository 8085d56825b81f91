"""Cut a data folder into packs that travel: whole people, their faces already looked at."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from face0_worker.contract.errors import BadInput
from face0_worker.learn.dataset import CARD, INDEX, Line, is_held_out, read_index
from face0_worker.learn.seen_faces import FACES, SeenFaces, faces_of
from face0_worker.learn.sources import Permit, read_source, refuse

_BLOCK = 512  # tar's unit: what a file takes beside its own bytes, and what those are rounded up to


def write_packs(
    folder: Path,
    out: Path,
    *,
    parts: int,
    limit: int,
    quality: int | None = None,
    held_out: int = 40,
    face_pack: Path | None = None,
    permit: Permit = refuse,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write up to `parts` tars of at most `limit` bytes, each a data folder of its own, into `out`; returns them.

    People come whole and in order, as many as fit; of the held-out only the first `held_out`, in the first pack.
    `quality` encodes every picture again as WebP of that quality; None takes the files as they are.
    Raises: BadInput: as read_index, faces_of and read_source. ConsentRefused: as `permit`.
    """
    read_source(folder, permit)
    faces = faces_of(folder, face_pack, say)
    by_person: dict[str, list[tuple[int, Line]]] = {}
    for row, line in enumerate(read_index(folder, say)):
        if faces.digests[row]:  # else it can't be read
            by_person.setdefault(line.person, []).append((row, line))
    held = [person for person in by_person if is_held_out(person)][:held_out]
    queue = [*held, *(person for person in by_person if not is_held_out(person))]
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for number in range(1, parts + 1):
        path = out / f"people-{number}.tar"
        taken = _write_pack(folder, path, [by_person[person] for person in queue], faces, limit, quality)
        queue = queue[taken:]
        written.append(path)
        say(f"{path.name}: {taken} people, {path.stat().st_size:,} bytes; {len(queue)} people are left")
        if not queue:
            break
    return written


def _write_pack(
    folder: Path,
    path: Path,
    people: list[list[tuple[int, Line]]],
    faces: SeenFaces,
    limit: int,
    quality: int | None,
) -> int:
    """Write one tar and return how many people it took; each line comes with its row of `faces`."""
    rows: list[int] = []
    digests: list[str] = []
    lines: list[str] = []
    source = _said(folder, [line for mine in people for _, line in mine])
    room, taken = limit - 64 * _BLOCK, 0
    with tarfile.open(path, "w") as tar:
        for mine in people:
            pictures = [(row, line, _bytes(line.path, quality)) for row, line in mine]
            needed = sum(_cost(data, len(source[line.file])) for _, line, data in pictures)
            if needed > room:
                break
            room -= needed
            taken += 1
            for row, line, data in pictures:
                name = str(Path(line.file).with_suffix(".webp")) if quality is not None else line.file
                _add(tar, name, data)
                lines.append(json.dumps({**json.loads(source[line.file]), "file": name}, ensure_ascii=False))
                rows.append(row)
                digests.append(hashlib.sha256(data).hexdigest())
        if not taken:
            raise BadInput(f"no person fits into a pack of {limit:,} bytes")
        _add(tar, INDEX, ("\n".join(lines) + "\n").encode())
        _add(tar, CARD, (folder / CARD).read_bytes())
        packed = path.with_suffix(".faces.npz")
        replace(faces.rows(np.array(rows, np.int64)), digests=tuple(digests)).save(packed)
        _add(tar, FACES, packed.read_bytes())
        packed.unlink()
    return taken


def _said(folder: Path, lines: Sequence[Line]) -> dict[str, str]:
    """Return a JSON line for each file: the folder's own where it has `people.jsonl`, with all that it says."""
    if (folder / INDEX).is_file():
        return {json.loads(text)["file"]: text for text in (folder / INDEX).read_text("utf-8").split("\n")[:-1]}
    told = ({"file": line.file, "person": line.person, "caption": line.caption} for line in lines)
    return {row["file"]: json.dumps(row, ensure_ascii=False) for row in told}


def _cost(data: bytes, said: int) -> int:
    """Bytes of the tar that a picture takes: header, padded data, its line and its face."""
    face = 2 * (128 + 4) + 4 * 64
    return _BLOCK + -(-len(data) // _BLOCK) * _BLOCK + said + face + 16


def _bytes(path: Path, quality: int | None) -> bytes:
    if quality is None:
        return path.read_bytes()
    with Image.open(path) as opened:
        buffer = BytesIO()
        opened.convert("RGB").save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, BytesIO(data))


def unpack(path: Path, folder: Path) -> None:
    """Unpack a pack into an empty or absent folder. Raises: BadInput: the folder holds something, or no pack."""
    if folder.is_dir() and any(folder.iterdir()):
        raise BadInput(f"{folder} holds something already; name another folder to unpack into")
    try:
        with tarfile.open(path) as tar:
            tar.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise BadInput(f"{path} can't be unpacked ({type(error).__name__})") from error
