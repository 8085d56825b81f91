"""The free pack, built once."""

from __future__ import annotations

import pytest

from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import FacePack, load_pack


@pytest.fixture(scope="session")
def pack() -> FacePack:
    return load_pack(None)


@pytest.fixture(scope="session")
def embedder(pack: FacePack) -> Embedder:
    return Embedder.open(pack)
