"""`face0-worker train`, `faces` and `pack`: learn from a data folder, look at it, make it travel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

_PLACE = click.Path(path_type=Path)


def add_train_commands(group: click.Group, permits: Callable[[click.Context], Callable[[str], None]]) -> None:
    """Give `group` the commands train, faces and pack; `permits` gives what a consent is asked with."""

    @group.command()
    @click.option("--data", required=True, multiple=True, type=_PLACE, help="Folder that `people` made; may repeat.")
    @click.option("--out", required=True, type=_PLACE, help="Model folder to write; OUT.training is resumed.")
    @click.option("--from", "start", type=_PLACE, help="Go on from the weights of this model folder.")
    @click.option("--steps", type=int, help="Steps of the denoiser over all sittings; default: as many as fit.")
    @click.option("--minutes", type=float, help="Time of this sitting for the denoiser.")
    @click.option("--vae-steps", type=int, help="Steps of the VAE, where there is none yet.")
    @click.option("--vae-minutes", type=float, help="Time for the VAE, where there is none yet.")
    @click.option("--vae-only", is_flag=True, help="Stop when the VAE is trained.")
    @click.option("--batch", type=int, help="Pictures in a step of the denoiser; default: 256, on a CPU 32.")
    @click.option("--rate", type=float, help="Highest learning rate of the denoiser.")
    @click.option("--checkpoint-s", default=60.0, show_default=True, help="Seconds between checkpoints.")
    @click.option("--seed", default=0, show_default=True, help="Another seed is another training.")
    @click.option("--shape", type=click.Choice(["small", "toy"]), default="small", show_default=True)
    @click.option("--compile/--no-compile", "compiled", default=None, help="Default: on a GPU.")
    @click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
    @click.option("--pack", type=_PLACE, help="Face pack, where the data does not bring its faces.")
    @click.pass_context
    def train(ctx: click.Context, /, data: tuple[Path, ...], out: Path, **said: object) -> None:
        """Train a small model from captioned portraits: VAE, then text encoder, denoiser and FaceMapper.

        The number of steps is planned once, from the pace of the first ones, so that the learning rate has fallen
        when the minutes are over. A training that was stopped goes on where it was.
        """
        from transformers.utils.logging import disable_progress_bar

        from face0_worker.learn.options import small_plan
        from face0_worker.learn.small_model import train_small
        from face0_worker.render.pipeline import pick_device

        disable_progress_bar()  # one for every file that is written, in the middle of what is said
        device = pick_device(str(said["device"]))
        face_pack = said["pack"] if isinstance(said["pack"], Path) else None
        plan = small_plan(said, device)
        train_small(data, out, plan, device, pack=face_pack, permit=permits(ctx), say=click.echo)

    @group.command()
    @click.argument("data", type=_PLACE)
    @click.option("--pack", type=_PLACE, help="Face pack; default: face0_lite.")
    @click.pass_context
    def faces(ctx: click.Context, /, data: Path, pack: Path | None) -> None:
        """Find and embed the face in every picture of DATA, into its faces.npz; what is there already is kept."""
        from face0_worker.learn.seen_faces import faces_of
        from face0_worker.learn.sources import read_source

        read_source(data, permits(ctx))
        found = faces_of(data, pack, click.echo)
        there = int((abs(found.embeddings).sum(axis=1) > 0).sum())
        click.echo(f"{there} of {len(found.files)} pictures show a face")

    @group.command()
    @click.option("--data", required=True, type=_PLACE, help="Folder that `people` made.")
    @click.option("--out", required=True, type=_PLACE, help="Folder to write people-1.tar, people-2.tar ... into.")
    @click.option("--parts", default=1, show_default=True, help="Packs at most; who does not fit stays behind.")
    @click.option("--limit-mib", default=48.0, show_default=True, help="Largest pack.")
    @click.option("--quality", type=int, help="Encode again as WebP of this quality; default: files as they are.")
    @click.option("--pack", "face_pack", type=_PLACE, help="Face pack; default: face0_lite.")
    @click.pass_context
    def pack(
        ctx: click.Context,
        /,
        data: Path,
        out: Path,
        parts: int,
        limit_mib: float,
        quality: int | None,
        face_pack: Path | None,
    ) -> None:
        """Pack DATA for a machine without a face pack: whole people, with their faces already embedded."""
        from face0_worker.learn.portrait_pack import write_packs

        limit = int(limit_mib * 2**20)
        write_packs(
            data,
            out,
            parts=parts,
            limit=limit,
            quality=quality,
            face_pack=face_pack,
            permit=permits(ctx),
            say=click.echo,
        )
