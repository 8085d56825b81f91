"""The small model that ships with the product, and where a worker's own model is looked for."""

from __future__ import annotations

from pathlib import Path

from face0_worker.contract.errors import ModelMissing

SHIPPED = Path(__file__).with_name("face0_small")


def model_folder(named: Path | None) -> Path:
    """Return the model folder to load: the named one, else the shipped one.

    Raises: ModelMissing: it is not a diffusers folder.
    """
    folder = SHIPPED if named is None else named.expanduser().absolute()
    if not (folder / "model_index.json").is_file():
        raise ModelMissing(f"model folder {folder} has no model_index.json; FACE0_MODEL must name a diffusers folder")
    return folder
