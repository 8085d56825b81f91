"""One tiny model for all tests of the render floor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from face0_worker.render.pipeline import Pipeline
from tests.fakes import write_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that predicts velocity, as the shipped one does."""
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of SDXL's shape."""
    return write_tiny_model(tmp_path_factory.mktemp("sdxl"), kind="sdxl", prediction_type="epsilon", size=1024)


@pytest.fixture
def tiny_sdxl(sdxl_folder: Path) -> Pipeline:
    """The tiny SDXL on the CPU in float32, freshly loaded."""
    return Pipeline.load(sdxl_folder, digest="e" * 64, device="cpu", precision="float32")


@pytest.fixture
def tiny(tiny_folder: Path) -> Pipeline:
    """The tiny model on the CPU in float32, freshly loaded."""
    return Pipeline.load(tiny_folder, digest="d" * 64, device="cpu", precision="float32")


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """Let all rows go in one call of the UNet, so that a test may count them: see cores.py."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
