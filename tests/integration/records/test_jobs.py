"""Jobs from submit to manifest, on a real PostgreSQL."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import event, func, select, text

from face0_worker.contract.consent import Purpose
from face0_worker.contract.errors import BadInput, ConsentRefused, LedgerDown, ModelMissing
from face0_worker.contract.job import Guidance, ItemState, Priority, RenderItem, canonical_json, item_key
from face0_worker.records import consents, jobs, tables
from face0_worker.records.ledger import Ledger, open_ledger
from tests.ledgers import (
    MODEL,
    Broker,
    claim_items,
    commit_item,
    dispatch_once,
    give_consent,
    item_rows,
    run_to_end,
    some_items,
    states,
    subject,
    submit,
)


@dataclass(frozen=True)
class Made:
    """Items that exist only while they are looked at; after `wrong_after` of them the list turns out to be wrong."""

    count: int
    wrong_after: int = -1

    def __iter__(self) -> Iterator[RenderItem]:
        for number in range(self.count):
            if number == self.wrong_after:
                raise BadInput("line 7: is wrong")
            yield RenderItem(f"sku-{number}", "a portrait", seed=number)


def row_count(ledger: Ledger) -> int:
    with ledger.transaction() as connection:
        counts = [select(func.count()).select_from(table) for table in (tables.jobs, tables.items, tables.faces)]
        return sum(connection.execute(count).scalar_one() for count in counts)


def test_a_job_is_stored_as_it_was_submitted(ledger: Ledger) -> None:
    give_consent(ledger)
    items = some_items(3, prompt="肖像", width=96, guidance=Guidance(5, 0.5, 0))
    job_id = submit(ledger, items, priority=Priority.NIGHTLY, submitter="shop")
    status = jobs.job_status(ledger, job_id)
    assert (status.total, status.counts[ItemState.WAITING], status.kept) == (3, 3, 0)
    assert (status.priority, status.submitter, status.consent_id) == (Priority.NIGHTLY, "shop", "c1")
    assert not status.ended
    assert [row.sku for row in jobs.job_items(ledger, job_id)] == ["sku-0", "sku-1", "sku-2"]
    broker = Broker()
    rendered = [item.spec for batch in run_to_end(ledger, broker) for item in batch]
    assert rendered == list(items)
    assert jobs.job_status(ledger, job_id).ended
    assert [job.id for job in jobs.list_jobs(ledger)] == [job_id]


def test_a_repeated_submit_is_the_same_job_even_at_the_same_moment(ledger: Ledger) -> None:
    give_consent(ledger)
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda _: submit(ledger, some_items(50), idempotency_key="tonight"), range(6)))
    assert len(set(ids)) == 1
    assert jobs.job_status(ledger, ids[0]).total == 50
    assert len(jobs.list_jobs(ledger)) == 1


def test_an_idempotency_key_does_not_stand_for_another_list(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, some_items(2), idempotency_key="tonight")
    with pytest.raises(BadInput, match="another list"):
        submit(ledger, some_items(3), idempotency_key="tonight")
    assert submit(ledger, some_items(3), idempotency_key="tonight", submitter="someone else")


def test_the_same_picture_twice_in_one_list_is_refused_and_nothing_is_written(ledger: Ledger) -> None:
    give_consent(ledger)
    one, two = some_items(2)
    with pytest.raises(BadInput, match="items 1 and 3"):
        submit(ledger, [one, two, replace(one, sku="another name")])
    with pytest.raises(BadInput, match="NUL"):
        submit(ledger, [replace(one, prompt="a\0b")])
    with pytest.raises(BadInput, match="item 1"):
        submit(ledger, [replace(one, guidance=Guidance(w=float("nan")))])
    with pytest.raises(BadInput, match="no items"):
        submit(ledger, [])
    assert jobs.list_jobs(ledger) == []


def test_a_list_that_turns_out_wrong_while_it_is_written_leaves_nothing(ledger: Ledger) -> None:
    give_consent(ledger)
    for broken in (Made(9000, wrong_after=8000), [*some_items(9), replace(some_items(1)[0], prompt="a\0b")]):
        with pytest.raises(BadInput):
            submit(ledger, broken, idempotency_key="tonight")
        assert row_count(ledger) == 0
    # nor does it use up the idempotency key
    assert submit(ledger, Made(10), idempotency_key="tonight")


@pytest.mark.parametrize("step", ["_copy_items", "_refuse_equal_items", "_keep_committed"])
def test_a_revocation_waits_for_no_step_of_a_long_submit_and_stops_it(
    ledger: Ledger, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(2))
    commit_item(ledger, claim, claim.items[0])
    with ThreadPoolExecutor(1) as pool:
        taken = getattr(jobs, step)

        def revoked_meanwhile(*said: Any) -> Any:
            result = taken(*said)
            pool.submit(consents.revoke, ledger, "c1").result(timeout=120)
            return result

        monkeypatch.setattr(jobs, step, revoked_meanwhile)
        with pytest.raises(ConsentRefused) as refused:
            submit(ledger, Made(10))
    assert refused.value.code == "revoked"
    assert len(jobs.list_jobs(ledger)) == 1


def test_the_total_and_the_content_are_those_of_the_whole_list(ledger: Ledger) -> None:
    give_consent(ledger)
    job_id = submit(ledger, Made(20))
    keys = [item_key(subject(), item) for item in Made(20)]
    with ledger.transaction() as connection:
        row = connection.execute(select(tables.jobs)).one()
    assert row.total == 20
    # the form that earlier versions stored: an idempotency key of then must be known now
    assert row.content == hashlib.sha256(canonical_json(["catalogue", keys])).hexdigest()
    assert [item.item_key for item in item_rows(ledger, job_id)] == keys


def test_writing_a_list_holds_no_more_than_a_few_items(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, Made(100))
    tracemalloc.start()
    try:
        job_id = submit(ledger, Made(10_000))
        # these items are some 15 MB together, their keys alone 1 MB
        assert tracemalloc.get_traced_memory()[1] < 800_000
    finally:
        tracemalloc.stop()
    assert jobs.job_status(ledger, job_id).total == 10_000


def test_no_round_of_the_dispatcher_reads_a_whole_long_list(ledger: Ledger) -> None:
    give_consent(ledger)
    submit(ledger, Made(20_000))
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE")) and not many:
            asked.append((statement, parameters))

    event.listen(ledger.engine, "before_cursor_execute", note)
    broker = Broker()
    dispatch_once(ledger, broker)
    jobs.finish_jobs(ledger)
    jobs.mark_finished(ledger, "no job", "no manifest")
    event.remove(ledger.engine, "before_cursor_execute", note)
    assert len(broker.take()) == 2
    with ledger.transaction() as connection:
        plans = {}
        for statement, parameters in asked:
            lines = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
            plans[statement] = "\n".join(lines)
    assert sum("items" in plan for plan in plans.values()) >= 4
    for plan in plans.values():
        assert "Seq Scan on items" not in plan, plan


def test_counting_what_is_kept_asks_in_portions(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_KEYS_AT_ONCE", 2)
    give_consent(ledger)
    claim = claim_items(ledger, some_items(5))
    for item in claim.items[:3]:
        commit_item(ledger, claim, item)
    keys = [item.item_key for item in claim.items]
    assert jobs.count_kept(ledger, iter(keys)) == 3
    assert jobs.count_kept(ledger, []) == 0
    with ledger.transaction() as connection:
        connection.execute(text("UPDATE commits SET purged_at = now() WHERE item_key = :key"), {"key": keys[0]})
    assert jobs.count_kept(ledger, keys) == 2


def test_what_is_committed_already_is_kept_at_submit(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(2))
    for item in claim.items:
        commit_item(ledger, claim, item, f"picture {item.spec.seed}")
    again = submit(ledger, some_items(3))
    assert states(ledger, again) == [ItemState.DONE, ItemState.DONE, ItemState.WAITING]
    assert jobs.job_status(ledger, again).kept == 2
    earlier, later = jobs.job_items(ledger, claim.items[0].job_id), jobs.job_items(ledger, again)
    assert [row.picture_key for row in earlier] == [row.picture_key for row in later][:2]


def test_nothing_is_kept_without_consent(ledger: Ledger) -> None:
    give_consent(ledger, purposes=(Purpose.CATALOGUE,))
    claim = claim_items(ledger, some_items(1))
    commit_item(ledger, claim, claim.items[0])
    with pytest.raises(ConsentRefused) as refused:
        submit(ledger, some_items(1), purpose="ad")
    assert refused.value.code == "wrong_purpose"
    consents.revoke(ledger, "c1")
    with pytest.raises(ConsentRefused):
        submit(ledger, some_items(1))
    with pytest.raises(ConsentRefused):
        submit(ledger, some_items(1), consent_id="nobody")
    assert len(jobs.list_jobs(ledger)) == 1


def test_a_submit_racing_with_a_revocation_leaves_nothing_open(ledger: Ledger) -> None:
    rounds = 15
    for number in range(rounds):
        give_consent(ledger, f"c{number}")

    def try_submit(consent_id: str) -> str | None:
        try:
            return submit(ledger, some_items(30), consent_id=consent_id)
        except ConsentRefused:
            return None

    with ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            submitting = pool.submit(try_submit, f"c{number}")
            pool.submit(consents.revoke, ledger, f"c{number}").result()
            job_id = submitting.result()
            if job_id is not None:
                assert states(ledger, job_id) == [ItemState.CANCELLED] * 30


def test_a_job_is_finished_once_its_manifest_stands_and_open_again_when_retried(ledger: Ledger) -> None:
    give_consent(ledger)
    job_id = submit(ledger, some_items(2))
    assert list(jobs.finish_jobs(ledger)) == []
    assert not jobs.mark_finished(ledger, job_id, "too early")
    run_to_end(ledger, Broker())
    assert list(jobs.finish_jobs(ledger)) == [job_id]
    assert jobs.mark_finished(ledger, job_id, "jobs/x/manifest/")
    status = jobs.job_status(ledger, job_id)
    assert (status.state, status.manifest_key) == ("finished", "jobs/x/manifest/")
    assert status.finished_at is not None
    assert list(jobs.finish_jobs(ledger)) == []
    assert jobs.retry_failed(ledger, job_id) == 0
    assert jobs.job_status(ledger, job_id).state == "finished"


def test_a_cancelled_job_ends_and_stays_cancelled(ledger: Ledger) -> None:
    give_consent(ledger)
    job_id = submit(ledger, some_items(2))
    assert jobs.cancel_job(ledger, job_id) == 2
    assert jobs.cancel_job(ledger, job_id) == 0
    assert list(jobs.finish_jobs(ledger)) == [job_id]
    assert jobs.mark_finished(ledger, job_id, "m")
    assert jobs.job_status(ledger, job_id).state == "cancelled"
    with pytest.raises(BadInput, match="cancelled already"):
        jobs.pause_job(ledger, job_id)
    with pytest.raises(BadInput, match="no such job"):
        jobs.cancel_job(ledger, "nothing")


def test_one_sku_is_cancelled_in_all_its_variants_and_the_job_goes_on(ledger: Ledger) -> None:
    give_consent(ledger)
    items = some_items(3)
    other = replace(items[0], variant="beach", seed=99)
    job_id = submit(ledger, [*items, other])
    assert jobs.cancel_job(ledger, job_id, ["sku-0"]) == 2
    status = jobs.job_status(ledger, job_id)
    assert (status.state, status.counts[ItemState.CANCELLED], status.counts[ItemState.WAITING]) == ("active", 2, 2)
    with pytest.raises(BadInput, match="no SKU sku-7, sku-8"):
        jobs.cancel_job(ledger, job_id, ["sku-1", "sku-8", "sku-7"])
    assert jobs.job_status(ledger, job_id).counts[ItemState.CANCELLED] == 2, "half of it was done"


def test_what_is_left_to_render_is_what_no_picture_stands_for(ledger: Ledger) -> None:
    give_consent(ledger)
    items = some_items(5)
    keyed = [(item_key(subject(), item), item) for item in items]
    submit(ledger, items[:2])
    run_to_end(ledger, Broker())
    assert list(jobs.left_to_render(ledger, iter(keyed))) == list(items[2:])


def test_a_model_is_found_by_name_digest_or_its_beginning_and_live_ones_first(ledger: Ledger) -> None:
    with pytest.raises(ModelMissing):
        jobs.find_model(ledger, None)
    jobs.offer_model(ledger, "w1", MODEL, "face0-small", {"steps": 20})
    jobs.offer_model(ledger, "w2", "f" * 64, "other", {})
    jobs.withdraw_offers(ledger, "w2")
    for asked in ("face0-small", MODEL, MODEL[:8], None):
        offer = jobs.find_model(ledger, asked)
        assert (offer.digest, offer.live, offer.facts["steps"]) == (MODEL, True, 20)
    assert not jobs.find_model(ledger, "other").live
    assert jobs.live_workers(ledger) == {MODEL: 1}
    with pytest.raises(ModelMissing, match="no worker has ever offered model x%"):
        jobs.find_model(ledger, "x%")


def test_a_ledger_that_is_down_or_bare_says_so_without_its_password(ledger_url: str) -> None:
    with pytest.raises(LedgerDown) as down:
        open_ledger("postgresql://someone:secret@127.0.0.1:1/face0")
    assert "secret" not in str(down.value)
    with pytest.raises(BadInput):
        open_ledger("sqlite:///file")
    with pytest.raises(BadInput):
        open_ledger("no url at all")
