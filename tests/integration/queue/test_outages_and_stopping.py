"""What goes back to the ledger when a worker stops or the ledger was away: waiting as before, and nobody's crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from face0_worker.contract.errors import LeaseLost, LedgerDown
from face0_worker.contract.job import ItemState
from face0_worker.queue.dispatch import reconcile
from face0_worker.records import attempts
from face0_worker.records.ledger import Ledger
from face0_worker.service import Dispatcher
from face0_worker.settings import Settings
from tests.ledgers import Broker, claim_items, commit_item, expire_lease, give_consent, item_rows, some_items, states

DECADE_S = 10 * 365 * 24 * 3600.0


def _reconcile(ledger: Ledger, **given: float | bool) -> int:
    broker = Broker()
    return reconcile(
        ledger,
        send=broker.send,
        queue_length=broker.length,
        crash_limit=3,
        **given,  # type: ignore[arg-type]
    ).released


def test_what_a_stopped_worker_held_waits_again_without_blame_and_its_token_is_void(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(3))
    job_id = claim.items[0].job_id
    commit_item(ledger, claim, claim.items[0])
    assert attempts.hand_back(ledger, "w1") == 1
    assert states(ledger, job_id) == [ItemState.DONE, ItemState.WAITING, ItemState.WAITING]
    assert [(row.crashes, row.solo, row.attempt_id) for row in item_rows(ledger, job_id)[1:]] == [(0, False, None)] * 2
    with pytest.raises(LeaseLost):
        commit_item(ledger, claim, claim.items[1])
    with pytest.raises(LeaseLost):
        attempts.renew(ledger, claim.attempt_id, claim.token, 60, late=True)
    assert attempts.hand_back(ledger, "w1") == 0


def test_no_lease_counts_as_run_out_soon_after_the_ledgers_own_start(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    expire_lease(ledger, claim.attempt_id)
    assert _reconcile(ledger, spare_s=DECADE_S) == 0
    attempts.renew(ledger, claim.attempt_id, claim.token, 60, late=True)
    commit_item(ledger, claim, claim.items[0])


def test_a_lease_that_ran_out_long_after_the_ledgers_start_is_released(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    expire_lease(ledger, claim.attempt_id)
    assert _reconcile(ledger, expire=False) == 0
    assert _reconcile(ledger) == 1
    with pytest.raises(LeaseLost):
        attempts.renew(ledger, claim.attempt_id, claim.token, 60, late=True)


@pytest.fixture
def make_dispatcher(
    ledger: Ledger, ledger_url: str, broker_url: str, tmp_path: Path
) -> Callable[[Callable[[], float]], Dispatcher]:
    """Return a dispatcher on real services with a clock of the test's."""
    settings = Settings(home=tmp_path / "home", ledger_url=ledger_url, broker_url=broker_url, lease_s=0.001)
    return lambda clock: Dispatcher(settings, ledger, clock)


def test_a_dispatcher_that_missed_the_ledger_itself_gives_every_lease_time_to_be_renewed(
    ledger: Ledger, make_dispatcher: Callable[[Callable[[], float]], Dispatcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    dispatcher = make_dispatcher(lambda: now[0])
    give_consent(ledger)
    claim = claim_items(ledger, some_items(1))
    expire_lease(ledger, claim.attempt_id)

    def away(*given: object, **named: object) -> None:
        raise LedgerDown("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "release", away)
        (error,) = dispatcher.round().down
        assert isinstance(error, LedgerDown)
    dispatcher.round()
    assert states(ledger, claim.items[0].job_id) == [ItemState.RUNNING]
    now[0] += 1
    dispatcher.round()
    assert states(ledger, claim.items[0].job_id) != [ItemState.RUNNING]
    assert item_rows(ledger, claim.items[0].job_id)[0].solo
