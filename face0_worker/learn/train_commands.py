"""`face0-worker train`, `faces` and `pack`: learn from a data folder, look at it, make it travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

_PLACE = click.Path(path_type=Path)


_CHANCE = click.FloatRange(0, 1)
_COUNT = click.IntRange(1)
_AT_LEAST_ZERO = click.FloatRange(0)
_ABOVE_ZERO = click.FloatRange(0, min_open=True)
_OPTIONS = (
    click.Option(
        ["--data"], required=True, multiple=True, type=_PLACE, help="Folder of captioned pictures; may repeat."
    ),
    click.Option(["--out"], required=True, type=_PLACE, help="Model folder to write; OUT.training is resumed."),
    click.Option(["--steps"], type=_COUNT, help="Steps of the denoiser over all sittings; default: as many as fit."),
    click.Option(["--minutes"], type=_ABOVE_ZERO, help="Time of this sitting for the denoiser."),
    click.Option(["--batch"], type=_COUNT, help="Pictures in a batch; default: 256, on a CPU 32, with --base 8."),
    click.Option(["--accumulate"], type=_COUNT, help="Batches that one step learns from; default: 1."),
    click.Option(
        ["--rate"], type=_ABOVE_ZERO, help="Highest learning rate; default: 6e-4, with --base 1e-4 (lora), 1e-5."
    ),
    click.Option(["--ema"], type=_CHANCE, help="How slowly averages follow; default: 0.999, with --base 0.9999."),
    click.Option(["--drop-face"], type=_CHANCE, help="Chance to leave out the face; default: 0.09, with --base 0.05."),
    click.Option(["--drop-text"], type=_CHANCE, help="Chance to leave out the text; the same defaults."),
    click.Option(["--drop-both"], type=_CHANCE, help="Chance to leave out both; the same defaults."),
    click.Option(
        ["--face-weight"], type=_AT_LEAST_ZERO, help="How much more the face counts; default: 6, with --base 0."
    ),
    click.Option(
        ["--likeness"], type=_AT_LEAST_ZERO, help="What the person counts in a face; default: 0.5, with --base 0."
    ),
    click.Option(
        ["--checkpoint-s"], type=_ABOVE_ZERO, help="Seconds between checkpoints; default: 60, with --base 300."
    ),
    click.Option(["--checkpoint-every"], type=_COUNT, help="Steps between checkpoints, where seconds are not enough."),
    click.Option(["--sample-every"], type=_COUNT, help="Steps between samples; default: a checkpoint, --base 500."),
    click.Option(["--seed"], default=0, show_default=True, help="Another seed is another training."),
    click.Option(["--device"], default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.Option(["--pack"], type=_PLACE, help="Face pack, where the data does not bring its faces."),
    click.Option(
        ["--tensorboard/--no-tensorboard"],
        default=None,
        help="Event files in OUT.training/events; default: if installed.",
    ),
    click.Option(["--from", "start"], type=_PLACE, help="From nothing: go on from the weights of this model folder."),
    click.Option(["--new-mapper"], is_flag=True, help="With --from: what faces are told with begins anew."),
    click.Option(
        ["--vae-steps"], type=int, help="From nothing: steps of the VAE; with --from: so that it goes on too."
    ),
    click.Option(["--vae-minutes"], type=float, help="From nothing: time for the VAE; with --from: as --vae-steps."),
    click.Option(["--vae-only"], is_flag=True, help="From nothing: stop when the VAE is trained."),
    click.Option(["--shape"], type=click.Choice(["small", "toy"]), help="From nothing: how large; default: small."),
    click.Option(["--compile/--no-compile", "compiled"], default=None, help="From nothing; default: on a GPU."),
    click.Option(["--base"], type=_PLACE, help="Begin with this Stable Diffusion 1.x or 2.x folder."),
    click.Option(
        ["--method"], type=click.Choice(["lora", "full"]), help="Base: what of the UNet learns; default: lora."
    ),
    click.Option(["--rank"], type=_COUNT, help="Base: rank of the LoRAs; default: 64."),
    click.Option(["--size"], type=_COUNT, help="Base: side of the pictures in pixels; default: what the base makes."),
    click.Option(["--mapper-rate"], type=_ABOVE_ZERO, help="Base: highest learning rate of the mapper; default: 1e-4."),
    click.Option(
        ["--precision"], type=click.Choice(["auto", "no", "bf16", "fp16"]), help="Base: computed in; default: auto."
    ),
    click.Option(
        ["--gradient-checkpointing/--no-gradient-checkpointing"],
        default=None,
        help="Base: compute again instead of remembering: less memory, more time; default: on.",
    ),
    click.Option(["--prompt"], multiple=True, help="Base: what samples show; may repeat."),
    click.Option(["--base-licence"], help="Base: its licence, where the folder does not state it."),
    click.Option(["--cache"], type=_PLACE, help="Base: encoded pictures and texts; default: OUT.training/cache."),
)


def _with_options(options: Sequence[click.Option]) -> Callable[[click.Command], click.Command]:
    def add(command: click.Command) -> click.Command:
        command.params.extend(options)
        return command

    return add


def add_train_commands(group: click.Group, permits: Callable[[click.Context], Callable[[str], None]]) -> None:
    """Give `group` the commands train, faces and pack; `permits` gives what a consent is asked with."""

    @_with_options(_OPTIONS)
    @group.command()
    @click.pass_context
    def train(ctx: click.Context, /, data: tuple[Path, ...], out: Path, **said: object) -> None:
        """Train a Face0 model from captioned portraits: a small one from nothing, or one that begins with --base.

        From nothing: VAE, then text encoder, denoiser and FaceMapper. With --base: the UNet of that model, wholly or
        by LoRA, and a FaceMapper; its text encoder and VAE stay as they are.

        With --minutes and without --steps the number of steps is planned once, from the pace of the first ones, so
        that the learning rate has fallen when the minutes are over. A training that was stopped goes on where it was.
        """
        from rich.console import Console
        from transformers.utils.logging import disable_progress_bar

        from face0_worker.learn.options import small_plan, tune_plan
        from face0_worker.learn.small_model import train_small
        from face0_worker.learn.tuning import tune
        from face0_worker.learn.watching import Watch, events_in, screen_on
        from face0_worker.render.pipeline import pick_device

        disable_progress_bar()  # one for every file that is written, in the middle of what is said
        device = pick_device(str(said["device"]))
        face_pack = said["pack"] if isinstance(said["pack"], Path) else None
        base, wanted = said["base"], said["tensorboard"]
        if isinstance(base, Path):
            tuned = tune_plan(said, base, device)
        else:
            small = small_plan(said, device)
        events = events_in(out.with_name(out.name + ".training") / "events", None if wanted is None else bool(wanted))
        with screen_on(Console(), click.echo) as screen:
            watch = Watch(screen, events)
            if isinstance(base, Path):
                tune(data, out, tuned, device, pack=face_pack, permit=permits(ctx), watch=watch)
            else:
                train_small(data, out, small, device, pack=face_pack, permit=permits(ctx), watch=watch)

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
        click.echo(f"{there} of {len(found.digests)} pictures show a face")

    @group.command()
    @click.option("--data", required=True, type=_PLACE, help="Folder of captioned pictures.")
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
