"""Pickles are opened in a process that has no network, no environment and no right to more than weights."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from face0_worker.contract.errors import BadInput
from face0_worker.render import sandbox_child
from face0_worker.render.sandbox import unpickle


class Hostile:
    """What a pickle can do to whoever opens it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.mark),)  # type: ignore[return-value]


def test_nested_weights_come_out_as_safetensors(tmp_path: Path) -> None:
    torch.save({"a": {"b.c": torch.arange(6.0).reshape(2, 3).T}, "d": torch.ones(1)}, tmp_path / "in.bin")
    unpickle(tmp_path / "in.bin", tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == {"a.b.c", "d"}
    assert torch.equal(found["a.b.c"], torch.arange(6.0).reshape(2, 3).T)


def test_a_pickle_that_runs_code_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"a": torch.ones(1), "b": Hostile(mark)}, tmp_path / "zip.bin")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"a": Hostile(mark)}))
    for name in ("zip", "plain"):
        with pytest.raises(BadInput, match=r"more than weights, or is damaged: it was not loaded"):
            unpickle(tmp_path / f"{name}.bin", tmp_path / "out.safetensors")
    assert not mark.exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_no_weights_and_no_end_each_get_a_sentence(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "empty.bin")
    with pytest.raises(BadInput, match="holds no weights"):
        unpickle(tmp_path / "empty.bin", tmp_path / "out")
    with pytest.raises(BadInput, match="took longer than 0 s"):
        unpickle(tmp_path / "empty.bin", tmp_path / "out", timeout_s=0)


@pytest.mark.parametrize("value", [{"a": [1]}, {"a": {1: torch.ones(1)}}, {"a": torch.ones(1).to_sparse()}, {"a": "b"}])
def test_what_is_not_a_plain_tensor_is_not_weights(value: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        sandbox_child.flat(value)


INSIDE = """
import importlib.util, os, socket, sys
spec = importlib.util.spec_from_file_location("child", sys.argv[1])
child = importlib.util.module_from_spec(spec); spec.loader.exec_module(child)
print("off" if child.shut_off() else "kept")
child.limit(2**20)
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=60)
    print("reached")
except OSError:
    print("not reached")
try:
    bytearray(2**31)
    print("memory")
except MemoryError:
    print("no memory")
try:
    with open(sys.argv[3], "wb") as file:
        file.write(b"0" * 2**26)
        file.flush()
    print("disk")
except OSError:
    print("no disk")
"""


def test_inside_there_is_no_network_and_little_memory_and_disk(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        words = [sys.executable, "-I", "-c", INSIDE, str(sandbox_child.__file__), port, str(tmp_path / "file")]
        said = subprocess.run(words, env={}, capture_output=True, text=True, check=True).stdout.split("\n")
    if said[0] == "kept":
        pytest.skip("this machine gives no program a network of its own")
    assert said[1:4] == ["not reached", "no memory", "no disk"]
