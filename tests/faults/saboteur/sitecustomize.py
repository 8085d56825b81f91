"""Loaded by every Python process that has this folder on its path: breaks the device when a test asks for it.

Where the file that FACE0_TEST_BREAK names exists, the next batch fails the way it does on a lost CUDA context, and the
file is removed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULE = "face0_worker.render.sampler"
_ASKED = Path(os.environ.get("FACE0_TEST_BREAK", "/nonexistent"))


class _Saboteur(importlib.abc.MetaPathFinder):
    """Finds the sampler as everybody does, and puts a tripwire before its denoising loop."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def execute(module: ModuleType) -> None:
            run(module)
            denoise = module.denoise

            def trapped(*given: Any, **named: Any) -> Any:
                if _ASKED.exists():
                    _ASKED.unlink()
                    raise RuntimeError("CUDA error: device-side assert triggered")
                return denoise(*given, **named)

            module.denoise = trapped  # type: ignore[attr-defined]

        spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


if "FACE0_TEST_BREAK" in os.environ:
    sys.meta_path.insert(0, _Saboteur())
