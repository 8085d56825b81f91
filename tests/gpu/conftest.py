"""Where the GPU checks run: on CUDA, or rehearsed with small shapes on a CPU, line by line the same.

`python -m pytest tests/gpu --confcutdir=tests/gpu -k cuda` on a machine with a GPU takes about a minute and writes
`gpu.json` into the folder that the variable OUT names (out/ without it). Neither broker nor ledger is needed.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from face0_worker.models import digest_model
from face0_worker.render.loading import read_parts
from face0_worker.render.pipeline import DECODE_PRECISIONS, PRECISIONS, Pipeline
from tests.adapters import with_face_id
from tests.fakes import write_tiny_model
from tests.full_size import write_full_model


@dataclass
class Bench:
    """A device under test. `rows` is what the report will say of it."""

    device: str
    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    digests: dict[Path, str] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        """Whether this is the real thing, and no rehearsal."""
        return self.device == "cuda"

    def pick(self, real: int, rehearsed: int) -> int:
        """Return the size of a check: the real one, or what a rehearsal on a CPU can do in a moment."""
        return real if self.cuda else rehearsed

    def load(self, place: Path, precision: str, device: str = "") -> Pipeline:
        """Load a model on the device under test, or on the one named."""
        digest = self.digests.setdefault(place, "") or digest_model(place)
        self.digests[place] = digest
        if not self.cuda and precision == "float16":
            # a product's worker refuses float16 on a CPU, where it is slow; a rehearsal is not in a hurry
            parts = read_parts(place, PRECISIONS[precision], DECODE_PRECISIONS[precision])
            pipeline = Pipeline(parts, digest=digest, device=torch.device("cpu"), precision=precision)
            pipeline.place = place
            return pipeline
        return Pipeline.load(place, digest=digest, device=device or self.device, precision=precision)

    def say(self, name: str, value: float, unit: str, **more: Any) -> None:
        """Put one measured number into the report, and print it."""
        self.rows.append({"name": name, "value": round(float(value), 6), "unit": unit, **more})
        print(json.dumps(self.rows[-1]))

    def forget_peak(self) -> None:
        """Let go of what nobody holds, and measure the peak of memory anew."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Return the most bytes held since `forget_peak`; of the whole process in a rehearsal."""
        if self.cuda:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @contextmanager
    def only_room_for(self, nbytes: int, pipeline: Pipeline, rows: int) -> Iterator[None]:
        """Let the device have `nbytes` and no more; in a rehearsal, room for `rows` rows of the denoiser."""
        if self.cuda:
            self.forget_peak()
            torch.cuda.set_per_process_memory_fraction(nbytes / torch.cuda.get_device_properties(0).total_memory)
            try:
                yield
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0)
            return

        def refuse(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if len(args[0]) > rows:
                raise torch.OutOfMemoryError("rehearsed")

        hook = pipeline.unet.register_forward_pre_hook(refuse)
        try:
            yield
        finally:
            hook.remove()


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """Let a rehearsal's rows go in one call of the UNet, as a GPU's do: see render/cores.py."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=["cuda", "rehearsal"])
def bench(request: pytest.FixtureRequest, work: Path) -> Iterator[Bench]:
    """The device under test; its report is written when all checks are done."""
    rehearsal = request.param == "rehearsal"
    if not rehearsal and not torch.cuda.is_available():
        pytest.skip("this machine offers no CUDA device; the same checks run as a rehearsal on the CPU")
    if rehearsal and torch.cuda.is_available():
        pytest.skip("the real thing runs here")
    made = Bench("cpu", "rehearsal on a CPU") if rehearsal else Bench("cuda", torch.cuda.get_device_name(0))
    began = time.monotonic()
    yield made
    made.say("all checks", time.monotonic() - began, "s")
    write_report(made, work if rehearsal else Path(os.environ.get("OUT") or "out"))


def write_report(bench: Bench, folder: Path) -> None:
    """Write `gpu.json`: what was measured, on which device, with which torch and which commit."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    report = {"device": bench.name, "torch": torch.__version__, "commit": asked.stdout.strip(), "rows": bench.rows}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")


@pytest.fixture(scope="session")
def work() -> Iterator[Path]:
    """A folder for models that goes with the session; pytest would keep those of three runs, 2 GB each."""
    folder = Path(tempfile.mkdtemp(prefix="face0-gpu-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_models(work: Path) -> dict[str, Path]:
    """Tiny models of the three families, of a prediction type that all samplers take; one with a face adapter too."""
    kinds = {"sd1": "epsilon", "sd2": "v_prediction", "sdxl": "epsilon"}
    made = {kind: write_tiny_model(work / kind, kind=kind, prediction_type=said) for kind, said in kinds.items()}
    return {**made, "sd1 faceid": with_face_id(made["sd1"], work)}


@pytest.fixture(scope="session")
def sd15(bench: Bench, work: Path) -> Path:
    """A model of SD 1.5's configuration and full size, with random weights; small in a rehearsal."""
    began = time.monotonic()
    place = write_full_model(work / "sd15", "sd15", device=bench.device, divide=bench.pick(1, 8))
    bench.say("writing SD 1.5 with random weights", time.monotonic() - began, "s")
    return place


def psnr_db(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Return the PSNR of each picture of two batches (n, h, w, 3) in [0, 1]."""
    errors = np.square(one.astype(np.float64) - other).mean(axis=(1, 2, 3))
    return [float(-10 * np.log10(max(error, 1e-12))) for error in errors]
