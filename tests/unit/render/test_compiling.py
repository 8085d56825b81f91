"""The setting `compile`: what each of its words does, over a pretended GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from face0_worker.contract.errors import BadInput
from face0_worker.render.compiling import compile_as_asked
from face0_worker.render.denoiser import ROW_COUNTS
from face0_worker.render.pipeline import Pipeline


class Pretended:
    """A denoiser that says that it is compiled, and counts the rows of its calls."""

    def __init__(self, real: Any, *, works: bool) -> None:
        self.unet, self.real, self.compiled = real.unet, real, works
        self.counts, self.rows, self.settled = ROW_COUNTS, list[int](), False

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, context: Any) -> torch.Tensor:
        self.rows.append(len(latents))
        return torch.as_tensor(self.real(latents, timestep, context))

    def settle(self) -> None:
        """Compile nothing more."""
        self.settled = True

    def about(self) -> str:
        """Say how it runs."""
        return "compiled" if self.compiled else "not compiled"


def pretend(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, *, works: bool = True) -> Pretended:
    """Let a pipeline on the CPU take itself for one on a GPU when it is asked about compiling."""
    denoiser = Pretended(pipeline.denoiser, works=works)
    monkeypatch.setattr(pipeline, "compile", lambda: setattr(pipeline, "denoiser", denoiser))
    return denoiser


def test_on_compiles_each_number_of_rows_before_the_first_batch_and_nothing_later(
    tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = pretend(tiny, monkeypatch)
    assert compile_as_asked(tiny, "on", tmp_path / "marks") == "compiled"
    assert tuple(denoiser.rows) == ROW_COUNTS
    assert denoiser.settled
    assert len(list((tmp_path / "marks").iterdir())) == 1


def test_auto_compiles_only_where_on_did_so_before_with_this_model_and_torch(
    tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = pretend(tiny, monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    there, plain = torch.device("cuda"), tiny.denoiser

    def asked(wanted: str) -> int:
        monkeypatch.setattr(tiny, "denoiser", plain)
        monkeypatch.setattr(tiny, "warm_up", lambda: denoiser.rows.append(1))
        monkeypatch.setattr(tiny, "device", there)
        denoiser.rows.clear()
        compile_as_asked(tiny, wanted, tmp_path)
        return len(denoiser.rows)

    assert [asked("auto"), asked("on"), asked("auto"), asked("off")] == [0, 1, 1, 0]
    monkeypatch.setattr(torch, "__version__", "3.0")
    assert asked("auto") == 0


def test_a_compiler_that_fails_leaves_no_mark(tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tiny, monkeypatch, works=False)
    assert compile_as_asked(tiny, "on", tmp_path) == "not compiled"
    assert list(tmp_path.iterdir()) == []


def test_a_cpu_compiles_nothing_by_itself_and_says_so_where_it_is_asked_to(tiny: Pipeline, tmp_path: Path) -> None:
    for wanted in ("auto", "off"):
        assert compile_as_asked(tiny, wanted, tmp_path) == "eager"
    with pytest.raises(BadInput, match="compiling the model needs CUDA"):
        compile_as_asked(tiny, "on", tmp_path)
    with pytest.raises(BadInput, match="use auto, on or off"):
        compile_as_asked(tiny, "yes", tmp_path)
