"""Pickled weights to safetensors, once, without trusting the pickle. A worker itself never opens one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from face0_worker.contract.errors import BadInput
from face0_worker.render import sandbox_child

TIMEOUT_S = 900.0


def unpickle(source: Path, target: Path, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Write the tensors of the pickle `source` into the safetensors file `target`, nested names joined by dots.

    A process of its own reads it: without network where the system allows that (returned: whether it did), without this
    one's environment, and with limits on time, memory and disk.
    Raises: BadInput: it holds anything but tensors, or took too much.
    """
    command = [sys.executable, "-I", "-B", str(sandbox_child.__file__), str(source.absolute()), str(target.absolute())]
    try:
        done = subprocess.run(
            command, env={}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"{source} took longer than {timeout_s:g} s to read; it is not what it seems") from error
    if done.returncode == sandbox_child.NOT_WEIGHTS:
        raise BadInput(f"{source} holds more than weights, or is damaged: it was not loaded. Get the file again")
    if done.returncode == sandbox_child.NO_TENSORS:
        raise BadInput(f"{source} holds no weights")
    if done.returncode not in (0, sandbox_child.DONE_WITH_NETWORK) or not target.is_file():
        raise BadInput(f"{source} could not be read within the limits that are set for it (code {done.returncode})")
    return done.returncode == 0
