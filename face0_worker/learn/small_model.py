"""Train a whole small model from nothing but captioned portraits: VAE, then everything that denoises."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPTokenizer

from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import load_pack
from face0_worker.learn.autoencoder import VaePlan, train_vae
from face0_worker.learn.dataset import Portraits, is_held_out, load_portraits
from face0_worker.learn.model_folder import FACE_TOKENS, write_model, write_tokenizer
from face0_worker.learn.train import Trainer, TrainPlan, encode_corpus

SIZE = 128
CARD = """# {name}

A small Face0 model, trained from nothing on rendered portraits of people who do not exist. It proves the machinery on
any machine; it is not meant for a shop window.

- **Makes** {size} x {size} px portraits: garment and background in the colours of the prompt, hair as the prompt says,
  the face after one photo.
- **Prompts** like "a portrait of a smiling person with long hair wearing a red turtleneck, white background".
  Colours: red, black, blue, green, white, yellow, pink, grey. Hair: short, bob, braided, ponytail, long, afro.
- **Faces** come from the pack {embedder[name]} (digest {embedder[digest]}).
- **Trained** on {training[pictures]} pictures of {training[people]} people for {training[step]} steps
  ({training[hours]} hours on two CPU cores); the people of the held-out part were never seen.
- **Limits**: skin is smoother than in the photo, likeness is coarse, only frontal heads, only turtlenecks, nothing
  but a plain background.
- **Licences**: {licences}
"""


def train_small(
    data: Path,
    out: Path,
    *,
    vae_steps: int,
    steps: int,
    minutes: float,
    crop: tuple[int, int, int, int] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train on `data` and write the model folder `out`; what is half done lies in `out`.training and is resumed.

    People of the held-out part are never trained on. `minutes` bounds the denoiser's part of
    this sitting.
    Raises: BadInput: `data` is not a folder of captioned portraits. ModelMissing: face weights or merges are absent.
    """
    work = out.with_name(out.name + ".training")
    portraits = load_portraits(data, SIZE, crop)
    seen = portraits.subset(np.array([i for i, person in enumerate(portraits.people) if not is_held_out(person)]))
    say(f"{len(seen.people)} pictures of {len(set(seen.people))} people to learn from")
    embedder = Embedder.open(load_pack(None))
    faces = embed_portraits(seen, embedder, work / "faces.npy", say)
    vae_folder = work / "vae"
    if not (vae_folder / "done").is_file():
        train_vae(seen.pixels, vae_folder, VaePlan(steps=vae_steps), say)
        (vae_folder / "done").touch()
    vae = AutoencoderKL.from_pretrained(vae_folder).eval().to(memory_format=torch.channels_last)
    corpus = encode_corpus(seen, faces, vae, work / "latents.safetensors")
    tokenizer: CLIPTokenizer = write_tokenizer(work / "tokenizer")
    trainer = Trainer(corpus, tokenizer, TrainPlan(steps=steps), work)
    trainer.run(minutes, say)
    pack = embedder.pack
    facts = {
        "format": 1,
        "name": out.name,
        "embedder": {"name": pack.name, "digest": pack.digest, "dimension": pack.dimension},
        "tokens": FACE_TOKENS,
        "mapper_width": 768,
        "guidance": {"w": 3.0, "c": 1.0, "a": 0.0, "start": 0.0, "stop": 1.0},
        "steps": 20,
        "size": SIZE,
        "training": {**trainer.facts(), "pictures": len(seen.people), "people": len(set(seen.people))},
        "licences": {"weights": "Apache-2.0", "tokenizer": "MIT (CLIP)", "people": "CC0-1.0 (MakeHuman)"},
    }
    assemble(out, vae, work / "tokenizer", trainer, facts)
    say(f"wrote {out}")


def assemble(out: Path, vae: AutoencoderKL, tokenizer: Path, trainer: Trainer, facts: dict[str, object]) -> None:
    """Write the model folder from the averaged weights of a training."""
    shutil.copytree(tokenizer, out / "tokenizer", dirs_exist_ok=True)
    vae.register_to_config(_name_or_path=out.name)  # else the folder on this machine that it was read from
    vae.to(torch.float16).save_pretrained(out / "vae")
    write_model(out, trainer.ema, facts)
    (out / "README.md").write_text(CARD.format(**facts), encoding="utf-8")


def embed_portraits(
    portraits: Portraits, embedder: Embedder, cache: Path, say: Callable[[str], None] = print
) -> np.ndarray:
    """Return normalised embeddings (n, d), zero rows where no face is found; kept in `cache` once they are made."""
    if cache.is_file():
        return np.asarray(np.load(cache))
    faces = np.zeros((len(portraits.people), embedder.pack.dimension), np.float32)
    for index, pixels in enumerate(portraits.pixels):
        found = embedder.find(Image.fromarray(pixels))
        if found:
            faces[index] = embedder.normalise(found[0].embedding)
        if (index + 1) % 500 == 0:
            say(f"embedded {index + 1} of {len(faces)} portraits")
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, faces)
    return faces
