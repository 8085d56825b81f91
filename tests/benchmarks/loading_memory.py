"""How much memory loading a model takes at its peak, beside the weights: `python -m tests.benchmarks.loading_memory`.

A model of random weights is written into a temporary folder and loaded by `Pipeline.load` in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_MEASURE = """
import json, sys
from pathlib import Path
import torch
from face0_worker.render.pipeline import Pipeline

def kib(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))

warm = Pipeline.load(Path(sys.argv[1]), digest="", device="cpu", precision=sys.argv[3])
before = kib("VmRSS:")
with open("/proc/self/clear_refs", "w") as peaks:
    peaks.write("5")  # forget the peak so far
made = Pipeline.load(Path(sys.argv[2]), digest="", device="cpu", precision=sys.argv[3])
modules = [made.unet, made.vae, made.mapper, *(encoder.model for encoder in made.encoders)]
weights = sum(one.numel() * one.element_size() for module in modules for one in module.parameters())
print(json.dumps({"weights": weights, "peak": 1024 * (kib("VmHWM:") - before)}))
"""


def measure(warm: Path, model: Path, precision: str) -> dict[str, int]:
    """Return the bytes of the loaded weights and the peak that loading them took, in a process of its own.

    `warm` is a small model that is loaded first, so that libraries are not counted.
    """
    command = [sys.executable, "-c", _MEASURE, str(warm), str(model), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return measured


def write_large_model(folder: Path, width: int, stored: str = "float32") -> Path:
    """Write a model whose UNet has SD 1.5's four levels, `width` channels at the first, with random weights."""
    import torch
    from diffusers import UNet2DConditionModel

    from tests.fakes import write_tiny_model

    write_tiny_model(folder)
    blocks = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    unet = UNet2DConditionModel(
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    unet.to(getattr(torch, stored)).save_pretrained(folder / "unet")
    return folder


def main() -> None:
    """Print the ratio of peak to weights for each case, and write them beside as JSON where --out says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=160, help="channels of the first level; SD 1.5 has 320")
    parser.add_argument("--out", type=Path, help="folder for loading_memory.json")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        from face0_worker.render.adapters import add_lora
        from tests.adapters import write_lora
        from tests.fakes import write_tiny_model
        from tests.originals import with_clip_words, write_single_file

        def with_lora(folder: Path, rank: int) -> Path:
            file = write_lora(Path(work) / f"{folder.name}-{rank}.safetensors", folder, "kohya", rank=rank)
            add_lora(folder, file, Path(work) / f"{folder.name}-lora", changes={})
            return Path(work) / f"{folder.name}-lora"

        warm = with_lora(write_tiny_model(Path(work) / "warm"), 4)
        for stored in ("float32", "float16"):
            folder = write_large_model(Path(work) / stored, asked.width, stored)
            places = [("folder", folder), ("folder with a LoRA of rank 64", with_lora(folder, 64))]
            if stored == "float16":
                places.append(
                    ("single file", write_single_file(with_clip_words(folder), Path(work) / "single.safetensors"))
                )
            for name, place in places:
                for precision in ("float32", "bfloat16"):
                    found = measure(warm, place, precision)
                    ratio = round(found["peak"] / found["weights"], 3)
                    rows.append({"name": f"{name}, {stored} on disk, {precision} in memory", "ratio": ratio, **found})
                    print(f"{rows[-1]['name']:75} {found['weights'] / 1e6:8.0f} MB weights, peak {ratio} of them")
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "loading_memory.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
