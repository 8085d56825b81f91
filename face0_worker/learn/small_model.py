"""Train a whole small model from nothing but captioned portraits: VAE, then everything that denoises."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from face0_worker.contract.errors import BadInput
from face0_worker.learn.autoencoder import VaePlan, psnr, reconstruct, train_vae
from face0_worker.learn.corpus import build_corpus, encode_latents, tokens_of
from face0_worker.learn.dataset import Portraits, load_portraits
from face0_worker.learn.model_folder import (
    FACE_TOKENS,
    SMALL,
    Shape,
    load_parts,
    new_parts,
    read_tokenizer,
    write_model,
)
from face0_worker.learn.samples import PROMPTS, Sitters, grid, sheet, write_sheet
from face0_worker.learn.seen_faces import SeenFaces, faces_of
from face0_worker.learn.sources import Source, read_source
from face0_worker.learn.train import Trainer, TrainPlan

SITTERS = 8
CARD = """# {name}

A small Face0 model, trained from nothing on rendered portraits of people who do not exist. It proves the machinery on
any machine; it is not meant for a shop window.

- **Makes** {size} x {size} px portraits: garment and background as the prompt says, hair, glasses and expression too,
  the face after one photo.
- **Prompts** like "a portrait of a smiling person with long brown hair and glasses wearing a red turtleneck, blue
  background".
- **Faces** come from the pack {embedder[name]} (digest {embedder[digest]}).
- **Trained** on {training[pictures]} pictures of {training[people]} people for {training[step]} steps of
  {training[plan][mix][batch]} pictures ({training[hours]} hours on {training[device]}); the people of the held-out
  part were never seen.
- **Limits**: rendered skin and hair, a coarse likeness, one face, frontal to half profile.
- **Licences**: {licences}
"""


@dataclass(frozen=True)
class SmallPlan:
    """How a small model is trained. `minutes` bound this sitting of the denoiser; None: until its steps are done."""

    shape: Shape = SMALL
    vae: VaePlan = field(default_factory=VaePlan)
    denoiser: TrainPlan = field(default_factory=TrainPlan)
    minutes: float | None = None
    vae_only: bool = False
    start: Path | None = None


@dataclass(frozen=True)
class Material:
    """What is learned from, and who is held out to look at."""

    seen: Portraits
    faces: SeenFaces
    sitters: Sitters
    unseen: np.ndarray
    sources: tuple[Source, ...]


def train_small(
    folders: Sequence[Path],
    out: Path,
    plan: SmallPlan,
    device: torch.device,
    *,
    pack: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train on `folders` and write the model folder `out`; what is half done lies in `out`.training and is resumed.

    `out` is written at every checkpoint, whole or not at all, beside sample sheets of held-out people, who are never
    trained on.
    Raises: BadInput: a folder holds no captioned portraits, or states no licence. ModelMissing: face weights or
    CLIP's merges are needed and absent.
    """
    work = out.with_name(out.name + ".training")
    prepare(device)
    material = gather(folders, plan.shape.size, pack, say)
    vae_folder = work / "vae"
    if plan.start is not None and not vae_folder.is_dir():
        shutil.copytree(plan.start / "vae", vae_folder)
        (vae_folder / "done").touch()
    vae: Any = train_vae(material.seen.pixels, vae_folder, plan.shape, plan.vae, device, say)
    tell_vae(vae, material, work, say)
    if plan.vae_only:
        return
    tokenizer = read_tokenizer(work / "tokenizer", plan.start)
    latents = _latents(material.seen, vae, device, work / "latents.safetensors", say)
    faces = material.faces
    corpus = build_corpus(
        latents, material.seen.captions, material.seen.people, faces.embeddings, faces.boxes, tokenizer
    )
    torch.manual_seed(plan.denoiser.seed)
    parts = new_parts(tokenizer, faces.embeddings.shape[1], plan.shape)
    if plan.start is not None:
        load_parts(plan.start, parts)
    trainer = Trainer(corpus, parts, plan.denoiser, work)
    words = tokens_of(PROMPTS, tokenizer).long().to(device)

    def keep(now: Trainer) -> None:
        assemble(out, vae, tokenizer, now, card_facts(out.name, plan.shape, material, now))
        picture = sheet(now.ema, vae, material.sitters, words, corpus.silence.long())
        write_sheet(picture, work / f"samples-{now.step:06d}.jpg")
        say(f"wrote {out} and a sample sheet at step {now.step}")

    trainer.run(1e9 if plan.minutes is None else plan.minutes, say, keep)
    keep(trainer)


def prepare(device: torch.device) -> None:
    """Let a GPU multiply float32 in its faster formats: training tolerates it."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def gather(folders: Sequence[Path], size: int, pack: Path | None, say: Callable[[str], None]) -> Material:
    """Read all folders, the faces in them, and split off the held-out people."""
    sources = tuple(read_source(folder) for folder in folders)
    looked = [faces_of(folder, pack, say) for folder in folders]
    for folder, one in zip(folders, looked, strict=True):
        if one.embedder != looked[0].embedder:
            raise BadInput(f"the faces of {folder} were embedded by another face pack than those of {folders[0]}")
    portraits = load_portraits(folders, size)
    embeddings = np.concatenate([one.embeddings for one in looked])
    boxes = np.concatenate([one.boxes for one in looked])
    learn, held = portraits.held_out()
    seen = portraits.subset(learn)
    say(f"{len(seen)} pictures of {len(set(seen.people))} people to learn from, {len(held)} held out")
    sitters = Sitters.choose(portraits.pixels[held], [portraits.people[i] for i in held], embeddings[held], SITTERS)
    faces = SeenFaces(seen.files, embeddings[learn], boxes[learn], looked[0].embedder)
    return Material(seen, faces, sitters, portraits.pixels[held][:256], sources)


def tell_vae(vae: Any, material: Material, work: Path, say: Callable[[str], None]) -> None:
    """Say how well the VAE keeps held-out pictures, and draw some of them above what is left of them."""
    if len(material.unseen) == 0 or (work / "vae.jpg").is_file():
        return
    pixels = torch.from_numpy(material.unseen).to(next(vae.parameters()).device)
    decoded = reconstruct(vae, pixels)
    say(f"vae keeps {len(pixels)} pictures of held-out people at {psnr(decoded, pixels):.2f} dB")
    some = slice(0, min(8, len(pixels)))
    write_sheet(grid(torch.stack([pixels[some], decoded[some]]).cpu().numpy()), work / "vae.jpg")


def _latents(seen: Portraits, vae: Any, device: torch.device, cache: Path, say: Callable[[str], None]) -> torch.Tensor:
    """Encode every picture once; kept in `cache` as long as VAE and pictures are the same."""
    key = hashlib.sha256("\n".join(seen.files).encode())
    for value in vae.state_dict().values():
        key.update(value.detach().cpu().float().numpy().tobytes())
    named = key.hexdigest()
    if cache.is_file():
        stored = load_file(cache, device=str(device))
        if named in stored:
            return stored[named]
    latents = encode_latents(seen.pixels, vae, device)
    say(f"encoded {len(seen)} pictures, plain and mirrored")
    save_file({named: latents}, cache)
    return latents


def card_facts(name: str, shape: Shape, material: Material, trainer: Trainer) -> dict[str, Any]:
    """Return what `face0/face0.json` says of the model as it is now."""
    facts = trainer.facts()
    seen = material.seen
    return {
        "format": 1,
        "name": name,
        "embedder": material.faces.embedder,
        "tokens": FACE_TOKENS,
        "mapper_width": shape.mapper_width,
        "guidance": {"w": 3.0, "c": 1.0, "a": 0.0, "start": 0.0, "stop": 1.0},
        "steps": 20,
        "size": shape.size,
        "training": {**facts, "pictures": len(seen), "people": len(set(seen.people))},
        "licences": {
            "weights": "Apache-2.0",
            "tokenizer": "MIT (CLIP)",
            "pictures": ", ".join(sorted({source.licence for source in material.sources})),
        },
    }


def assemble(out: Path, vae: Any, tokenizer: CLIPTokenizer, trainer: Trainer, facts: dict[str, Any]) -> None:
    """Write the model folder from the averaged weights of a training, whole or not at all."""
    fresh, old = out.with_name(out.name + ".new"), out.with_name(out.name + ".old")
    for stale in (fresh, old):
        shutil.rmtree(stale, ignore_errors=True)
    tokenizer.save_pretrained(fresh / "tokenizer")
    kept = type(vae)(**{**vae.config, "_name_or_path": out.name})  # else the folder that it was read from
    kept.load_state_dict({name: value.cpu() for name, value in vae.state_dict().items()})
    kept.to(torch.float16).save_pretrained(fresh / "vae")
    write_model(fresh, trainer.ema, facts)
    (fresh / "README.md").write_text(CARD.format(**facts), encoding="utf-8")
    if out.exists():
        out.replace(old)
    fresh.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def facts_of(folder: Path) -> dict[str, Any]:
    """Return what a model folder's card says."""
    facts: dict[str, Any] = json.loads((folder / "face0" / "face0.json").read_text(encoding="utf-8"))
    return facts
