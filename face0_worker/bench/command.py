"""`face0-worker bench`: measure this engine beside diffusers on this machine."""

from __future__ import annotations

from pathlib import Path

import click

SUBJECTS = ("shipped", "sd15", "sdxl")


@click.command()
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="For bench.json.")
@click.option(
    "--models", default="auto", show_default=True, help=f"Which of {', '.join(SUBJECTS)}; auto: what fits the device."
)
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(1), help="Counted, after one that warms up."
)
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1, 500), help="Of denoising a picture.")
@click.option(
    "--batch",
    default=16,
    show_default=True,
    type=click.IntRange(2, 256),
    help="Pictures in a batch; to calibrate: the most that are tried.",
)
@click.option("--compile/--no-compile", "compiled", default=None, help="Also compiled; default: on a GPU.")
@click.option("--small", is_flag=True, help="Tiny models of the same shapes: a rehearsal, no measurement.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="Instead find the best batch of this worker's model on this device, and keep it for planning and dry runs.",
)
@click.option(
    "--size", "sizes", multiple=True, metavar="WxH", help="To calibrate; default: the model's own. Repeat it."
)
@click.option("--commit", default="", help="Commit to name in bench.json; default: the working tree's.")
@click.pass_context
def bench(
    ctx: click.Context,
    device: str,
    precision: str,
    out: Path,
    models: str,
    rounds: int,
    steps: int,
    batch: int,
    compiled: bool | None,
    small: bool,
    calibrate: bool,
    sizes: tuple[str, ...],
    commit: str,
) -> None:
    """Print how fast this engine is beside diffusers, measured in turn in one run; write OUT/bench.json.

    A ratio says more than a speed. Random weights have the shapes of Stable Diffusion 1.5 and SDXL.
    """
    if calibrate:
        from face0_worker.calibrate_command import calibrate_here

        calibrate_here(ctx.find_root().obj or {}, device, precision, sizes, most=batch, rounds=rounds)
        return
    if sizes:
        raise click.UsageError("--size goes with --calibrate")
    from face0_worker.bench.hardware import device_name
    from face0_worker.bench.report import Report, name_commit
    from face0_worker.bench.run import Bench, Course, run
    from face0_worker.render.pipeline import pick_device, pick_precision

    chosen = pick_device(device)
    kind = pick_precision(precision, chosen)
    on_gpu = chosen.type == "cuda"
    names = _chosen(models, on_gpu)
    report = Report(out, device=device_name(chosen), commit=commit or name_commit(), about={"precision": kind})
    course = Course(steps=steps, rounds=rounds, batch=batch)
    measured = Bench(report, course, chosen, kind, click.echo)
    run(measured, names, compiled=on_gpu if compiled is None else compiled, small=small)
    click.echo(f"wrote {out / 'bench.json'}")


def _chosen(models: str, on_gpu: bool) -> tuple[str, ...]:
    if models == "auto":
        # on a CPU a picture of SDXL's shape takes minutes
        return ("sd15", "shipped", "sdxl") if on_gpu else ("shipped", "sd15")
    names = tuple(name.strip() for name in models.split(",") if name.strip())
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown or not names:
        raise click.BadParameter(f"{models!r}: expected auto or some of {', '.join(SUBJECTS)}", param_hint="--models")
    return names
