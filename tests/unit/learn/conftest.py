"""The free pack and the tokenizer, built once."""

from __future__ import annotations

import pytest
from transformers import CLIPTokenizer

from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import FacePack, load_pack
from face0_worker.learn.model_folder import write_tokenizer


@pytest.fixture(scope="session")
def pack() -> FacePack:
    return load_pack(None)


@pytest.fixture(scope="session")
def embedder(pack: FacePack) -> Embedder:
    return Embedder.open(pack)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
