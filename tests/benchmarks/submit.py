"""What submitting a list costs, from 10,000 lines to a million: seconds, memory, the broker's share, the dispatcher's.

python -m tests.benchmarks.submit --items 10000,1000000 --out out/

Real PostgreSQL, real Valkey and the real `face0 submit` process in a temporary folder; writes OUT/submit.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import redis

from face0_worker.bench.report import name_commit, name_cpu
from face0_worker.embedded import broker_url, redis_url, running
from face0_worker.queue.app import make_app, queue_length, sender
from face0_worker.queue.dispatch import dispatch
from face0_worker.records import attempts, offers
from face0_worker.records.progress import job_status
from face0_worker.records.tables import attempts as attempts_table
from face0_worker.settings import Settings
from producer.demo import PERSON
from producer.services import Services
from tests.benchmarks.house import CONSENT, installation
from tests.peaks import Cost, cost_of_face0, write_list

WORKER, MODEL = "w-bench", "b" * 64
MIB = 1024 * 1024


@dataclass(frozen=True)
class Row:
    """One measured number."""

    name: str
    value: float
    unit: str


def offer(services: Services) -> None:
    """Be a worker that lives and takes nothing."""
    offers.offer_model(services.ledger, WORKER, MODEL, "bench", {"size": 64, "steps": 4})


def submit(settings: Settings, count: int, *words: str) -> Cost:
    """Submit a list of so many lines as a user does."""
    with tempfile.TemporaryDirectory(prefix="face0-list-") as folder:
        path = write_list(Path(folder) / "list.csv", count)
        arguments = ["submit", "--face", str(PERSON), "--skus", str(path), "--consent", CONSENT, "--json", *words]
        cost = cost_of_face0(arguments, {"FACE0_HOME": str(settings.home_dir)})
    if cost.code:
        raise click.ClickException(f"face0 submit ended with {cost.code}: {cost.said[:500]}")
    return cost


def timed(call: Callable[[], object]) -> float:
    """Return how many milliseconds a call takes."""
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)


def while_it_waits(settings: Settings, services: Services, rounds: int) -> dict[str, float]:
    """Dispatch as a supervisor does while a job waits; first nobody takes a message, then batch after batch fails.

    Returns the milliseconds of one round of each kind, and the most that the broker ever held more than before, in MiB.
    """
    client = redis.Redis.from_url(redis_url(settings))
    app = make_app(broker_url(settings))
    send, length = sender(app), queue_length(app)
    length("warm-up")
    empty, most = client.info("memory")["used_memory"], 0

    def one_round() -> None:
        offer(services)
        # at once, so that whatever could pile up in the broker by sending again does so here
        dispatch(services.ledger, send, batch_size=8, window=2, queue_length=length, resend_after_s=0.0)

    times: dict[str, list[float]] = {"first": [], "full": [], "next": []}
    times["first"].append(timed(one_round))
    for kind in ("full", "next"):
        for _ in range(rounds):
            if kind == "next":
                fail_what_is_out(services)
            times[kind].append(timed(one_round))
            most = max(most, client.info("memory")["used_memory"] - empty)
    client.flushall()
    return {**{kind: statistics.median(values) for kind, values in times.items()}, "broker": most / MIB}


def fail_what_is_out(services: Services) -> None:
    """Claim every outstanding batch and let it end without pictures, as if the worker had lost its mind."""
    with services.ledger.transaction() as connection:
        rows = connection.execute(attempts_table.select().where(attempts_table.c.state == "dispatched")).all()
    for row in rows:
        claim = attempts.claim(services.ledger, row.id, WORKER, 60)
        for item in claim.items if claim else ():
            attempts.fail_item(services.ledger, row.id, claim.token, item.item_id, "bench", "no picture was asked for")  # type: ignore[union-attr]
        if claim:
            attempts.finish_attempt(services.ledger, row.id, claim.token)


def measure(count: int, rounds: int) -> Iterator[Row]:
    """Yield what a list of `count` lines costs, on an installation of its own."""
    name = f"{count:,} items"
    with installation(running) as (settings, services):
        offer(services)
        warm = submit(settings, 1, "--dry-run")
        yield Row("1 item, dry run: peak memory", round(warm.peak_mib, 1), "MiB")
        dry = submit(settings, count, "--dry-run")
        yield Row(f"{name}, dry run: time", round(dry.seconds, 2), "s")
        yield Row(f"{name}, dry run: peak memory", round(dry.peak_mib, 1), "MiB")
        real = submit(settings, count)
        yield Row(f"{name}, submit: time", round(real.seconds, 2), "s")
        yield Row(f"{name}, submit: peak memory", round(real.peak_mib, 1), "MiB")
        job_id = json.loads(real.said)["job_id"]
        if job_status(services.ledger, job_id).total != count:
            raise click.ClickException("the job has not as many items as the list")
        waiting = while_it_waits(settings, services, rounds)
        yield Row(f"{name}, waiting: broker memory more than empty, at most", round(waiting["broker"], 3), "MiB")
        for kind, what in (
            ("first", "that fills the window"),
            ("full", "with a full window"),
            ("next", "after a batch"),
        ):
            yield Row(f"{name}, waiting: dispatch round {what}", round(waiting[kind], 1), "ms")


@click.command()
@click.option("--items", default="10000,1000000", show_default=True, help="Lengths of the lists, with commas.")
@click.option("--rounds", default=20, show_default=True, help="Dispatch rounds of each kind; their median is told.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
def main(items: str, rounds: int, out: Path) -> None:
    """Measure and write OUT/submit.json."""
    rows = []
    for count in items.split(","):
        for row in measure(int(count), rounds):
            click.echo(f"{row.name}: {row.value} {row.unit}")
            rows.append(row)
    report: dict[str, Any] = {"device": name_cpu(), "commit": name_commit(), "rows": [vars(row) for row in rows]}
    out.mkdir(parents=True, exist_ok=True)
    (out / "submit.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
