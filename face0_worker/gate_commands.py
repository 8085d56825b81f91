"""`face0-worker model calibrate-gate` and `gate-report`: set the quality gate's bars, and count its mistakes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from face0_worker.settings import Settings

_PLACE = click.Path(path_type=Path)
_SHARE = click.FloatRange(0.0, 0.5, min_open=True)


def add_gate_commands(group: click.Group, model: click.Group, settings: Callable[..., Settings]) -> None:
    """Give `group` gate-report, and its group `model` calibrate-gate. `settings` reads those in force."""

    @model.command("calibrate-gate")
    @click.argument("folder", metavar="MODEL", type=_PLACE)
    @click.option(
        "--data", type=_PLACE, help="Folder that `face0-worker people` made; default: characters, no skin bar."
    )
    @click.option("--people", type=click.IntRange(4), default=96, show_default=True, help="People, one picture each.")
    @click.option(
        "--share", type=_SHARE, default=0.02, show_default=True, help="Good pictures that may lie beyond a bar."
    )
    @click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Pictures in one batch.")
    @click.option("--device", help="auto, cpu, cuda or cuda:N.")
    @click.option("--dry-run", is_flag=True, help="Print the bars; write nothing.")
    @click.pass_context
    def calibrate_gate(ctx: click.Context, /, folder: Path, **said: Any) -> None:
        """Render people whom MODEL never saw, and write the quality gate's bars into its face0.json.

        The bars are part of the model: it gets another digest, and pictures made before are made again when they are
        asked for. Until this was done nobody is rejected for likeness, sharpness or skin (docs/quality.md).
        """
        _calibrate(settings(ctx, model=folder, device=said["device"]), said)

    @group.command("gate-report")
    @click.option(
        "--data", required=True, type=_PLACE, help="Folder that `face0-worker people` made, two views or more."
    )
    @click.option("--model", help="Model whose bars are judged, too; default: the one that ships.")
    @click.option(
        "--share", type=_SHARE, default=0.02, show_default=True, help="Of photos beyond the bars set by photos."
    )
    @click.option("--each", type=click.IntRange(1), help="Kinds of faults for each person; default: every kind.")
    @click.option("--seed", type=int, default=0, show_default=True, help="Another seed plants other faults.")
    @click.option("--out", type=_PLACE, default=Path("out"), show_default=True, help="Folder for the report.")
    @click.pass_context
    def gate_report(ctx: click.Context, /, **said: Any) -> None:
        """Plant faults in good portraits and count what the quality gate catches, and its false alarms.

        Up to sixty people, half at most, set bars as a model would get that keeps a person as well as another photo
        does; the others are judged, by these bars and by the model's own. Writes gate.json, gate.md and a sheet of the
        pictures.
        """
        _report(settings(ctx, model=said["model"]), said)


def _calibrate(chosen: Settings, said: dict[str, Any]) -> None:
    from face0_worker.learn.gate_calibration import calibrate_model, characters, people_of, write_gate
    from face0_worker.learn.truth import read_pictures
    from face0_worker.models import digest_model, face_folder, model_folder
    from face0_worker.renderer import load_renderer

    place = model_folder(chosen.model)
    pictures = read_pictures(said["data"]) if said["data"] else None
    renderer = load_renderer(chosen)
    embedder = renderer.embedder
    people = people_of(pictures, embedder, said["people"]) if pictures else characters(embedder, said["people"])
    done = calibrate_model(
        renderer.pipeline, embedder, people, share=said["share"], batch=said["batch"], say=click.echo
    )
    for name, value in asdict(done.gate).items():
        click.echo(f"{name:>12}  {value}")
    click.echo(
        f"{100 * done.rejected.value:.0f}% of the model's own pictures are rejected at their first try, and "
        f"{100 * done.strangers.value:.0f}% of another person's for their likeness"
    )
    if said["dry_run"]:
        return
    write_gate(face_folder(place) / "face0.json", done.gate)
    click.echo(
        f"wrote the bars into {face_folder(place) / 'face0.json'}; the model's digest is now {digest_model(place)}"
    )


def _report(chosen: Settings, said: dict[str, Any]) -> None:
    from face0_worker.faces.embed import Embedder
    from face0_worker.faces.packs import load_pack
    from face0_worker.learn.gate_report import find_sitters, report, tables, write_report
    from face0_worker.learn.truth import read_pictures
    from face0_worker.models import face_folder, model_folder
    from face0_worker.render.card import parse_card, read_json

    begun = time.monotonic()
    file = face_folder(model_folder(chosen.model)) / "face0.json"
    card = parse_card(read_json(file), file)
    embedder = Embedder.open(load_pack(chosen.pack))
    sitters = find_sitters(read_pictures(said["data"]), embedder, click.echo)
    told = report(sitters, embedder, card.gate, share=said["share"], seed=said["seed"], each=said["each"])
    told |= {"model": card.name, "face_pack": embedder.pack.name, "minutes": round((time.monotonic() - begun) / 60, 1)}
    files = write_report(said["out"], told, sitters, said["seed"])
    click.echo(tables(told))
    if card.gate is None:
        click.echo(f"model {card.name} has no bars of its own; `face0-worker model calibrate-gate` sets them")
    for one in files:
        click.echo(f"wrote {one}")
