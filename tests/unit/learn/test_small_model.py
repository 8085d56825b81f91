"""A trained model becomes an ordinary folder that the render floor loads, and that names no machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from face0_worker.learn.autoencoder import VAE_CONFIG
from face0_worker.learn.model_folder import write_tokenizer
from face0_worker.learn.small_model import assemble
from face0_worker.learn.train import Corpus, Trainer, TrainPlan
from face0_worker.render.pipeline import Pipeline


def test_an_assembled_model_loads_and_names_no_folder_of_the_machine_it_was_made_on(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    AutoencoderKL(**VAE_CONFIG).save_pretrained(tmp_path / "vae")
    corpus = Corpus(torch.zeros(2, 1, 8, 16, 16), np.zeros((1, 128), np.float32), ("",), (np.array([0]),))
    trainer = Trainer(corpus, tokenizer, TrainPlan(steps=1), tmp_path / "work")
    facts = {
        "format": 1,
        "name": "small",
        "embedder": {"name": "face0_lite", "digest": "0" * 64, "dimension": 128},
        "tokens": 3,
        "mapper_width": 768,
        "guidance": {"w": 3.0, "c": 1.0, "a": 0.0, "start": 0.0, "stop": 1.0},
        "steps": 20,
        "size": 128,
        "training": {"pictures": 1, "people": 1, "step": 0, "hours": 0.0},
        "licences": {"weights": "Apache-2.0"},
    }
    out = tmp_path / "small"
    assemble(out, AutoencoderKL.from_pretrained(tmp_path / "vae"), tmp_path / "tokenizer", trainer, facts)
    assert Pipeline.load(out, digest="", device="cpu", precision="float32").facts()["name"] == "small"
    for config in out.rglob("*.json"):
        assert str(tmp_path) not in json.dumps(json.loads(config.read_text())), config
