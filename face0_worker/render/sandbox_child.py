"""Weights out of a pickle, in a process that has nothing to lose. Run as a file by sandbox.py; imports nothing of ours.

    python -I -B sandbox_child.py SOURCE TARGET

It gives up the network and the right to gain rights, takes limits on time, memory and disk, and unpickles nothing but
tensors (torch's weights_only). What it prints is never shown; it ends with one of the codes below.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Any

NOT_WEIGHTS, NO_TENSORS, DONE_WITH_NETWORK = 21, 22, 23
CPU_S = 600
_PR_SET_NO_NEW_PRIVS = 38
_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000


def shut_off() -> bool:
    """Leave the network, where the kernel lets a program do so; return whether it did. No way back."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC) == 0)


def limit(size: int) -> None:
    """Limit what may still be used, for a file of `size` bytes; call it when the libraries are loaded."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    for what, most in (
        # the pickle's tensors, their copies in order, and what the file is written from
        (resource.RLIMIT_AS, mapped + 4 * size + 2**29),
        (resource.RLIMIT_FSIZE, 2 * size + 2**24),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the tensors of nested dicts, their names joined by dots. Raises: TypeError: something else is in there."""
    import torch

    found: dict[str, Any] = {}
    for name, one in value.items():
        if type(name) is not str:
            raise TypeError
        if type(one) is dict:
            found.update(flat(one, f"{prefix}{name}."))
        elif type(one) is torch.Tensor and one.layout is torch.strided and one.device.type == "cpu":
            found[prefix + name] = one.detach().clone(memory_format=torch.contiguous_format)
        else:
            raise TypeError
    return found


def main(source: str, target: str) -> int:
    """Write the tensors of the pickle `source` into the safetensors file `target`; return the exit code."""
    alone = shut_off()
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    limit(os.path.getsize(source))
    try:
        tensors = flat(torch.load(source, map_location="cpu", weights_only=True))
    except Exception:  # noqa: BLE001 - whatever a hostile file leads the unpickler to
        return NOT_WEIGHTS
    if not tensors:
        return NO_TENSORS
    save_file(tensors, target)
    return 0 if alone else DONE_WITH_NETWORK


if __name__ == "__main__":
    # without the interpreter's clean-up, in which what was unpickled could still act
    code = NOT_WEIGHTS
    try:
        code = main(*sys.argv[1:])
    finally:
        os._exit(code)
