"""Photos as people bring them: read within bounds, decoded in a process of its own, refused in one clear sentence."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from face0_worker.contract.errors import FaceRefused, ServiceDown
from face0_worker.faces import decoder

MAX_BYTES = 100_000_000
WALL_S = 30.0
_ADVICE = f"choose a picture file in {decoder.ACCEPTED}"
# what Python needs to find itself and its packages; no password or key of ours goes along
_ENVIRONMENT = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE")


@dataclass(frozen=True)
class Photo:
    """A decoded photo: `image` is upright RGB, sRGB, at most 4,096 pixels on its longest side.

    `scale` (>= 1) is how many of the photo's own pixels one pixel of `image` stands for.
    """

    image: Image.Image
    scale: float


def read_photo_file(path: Path) -> bytes:
    """Return the bytes of a photo file, without ever waiting for a pipe or reading without end.

    Raises: FaceRefused: `unreadable`: absent, not permitted, a folder, a pipe, a device; `not_a_picture`: empty;
    `too_large`: over 100 MB. The message never repeats the file's name, which may be the person's.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = _read_regular(opened)
        finally:
            os.close(opened)
    except OSError as error:
        raise FaceRefused(f"the photo can't be read: {error.strerror}; see --face", "unreadable") from None
    _require_size(len(data))
    return data


def _read_regular(opened: int) -> bytes:
    kind = os.fstat(opened).st_mode
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe, a socket or a device"
        raise FaceRefused(f"the photo can't be read: --face names {what}; {_ADVICE}", "unreadable")
    with open(opened, "rb", closefd=False) as file:
        return file.read(MAX_BYTES + 1)


def decode_photo(data: bytes) -> Photo:
    """Decode a photo in a process that has 1 GB of memory, 20 s of CPU time and 30 s; its bytes touch no disk.

    Raises: FaceRefused: `not_a_picture`, `format`, `damaged`, `too_large`, `too_slow`; ServiceDown: this machine
    can't start the decoder.
    """
    _require_size(len(data))
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        ended = subprocess.run(
            # -P: this package's own folder is no place to import from
            [sys.executable, "-P", decoder.__file__],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # more arenas would reserve address space that the picture needs
            env={**environment, "MALLOC_ARENA_MAX": "1"},
            timeout=WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _too_slow() from None
    except OSError as error:
        raise ServiceDown(f"the picture decoder can't be started ({error.strerror}); try again") from error
    if ended.returncode < 0:
        raise _killed(-ended.returncode)
    if ended.returncode:
        raise ServiceDown("the picture decoder does not run; install face0 again, or give it 1 GB of memory")
    return _answer(ended.stdout)


def _require_size(size: int) -> None:
    if not size:
        raise FaceRefused(f"the photo is empty (0 bytes); {_ADVICE}", "not_a_picture")
    if size > MAX_BYTES:
        most = f"{MAX_BYTES // 1_000_000} MB"
        raise FaceRefused(f"the photo's file is over {most}, the most that is read; save it smaller", "too_large")


def _answer(answer: bytes) -> Photo:
    """Read what the decoder wrote: one line of JSON, then RGB8 rows."""
    line, _, pixels = answer.partition(b"\n")
    try:
        head = json.loads(line)
        if "code" in head:
            raise FaceRefused(head["sentence"], head["code"])
        return Photo(Image.frombytes("RGB", (head["width"], head["height"]), pixels), float(head["scale"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _killed(0) from error


def _too_slow() -> FaceRefused:
    return FaceRefused(
        f"the photo takes longer than {decoder.CPU_S} s to read and was given up; save it smaller, as a JPEG",
        "too_slow",
    )


def _killed(number: int) -> FaceRefused:
    """Say why the decoder ended without an answer; 0: it ended in the middle of one."""
    if number == signal.SIGXCPU:
        return _too_slow()
    if number == signal.SIGKILL:
        # the machine itself ran out of memory
        return FaceRefused(decoder.too_much_memory(), "too_large")
    return FaceRefused("the photo is damaged: reading it stops the decoder; save it again, as a JPEG", "damaged")
