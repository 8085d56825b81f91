"""`face0-worker evaluate`: how well a model keeps the person and follows the prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from face0_worker.contract.licence import Licence, require_licences
from face0_worker.settings import Settings
from face0_worker.training_permit import training_permit

if TYPE_CHECKING:
    from face0_worker.faces.embed import Embedder
    from face0_worker.learn.evaluate import EvaluationPlan
    from face0_worker.learn.judges import Judges
    from face0_worker.learn.truth import Picture
    from face0_worker.render.pipeline import Pipeline

_PLACE = click.Path(path_type=Path)


def add_evaluate_command(group: click.Group, settings: Callable[..., Settings]) -> None:
    """Give `group` the command. `settings` reads those in force."""

    @group.command()
    @click.option("--model", help="Model folder; default: the one that ships.")
    @click.option("--data", required=True, type=_PLACE, help="Folder that `face0-worker people` made.")
    @click.option("--judges", required=True, type=_PLACE, help="Folder of the judges; trained there if there are none.")
    @click.option("--judges-data", type=_PLACE, help="Other people, for the judges to learn from; default: --data.")
    @click.option("--train-judges", is_flag=True, help="Train the judges, also where there are some, and end.")
    @click.option("--out", type=_PLACE, default=Path("out"), show_default=True, help="Folder for the report.")
    @click.option(
        "--people", type=click.IntRange(2), default=50, show_default=True, help="Held-out people to ask about."
    )
    @click.option("--prompts", type=click.IntRange(1), default=8, show_default=True, help="Prompts a person.")
    @click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Pictures a prompt.")
    @click.option("--sweep", is_flag=True, help="Also try other guidance, intervals and steps: about 20 settings.")
    @click.option("--sweep-people", type=click.IntRange(2), default=16, show_default=True, help="People a setting.")
    @click.option("--match", help="Attributes that a gallery's people share, with commas; default: hair, glasses, ...")
    @click.option("--quick", is_flag=True, help="No floor, no diversity, and judges of one minute: to try the command.")
    @click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Pictures in one batch.")
    @click.option("--device", help="auto, cpu, cuda or cuda:N.")
    @click.option("--precision", help="auto, float32, bfloat16 or float16.")
    @click.pass_context
    def evaluate(ctx: click.Context, /, **said: Any) -> None:
        """Measure a model on people it never saw: who is painted, and what of the prompt is.

        Who: by a recogniser that conditioned nothing, in galleries of people alike, beside the one that did. What:
        by classifiers trained on rendered truth. Photos show how good either can be, text alone what a face adds.
        Writes evaluation.json, evaluation.md and pictures to --out. See docs/evaluation.md.
        """
        chosen = settings(ctx, **{name: said[name] for name in ("model", "device", "precision")})
        _evaluate(chosen, said)


def _evaluate(chosen: Settings, said: dict[str, Any]) -> None:
    from face0_worker.faces.embed import Embedder
    from face0_worker.faces.packs import load_pack
    from face0_worker.learn.judges import have_judges, load_judges
    from face0_worker.learn.sources import read_source
    from face0_worker.learn.truth import read_pictures
    from face0_worker.render.pipeline import pick_device

    pictures = read_pictures(said["data"])
    folder: Path = said["judges"]
    to_learn = said["train_judges"] or not have_judges(folder)
    if to_learn:  # judges learn from people as a model does
        read_source(said["judges_data"] or said["data"], training_permit(chosen))
    pack = load_pack(chosen.pack)
    _warn(chosen, pack.licences)
    embedder, device = Embedder.open(pack), pick_device(chosen.device)
    if to_learn:
        if not said["train_judges"]:
            click.echo(f"{folder} holds no judges; training them first, which takes a few minutes")
        learned = read_pictures(said["judges_data"]) if said["judges_data"] else pictures
        _train(learned, embedder, folder, device, quick=said["quick"])
    judges = load_judges(folder, device)
    if said["train_judges"]:
        return
    pipeline = _load_pipeline(chosen)
    _report(pipeline, embedder, judges, pictures, said)


def _train(pictures: Sequence[Picture], embedder: Embedder, folder: Path, device: Any, *, quick: bool) -> None:
    from face0_worker.learn.attributes import AttributePlan
    from face0_worker.learn.judges import JudgesPlan, train_judges
    from face0_worker.learn.recogniser import RecogniserPlan

    short = JudgesPlan(RecogniserPlan(epochs=2), AttributePlan(epochs=2), most=1000)
    judges = train_judges(
        pictures, embedder, folder, plan=short if quick else JudgesPlan(), device=device, say=click.echo
    )
    click.echo(f"judges: recogniser {judges.card['recogniser']}")
    click.echo(f"judges: attributes {judges.card['attributes']['held_out_accuracy']}")


def _load_pipeline(chosen: Settings) -> Pipeline:
    from face0_worker.models import digest_model, model_folder, model_licences, require_allowed
    from face0_worker.render.pipeline import Pipeline

    folder = model_folder(chosen.model)
    digest = digest_model(folder)
    require_allowed(folder, digest, chosen.allowed_models)
    _warn(chosen, model_licences(folder))
    return Pipeline.load(folder, digest=digest, device=chosen.device, precision=chosen.precision)


def _warn(chosen: Settings, licences: Sequence[Licence]) -> None:
    for sentence in require_licences(chosen.licence_profile, licences):
        click.echo(f"warning: {sentence}", err=True)


def _report(
    pipeline: Pipeline, embedder: Embedder, judges: Judges, pictures: Sequence[Picture], said: dict[str, Any]
) -> None:
    from face0_worker.learn.evaluate import Studio, evaluate
    from face0_worker.learn.evaluation_report import write_report
    from face0_worker.learn.sweep import SweepPlan, sweep

    start = time.monotonic()
    studio = Studio(pipeline, embedder, judges, _plan(said), click.echo)
    evaluation = evaluate(studio, pictures)
    asked = SweepPlan(said["sweep_people"], min(SweepPlan.prompts, said["prompts"]))
    points = sweep(studio, evaluation.references, asked) if said["sweep"] else ()
    facts = {
        "model": pipeline.card.name,
        "model_digest": pipeline.digest,
        "judges_digest": judges.digest,
        "conditioning_recogniser": embedder.pack.name,
        "device": str(pipeline.device),
        "precision": pipeline.precision,
        "size": pipeline.card.size,
        "steps": pipeline.card.steps,
        "sampler": pipeline.card.sampler,
        "guidance": asdict(pipeline.card.guidance),
        "minutes": round((time.monotonic() - start) / 60, 1),
    }
    for file in write_report(said["out"], evaluation, points, facts):
        click.echo(f"wrote {file}")


def _plan(said: dict[str, Any]) -> EvaluationPlan:
    from face0_worker.learn.evaluate import EvaluationPlan

    plan = EvaluationPlan(people=said["people"], prompts=said["prompts"], seeds=said["seeds"], batch=said["batch"])
    if said["match"] is not None:
        names = tuple(name.strip() for name in said["match"].split(",") if name.strip())
        plan = replace(plan, match=names)
    return replace(plan, floor_prompts=0, varied_people=0) if said["quick"] else plan
