"""`face0 status`, `watch`, `cancel`, `pause`, `resume` and `retry`."""

from __future__ import annotations

from typing import Any

import click

from face0_worker.commandline import INTERRUPTED
from face0_worker.contract.job import ItemState
from face0_worker.records import jobs
from face0_worker.records.progress import JobStatus, job_status, list_jobs
from producer.commands.completion import known_jobs
from producer.commands.setting import opened
from producer.services import Services
from producer.show import as_json_option, console, local, plain, print_json, print_table, say
from producer.watch import follow, gate_lines, note, outcome, summary, why_not_done

job_argument = click.argument("job_id", metavar="JOB", shell_complete=known_jobs)
wait_option = click.option("--wait", is_flag=True, help="Follow the job until it ends.")


def _as_json(status: JobStatus) -> dict[str, Any]:
    return {**plain(status), "ended": status.ended, "note": note(status)}


@click.command()
@click.argument("job_id", metavar="[JOB]", required=False, shell_complete=known_jobs)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many jobs to list.")
@as_json_option
@click.pass_context
def status(ctx: click.Context, job_id: str | None, limit: int, as_json: bool) -> None:
    """Show where JOB stands, or, without one, the newest jobs."""
    with opened(ctx) as services:
        if job_id is None:
            _list(list_jobs(services.ledger, limit), as_json)
            return
        found = job_status(services.ledger, job_id)
        problems = why_not_done(services.ledger, found)
    if as_json:
        print_json({**_as_json(found), "problems": problems})
        return
    say(summary(found))
    say(f"  {found.priority.name.lower()}, for {found.purpose}, consent {found.consent_id}, {local(found.created_at)}")
    for line in gate_lines(found):
        say(f"  {line}")
    for problem in problems:
        say(f"  {problem}")


def _list(found: list[JobStatus], as_json: bool) -> None:
    if as_json:
        print_json([_as_json(one) for one in found])
    elif not found:
        say("There is no job yet; `face0 submit` makes one.")
    else:
        rows = [
            (
                one.id,
                "ended" if one.ended else str(one.state),
                f"{one.counts[ItemState.DONE]}/{one.total}",
                str(one.counts[ItemState.FAILED] + one.counts[ItemState.REJECTED]),
                one.priority.name.lower(),
                one.catalogue,
                local(one.created_at),
            )
            for one in found
        ]
        print_table(("job", "state", "done", "failed", "priority", "catalogue", "submitted"), rows)


@click.command()
@job_argument
@as_json_option
@click.pass_context
def watch(ctx: click.Context, job_id: str, as_json: bool) -> int:
    """Follow JOB until it ends. Ctrl-C stops watching only: the job goes on."""
    with opened(ctx) as services:
        return follow_to_the_end(services, job_id, as_json=as_json)


def follow_to_the_end(services: Services, job_id: str, *, as_json: bool = False, also: object = None) -> int:
    """Follow a job, say how it ended, and return the exit code for it. Ctrl-C leaves the job running (130).

    With `as_json` progress goes to stderr, and stdout is the job where it ended, with the fields of `also`.
    """
    try:
        ended = follow(services.ledger, job_id, console(stderr=as_json))
    except KeyboardInterrupt:
        click.echo(
            f"\nThe job goes on. `face0 watch {job_id}` comes back to it, `face0 cancel {job_id}` ends it.", err=True
        )
        return INTERRUPTED
    problems = why_not_done(services.ledger, ended)
    if as_json:
        print_json({**(plain(also) or {}), **_as_json(ended), "problems": problems})
        return outcome(services.ledger, ended)
    for problem in problems:
        click.echo(problem, err=True)
    if ended.counts[ItemState.DONE]:
        say(f"Next: `face0 results pull {job_id} --to DIR`")
    for line in gate_lines(ended):
        click.echo(line, err=True)
    if ended.counts[ItemState.FAILED]:
        click.echo(f"`face0 retry {job_id}` tries the failed ones again.", err=True)
    return outcome(services.ledger, ended)


def _tell(services: Services, job_id: str, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(job_status(services.ledger, job_id)))
    else:
        say(sentence)


@click.command()
@job_argument
@click.option("--sku", "skus", multiple=True, help="Only this SKU, in all its variants; repeat it for several.")
@as_json_option
@click.pass_context
def cancel(ctx: click.Context, job_id: str, skus: tuple[str, ...], as_json: bool) -> None:
    """End every open item of JOB. Finished pictures stay."""
    with opened(ctx) as services:
        count = jobs.cancel_job(services.ledger, job_id, skus)
        items = f"{count} open item{'s' * (count != 1)}"
        were = "was" if count == 1 else "were"
        _tell(services, job_id, f"{items} of {job_id} {were} cancelled.", as_json=as_json)


@click.command()
@job_argument
@as_json_option
@click.pass_context
def pause(ctx: click.Context, job_id: str, as_json: bool) -> None:
    """Start nothing more of JOB; what a worker has begun is finished."""
    with opened(ctx) as services:
        jobs.pause_job(services.ledger, job_id)
        _tell(services, job_id, f"{job_id} is paused; `face0 resume {job_id}` lets it go on.", as_json=as_json)


@click.command()
@job_argument
@wait_option
@as_json_option
@click.pass_context
def resume(ctx: click.Context, job_id: str, wait: bool, as_json: bool) -> int:
    """Let a paused JOB go on."""
    with opened(ctx) as services:
        jobs.resume_job(services.ledger, job_id)
        if wait:
            return follow_to_the_end(services, job_id, as_json=as_json)
        _tell(services, job_id, f"{job_id} goes on.", as_json=as_json)
    return 0


@click.command()
@job_argument
@wait_option
@as_json_option
@click.pass_context
def retry(ctx: click.Context, job_id: str, wait: bool, as_json: bool) -> int:
    """Let the failed items of JOB be tried again."""
    with opened(ctx) as services:
        count = jobs.retry_failed(services.ledger, job_id)
        if wait:
            return follow_to_the_end(services, job_id, as_json=as_json)
        sentence = f"{count} failed items of {job_id} wait again." if count else f"{job_id} has no failed items."
        _tell(services, job_id, sentence, as_json=as_json)
    return 0
