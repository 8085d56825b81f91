"""`face0 status`, `watch`, `cancel`, `pause`, `resume` and `retry`."""

from __future__ import annotations

from typing import Any

import click

from face0_worker.contract.job import ItemState
from face0_worker.records import jobs
from face0_worker.records.progress import JobStatus, job_status, list_jobs
from producer.commands.setting import opened
from producer.services import Services
from producer.show import as_json_option, console, local, plain, print_json, print_table, say
from producer.watch import follow, note, outcome, summary, why_not_done

job_argument = click.argument("job_id", metavar="JOB")


def _as_json(status: JobStatus) -> dict[str, Any]:
    return {**plain(status), "ended": status.ended, "note": note(status)}


@click.command()
@click.argument("job_id", metavar="[JOB]", required=False)
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
@click.pass_context
def watch(ctx: click.Context, job_id: str) -> int:
    """Follow JOB until it ends. Ctrl-C stops watching only: the job goes on."""
    with opened(ctx) as services:
        return follow_to_the_end(services, job_id)


def follow_to_the_end(services: Services, job_id: str, *, quiet: bool = False) -> int:
    """Follow a job, say how it ended, and return the exit code for it. Ctrl-C leaves the job running (130)."""
    try:
        ended = follow(services.ledger, job_id, console(stderr=quiet))
    except KeyboardInterrupt:
        click.echo(
            f"\nThe job goes on. `face0 watch {job_id}` comes back to it, `face0 cancel {job_id}` ends it.", err=True
        )
        return 130
    for problem in why_not_done(services.ledger, ended):
        click.echo(problem, err=True)
    if ended.counts[ItemState.DONE] and not quiet:
        say(f"Next: `face0 results pull {job_id} --to DIR`")
    if ended.counts[ItemState.FAILED]:
        click.echo(f"`face0 retry {job_id}` tries the failed ones again.", err=True)
    return outcome(services.ledger, ended)


@click.command()
@job_argument
@click.pass_context
def cancel(ctx: click.Context, job_id: str) -> None:
    """End every open item of JOB. Finished pictures stay."""
    with opened(ctx) as services:
        count = jobs.cancel_job(services.ledger, job_id)
    say(f"{count} open items of {job_id} were cancelled.")


@click.command()
@job_argument
@click.pass_context
def pause(ctx: click.Context, job_id: str) -> None:
    """Start nothing more of JOB; what a worker has begun is finished."""
    with opened(ctx) as services:
        jobs.pause_job(services.ledger, job_id)
    say(f"{job_id} is paused; `face0 resume {job_id}` lets it go on.")


@click.command()
@job_argument
@click.pass_context
def resume(ctx: click.Context, job_id: str) -> None:
    """Let a paused JOB go on."""
    with opened(ctx) as services:
        jobs.resume_job(services.ledger, job_id)
    say(f"{job_id} goes on.")


@click.command()
@job_argument
@click.pass_context
def retry(ctx: click.Context, job_id: str) -> None:
    """Let the failed items of JOB be tried again."""
    with opened(ctx) as services:
        count = jobs.retry_failed(services.ledger, job_id)
    say(f"{count} failed items of {job_id} wait again." if count else f"{job_id} has no failed items.")
