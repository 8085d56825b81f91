"""Make an existing Stable Diffusion model a Face0 model: its UNet learns, wholly or by LoRA, and a mapper always."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.learn.album import (
    Album,
    caption_wordings,
    read_album,
    shelve_latents,
    shelve_texts,
    text_digest,
    word_rows,
)
from face0_worker.learn.base_model import LORA, MAPPER_WIDTH, Base, learning_parts, read_base, text_encoder
from face0_worker.learn.corpus import Mix, build_corpus
from face0_worker.learn.likeness import LikenessPlan, learn_latent_face
from face0_worker.learn.model_folder import FACE_TOKENS, check_place
from face0_worker.learn.samples import PROMPTS, Asked, show_sheet
from face0_worker.learn.schedule import Schedule
from face0_worker.learn.shelf import Shelf
from face0_worker.learn.small_model import LATENT_FACE, prepare
from face0_worker.learn.sources import Permit, refuse
from face0_worker.learn.train import Subject, Trainer, TrainPlan
from face0_worker.learn.tuned_folder import write_tuned
from face0_worker.learn.watching import Watch
from face0_worker.render.loading import load_component
from face0_worker.render.survey import latent_factor, text_width

GUIDANCE = {"w": 7.5, "c": 1.0, "a": 0.0, "start": 0.0, "stop": 1.0}
STEPS = 30
# as IP-Adapter-FaceID leaves face, text and both out, and the paper's plain loss
MIX = Mix(batch=8, drop_face=0.05, drop_text=0.05, drop_both=0.05, face_noise=0.0, face_weight=0.0)


@dataclass(frozen=True)
class TunePlan:
    """How a base becomes a Face0 model. `size` in pixels, None: the base's own; `rank` is LoRA's.

    `minutes` bound this sitting, None: until its steps are done. `licence` is the base's where it does not say it;
    `cache` is where encoded pictures and texts lie, None: beside the training. `prompts` are what samples show.
    """

    base: Path
    method: str = LORA
    rank: int = 64
    size: int | None = None
    checkpointing: bool = True
    minutes: float | None = None
    licence: str | None = None
    cache: Path | None = None
    prompts: tuple[str, ...] = PROMPTS[:4]
    train: TrainPlan = field(default_factory=lambda: TrainPlan(rate=1e-4, ema=0.9999, mix=MIX, sample_every=500))
    sense: LikenessPlan = field(default_factory=LikenessPlan)


def tune(
    folders: Sequence[Path],
    out: Path,
    plan: TunePlan,
    device: torch.device,
    *,
    pack: Path | None = None,
    permit: Permit = refuse,
    watch: Watch | None = None,
) -> None:
    """Train `plan.base` on `folders` and write the model folder `out`; what is half done lies in `out`.training.

    `out` is written every `sample_every` steps and at the end, whole or not at all. A consent in a folder's card is
    asked for by `permit` now and before each of these writes.
    Raises: ModelMissing, BadInput: as read_base, read_album and Trainer. BadInput: a size that the VAE can't have, or
    the device's memory is too small for a step. ConsentRefused: as `permit`.
    """
    watch, work = watch or Watch(), out.with_name(out.name + ".training")
    check_place(out)
    base = read_base(plan.base, plan.licence)
    size = _size(base, plan.size)
    album = read_album(folders, pack, permit, watch.say)
    prepare(device)
    torch.manual_seed(plan.train.seed)
    parts = learning_parts(
        base, album.faces.embedder, plan.method, plan.rank, plan.train.precision, checkpointing=plan.checkpointing
    )
    _tell_size(parts, plan, watch.say)
    vae: Any = load_component(base.survey, "vae", torch.float32).to(device)
    cache = plan.cache or work / "cache"
    latents = _latents(album, base, vae, size, cache, watch.say)
    told = caption_wordings(album, plan.train.seed)
    texts = _texts([*plan.prompts, *(text for some in told for text in some)], base, cache, device, watch.say)
    silence = texts.rows([text_digest("")]).to(device)
    corpus = build_corpus(
        latents.tensor().transpose(0, 1),
        word_rows(told, texts).to(device),
        silence,
        album.people,
        album.faces.embeddings,
        album.faces.boxes,
        latents.rows(album.faces.digests),
    )
    schedule, table = Schedule.of(base.survey.configs["scheduler"], device), texts.tensor()

    def text(rows: Tensor) -> Tensor:
        return table[rows[:, 0].to(table.device)].to(device).float()

    subject = Subject(parts, text, schedule, _about(base, plan, size))
    if plan.train.likeness:
        subject = replace(subject, sense=learn_latent_face(corpus, plan.sense, work / LATENT_FACE, watch.say))
    trainer = Trainer(corpus, subject, plan.train, work)
    words = texts.rows([text_digest(text) for text in plan.prompts])[:, None].to(device)
    asked = Asked(words, silence, tuple(corpus.latents.shape[2:]), GUIDANCE["w"], at_once=4)
    sitters = album.sit(size)
    if len(sitters.faces) == 0:
        watch.say("nobody is held out, so no samples are drawn; a twentieth of the people is, once there are more")

    def keep(now: Trainer) -> None:
        for source in album.sources:
            if source.consent:
                permit(source.consent)
        with now.averaged() as averages:
            write_tuned(out, base, averages, card_facts(out.name, base, album, now, plan, size))
        show_sheet(now, vae, sitters, asked, work, watch)
        watch.say(f"wrote {out} at step {now.step}")

    try:
        trainer.run(1e9 if plan.minutes is None else plan.minutes, watch, keep)
    except torch.OutOfMemoryError as error:
        raise BadInput(
            f"the device has no memory left for a step of {plan.train.mix.batch} pictures of {size} px; take a smaller "
            "--batch and a larger --accumulate, --method lora, or a smaller --size"
        ) from error
    keep(trainer)


def _size(base: Base, wanted: int | None) -> int:
    size = wanted or base.size
    # the UNet halves its latents once for each level but the last
    step = latent_factor(base.survey) * 2 ** (len(base.survey.of("unet", "block_out_channels")) - 1)
    if size < step or size % step:
        raise BadInput(f"--size {size}: this base makes pictures whose side is a multiple of {step} px")
    return size


def _about(base: Base, plan: TunePlan, size: int) -> str:
    how = f"LoRA of rank {plan.rank}" if plan.method == LORA else "the whole UNet"
    return f"model {base.digest[:16]} by {how} at {size} px"


def _tell_size(parts: torch.nn.ModuleDict, plan: TunePlan, say: Callable[[str], None]) -> None:
    counts = {
        name: sum(value.numel() for value in part.parameters() if value.requires_grad) for name, part in parts.items()
    }
    whole = sum(value.numel() for value in parts["unet"].parameters())
    say(f"{counts['unet']:,} of {whole:,} UNet weights learn ({plan.method}); {counts['mapper']:,} of the mapper")


def _latents(album: Album, base: Base, vae: Any, size: int, cache: Path, say: Callable[[str], None]) -> Shelf:
    """Return all pictures of the album as the base's VAE encodes them."""
    side = size // latent_factor(base.survey)
    shape = (2, int(base.survey.of("vae", "latent_channels")), side, side)
    shelf = Shelf(cache / f"latents-{size}-{base.digest_of('vae')[:16]}", shape)
    shelve_latents(album, vae, size, shelf, say)
    return shelf


def _texts(texts: Sequence[str], base: Base, cache: Path, device: torch.device, say: Callable[[str], None]) -> Shelf:
    """Return these texts, and no text, as the base's text encoder encodes them."""
    shape = (int(base.survey.of("text_encoder", "max_position_embeddings")), text_width(base.survey))
    shelf = Shelf(cache / f"texts-{FACE_TOKENS}-{base.digest_of('text_encoder', 'tokenizer')[:16]}", shape)
    shelve_texts(["", *texts], text_encoder(base, device), FACE_TOKENS, shelf, say)
    return shelf


def card_facts(name: str, base: Base, album: Album, trainer: Trainer, plan: TunePlan, size: int) -> dict[str, Any]:
    """Return what `face0/face0.json` says of the model as it is now."""
    card = base.survey.card
    method = {"method": plan.method, **({"rank": plan.rank} if plan.method == LORA else {})}
    return {
        "format": 1,
        "name": name,
        "embedder": album.faces.embedder,
        "tokens": FACE_TOKENS,
        "mapper_width": MAPPER_WIDTH if card is None else card.mapper_width,
        "guidance": GUIDANCE,
        "steps": STEPS,
        "size": size,
        "base": {"name": base.folder.resolve().name, "digest": base.digest},
        "training": {
            **method,
            **trainer.facts(),
            "pictures": len(album.lines),
            "people": len(set(album.people)),
            "left_out": {"unreadable": album.unreadable, "faceless": album.faceless},
        },
        "licences": {
            "weights": base.licence,
            "base": base.licence,
            "pictures": ", ".join(sorted({source.right for source in album.sources})),
        },
    }
