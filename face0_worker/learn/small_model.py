"""Train a whole small model from nothing but captioned portraits: VAE, then everything that denoises."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from face0_worker.learn.autoencoder import VaePlan, psnr, reconstruct, take_vae, train_vae
from face0_worker.learn.corpus import build_corpus, encode_latents, tokenise_wordings, tokens_of
from face0_worker.learn.dataset import Portraits
from face0_worker.learn.likeness import LikenessPlan, learn_latent_face
from face0_worker.learn.material import Material, gather
from face0_worker.learn.model_folder import (
    FACE_TOKENS,
    SCHEDULER,
    SMALL,
    Shape,
    check_place,
    check_start,
    complete_tokenizer,
    load_parts,
    new_parts,
    read_tokenizer,
    replaced,
    write_model,
)
from face0_worker.learn.samples import PROMPTS, Asked, grid, show_sheet, write_sheet
from face0_worker.learn.schedule import Schedule
from face0_worker.learn.sources import Permit, refuse
from face0_worker.learn.train import Subject, Trainer, TrainPlan
from face0_worker.learn.watching import Watch
from face0_worker.render.card import read_json

LATENT_FACE = "likeness.safetensors"
LIKENESS = 0.5
# chosen by docs/evaluation.md: guidance in the first steps costs likeness and an evaluation each (Kynkaanniemi et al.
# 2024, arXiv 2404.07724, limit it so), a share of the face alone gains some, and more steps gain nothing
GUIDANCE = {"w": 3.0, "c": 0.7, "a": 1.0, "start": 0.3, "stop": 1.0}
STEPS = 12

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
    """How a small model is trained. `minutes` bound this sitting of the denoiser; None: until its steps are done.

    `start` is a model folder whose weights are gone on from: all of them, but with `new_mapper` the mapper begins anew,
    and without `vae_goes_on` the VAE stays as it is.
    """

    shape: Shape = SMALL
    vae: VaePlan = field(default_factory=VaePlan)
    denoiser: TrainPlan = field(default_factory=lambda: TrainPlan(likeness=LIKENESS))
    minutes: float | None = None
    vae_only: bool = False
    start: Path | None = None
    new_mapper: bool = False
    vae_goes_on: bool = False
    sense: LikenessPlan = field(default_factory=LikenessPlan)


def train_small(
    folders: Sequence[Path],
    out: Path,
    plan: SmallPlan,
    device: torch.device,
    *,
    pack: Path | None = None,
    permit: Permit = refuse,
    watch: Watch | None = None,
) -> None:
    """Train on `folders` and write the model folder `out`; what is half done lies in `out`.training and is resumed.

    `out` is written at every checkpoint, whole or not at all, beside sample sheets of held-out people, who are never
    trained on. A consent in a folder's card is asked for by `permit` now and before each of these writes.
    Raises: BadInput: as gather, `out` is something else than a model, or `plan.start` is not a model of this shape.
    ConsentRefused: as `permit`. ModelMissing: face weights or CLIP's merges are needed and absent.
    """
    watch = watch or Watch()
    say, work = watch.say, out.with_name(out.name + ".training")
    check_place(out)
    begun: dict[str, Any] = {}
    if plan.start is not None:
        check_start(plan.start)
        before = read_json(plan.start / "face0" / "face0.json").get("training")
        begun = {"new_mapper": plan.new_mapper, "vae_goes_on": plan.vae_goes_on, "before": before}
    prepare(device)
    material = gather(folders, plan.shape.size, pack, permit, say)
    vae_folder = work / "vae"
    if plan.start is not None and not plan.vae_goes_on:
        take_vae(plan.start, vae_folder)
    first = plan.start / "vae" if plan.start is not None else None
    pixels, boxes = material.seen.pixels, material.faces.boxes
    vae: Any = train_vae(pixels, boxes, vae_folder, plan.shape, plan.vae, device, say, first)
    tell_vae(vae, material, work, say)
    if plan.vae_only:
        return
    tokenizer = read_tokenizer(work / "tokenizer", plan.start)
    latents = encoded(material.seen, vae, device, work / "latents.safetensors", say)
    faces = material.faces
    words = tokenise_wordings(material.seen.captions, tokenizer).to(device)
    silence = tokens_of([""], tokenizer)[0].to(device)
    corpus = build_corpus(latents, words, silence, material.seen.people, faces.embeddings, faces.boxes)
    torch.manual_seed(plan.denoiser.seed)
    parts = new_parts(tokenizer, faces.embeddings.shape[1], plan.shape)
    if plan.start is not None:
        load_parts(plan.start, parts, mapper=not plan.new_mapper)
    subject = replace(new_subject(parts, device), about=f"a small model with the VAE {digest_of(vae)[:12]}")
    if plan.denoiser.likeness:
        sense = learn_latent_face(corpus, plan.sense, work / LATENT_FACE, say)
        subject = replace(subject, sense=sense)
    trainer = Trainer(corpus, subject, plan.denoiser, work)
    asked = Asked(tokens_of(PROMPTS, tokenizer).long().to(device), silence.long(), tuple(latents.shape[2:]))

    def keep(now: Trainer) -> None:
        for source in material.sources:
            if source.consent:
                permit(source.consent)
        with now.averaged() as averages:
            assemble(out, vae, work / "tokenizer", averages, card_facts(out.name, plan.shape, material, now, begun))
        show_sheet(now, vae, material.sitters, asked, work, watch)
        say(f"wrote {out} at step {now.step}")

    trainer.run(1e9 if plan.minutes is None else plan.minutes, watch, keep)
    keep(trainer)


def new_subject(parts: torch.nn.ModuleDict, device: torch.device) -> Subject:
    """Return a new model's parts as what is trained: all of them learn, the text encoder too."""

    def text(words: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(parts["text_encoder"](words).last_hidden_state)

    return Subject(parts, text, Schedule.of(SCHEDULER, device), "a small model from nothing")


def prepare(device: torch.device) -> None:
    """Let a GPU multiply float32 in its faster formats: training tolerates it."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def tell_vae(vae: Any, material: Material, work: Path, say: Callable[[str], None]) -> None:
    """Say how well the VAE keeps held-out pictures, and draw some of them above what is left of them."""
    if len(material.unseen) == 0 or (work / "vae.png").is_file():
        return
    pixels = torch.from_numpy(material.unseen).to(next(vae.parameters()).device)
    decoded = reconstruct(vae, pixels)
    say(f"vae keeps {len(pixels)} pictures of held-out people at {psnr(decoded, pixels):.2f} dB")
    some = slice(0, min(8, len(pixels)))
    write_sheet(grid(torch.stack([pixels[some], decoded[some]]).cpu().numpy()), work / "vae.png")


def digest_of(vae: Any) -> str:
    """Return what tells one VAE's weights from another's, SHA-256 as hexadecimal: latents mean nothing to another."""
    key = hashlib.sha256()
    for value in vae.state_dict().values():
        key.update(value.detach().cpu().float().numpy().tobytes())
    return key.hexdigest()


def encoded(seen: Portraits, vae: Any, device: torch.device, cache: Path, say: Callable[[str], None]) -> torch.Tensor:
    """Encode every picture once; kept in `cache`, whole or not at all, as long as VAE and pixels are the same."""
    key = hashlib.sha256(np.ascontiguousarray(seen.pixels).data)
    key.update(digest_of(vae).encode())
    named = key.hexdigest()
    if cache.is_file():
        stored: dict[str, torch.Tensor] = load_file(cache, device=str(device))
        if named in stored:
            return stored[named]
    latents = encode_latents(seen.pixels, vae, device)
    say(f"encoded {len(seen)} pictures, plain and mirrored")
    fresh = cache.with_suffix(".new")
    save_file({named: latents}, fresh)
    fresh.replace(cache)
    return latents


def card_facts(
    name: str, shape: Shape, material: Material, trainer: Trainer, begun: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `face0/face0.json` says of the model as it is now; `begun`: what its training has to say of the model
    that it went on from, `before` among it, the training of that one as its card tells it."""
    facts = trainer.facts()
    seen = material.seen
    return {
        "format": 1,
        "name": name,
        "embedder": material.faces.embedder,
        "tokens": FACE_TOKENS,
        "mapper_width": shape.mapper_width,
        "guidance": dict(GUIDANCE),
        "steps": STEPS,
        "size": shape.size,
        "training": {
            **facts,
            "pictures": len(seen),
            "people": len(set(seen.people)),
            "left_out": {"unreadable": material.unreadable, "faceless": material.faceless},
            **begun,
        },
        "licences": {
            "weights": "Apache-2.0",
            "tokenizer": "MIT (CLIP)",
            "pictures": ", ".join(sorted({source.right for source in material.sources})),
        },
    }


def assemble(out: Path, vae: Any, tokenizer: Path, parts: torch.nn.ModuleDict, facts: dict[str, Any]) -> None:
    """Write the model folder from trained parts, as `replaced` does."""
    with replaced(out) as fresh:
        shutil.copytree(tokenizer, fresh / "tokenizer")
        complete_tokenizer(fresh / "tokenizer")
        kept = type(vae)(**{**vae.config, "_name_or_path": out.name})  # else the folder that it was read from
        kept.load_state_dict({name: value.cpu() for name, value in vae.state_dict().items()})
        kept.half().save_pretrained(fresh / "vae")
        write_model(fresh, parts, facts)
        (fresh / "README.md").write_text(CARD.format(**facts), encoding="utf-8")
