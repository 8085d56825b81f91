"""A change of a consent is a new version; what takes rights away takes hold at once (promise P3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.contract.job import ItemState
from face0_worker.records import consent_versions, consents, jobs
from face0_worker.records.consent_changes import amend, approve
from face0_worker.records.ledger import Ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.tables import audit_outbox
from face0_worker.records.tables import consents as consents_table
from tests.ledgers import (
    Broker,
    claim_items,
    commit_item,
    dispatch_once,
    give_consent,
    run_to_end,
    some_items,
    states,
    submit,
)

pytestmark = pytest.mark.services


def saying(**terms: Any) -> Callable[[ConsentRecord, datetime], ConsentRecord]:
    return lambda record, _: replace(record, terms=replace(record.terms, **terms))


def test_versions_are_chained_signed_and_numbered(ledger: Ledger, tmp_path: Path) -> None:
    signer = Signer.create(tmp_path)
    record = give_consent(ledger)
    new = amend(ledger, "c1", saying(channels=frozenset({"web"})), sign=signer.sign_statement, by="staff-1")
    assert (new.version, new.epoch, record.version) == (2, 2, 1)
    first, second = consent_versions.history(ledger, "c1")
    assert second.document["previous"] == first.hash == new.previous
    assert second.document["event"]["by"] == "staff-1"
    assert consents.get(ledger, "c1") == new
    # the first was granted without a signer
    assert consent_versions.prove(new, [first, second], signer.public_key).state == "unsigned"
    stranger = Signer.create(tmp_path / "other")
    assert consent_versions.prove(new, [first, second], stranger.public_key).state == "broken"


def test_only_what_takes_rights_away_raises_the_epoch(ledger: Ledger) -> None:
    give_consent(ledger)
    assert amend(ledger, "c1", saying(products=frozenset({"sku-*"}))).epoch == 2
    assert amend(ledger, "c1", saying(products=None)).epoch == 2 + 1  # approvals are given anew
    assert amend(ledger, "c1", saying(withdrawal="write to us")).epoch == 3
    with pytest.raises(BadInput, match="says that already"):
        amend(ledger, "c1", saying(withdrawal="write to us"))
    with pytest.raises(BadInput, match="no such consent"):
        amend(ledger, "c2", saying(withdrawal="x"))
    consents.revoke(ledger, "c1")
    with pytest.raises(ConsentRefused, match="was revoked and can't be changed"):
        amend(ledger, "c1", saying(withdrawal="y"))


def test_a_narrower_consent_cancels_what_it_refuses_and_leaves_the_rest(ledger: Ledger) -> None:
    give_consent(ledger)
    waiting = submit(ledger, some_items(3))
    beer = submit(ledger, some_items(2, first=10, prompt="a person with a beer"))
    amend(ledger, "c1", saying(products=frozenset({"sku-1", "sku-2", "sku-10"}), prohibited=frozenset({"alcohol"})))
    assert states(ledger, waiting) == [ItemState.CANCELLED, ItemState.WAITING, ItemState.WAITING]
    assert states(ledger, beer) == [ItemState.CANCELLED] * 2
    codes = [row.error_code for row in jobs.job_items(ledger, beer)]
    assert codes == ["prohibited_depiction", "wrong_product"]
    with ledger.transaction() as connection:
        body = connection.execute(
            select(audit_outbox.c.body).where(audit_outbox.c.kind == "consent.amended")
        ).scalar_one()
    assert body == {"consent_id": "c1", "version": 2, "epoch": 2, "cancelled": 3}
    amend(ledger, "c1", saying(channels=frozenset({"web"})))
    assert states(ledger, waiting) == [ItemState.CANCELLED] * 3


def test_a_picture_rendered_while_the_consent_got_narrower_is_not_committed(ledger: Ledger) -> None:
    give_consent(ledger)
    claim = claim_items(ledger, some_items(2))
    amend(ledger, "c1", saying(products=frozenset({"sku-1"})))
    for item, code in zip(claim.items, ("wrong_product", "changed"), strict=True):
        with pytest.raises(ConsentRefused) as refused:
            commit_item(ledger, claim, item)
        assert refused.value.code == code
    job_id = claim.items[0].job_id
    assert states(ledger, job_id) == [ItemState.CANCELLED, ItemState.WAITING]
    run_to_end(ledger, Broker())
    assert states(ledger, job_id) == [ItemState.CANCELLED, ItemState.DONE]


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"products": frozenset({"sku-0"})}, "SKU sku-1: Consent c1 allows these only for product: sku-0"),
        ({"prohibited": frozenset({"portrait"})}, "SKU sku-0: Consent c1 forbids showing the person with portrait"),
        ({"channels": frozenset({"web"})}, "only for channel: web; asked for: none"),
    ],
)
def test_a_job_outside_the_consent_is_not_created(ledger: Ledger, terms: dict[str, Any], said: str) -> None:
    give_consent(ledger)
    amend(ledger, "c1", saying(**terms))
    with pytest.raises(ConsentRefused, match=said):
        submit(ledger, some_items(2))
    assert jobs.list_jobs(ledger) == []


def test_an_ad_or_a_minor_waits_for_two_different_approvers_and_approvals_end_with_a_wider_consent(
    ledger: Ledger,
) -> None:
    give_consent(ledger, purposes=(Purpose.AD, Purpose.CATALOGUE))
    amend(ledger, "c1", saying(approvals=()))
    with pytest.raises(ConsentRefused, match="needs 2 more approval"):
        submit(ledger, some_items(1), purpose="ad")
    approve(ledger, "c1", by="staff-1")
    with pytest.raises(BadInput, match="has approved consent c1 already"):
        approve(ledger, "c1", by=" Staff-1 ")
    with pytest.raises(ConsentRefused, match="needs 1 more approval"):
        submit(ledger, some_items(1), purpose="ad")
    approve(ledger, "c1", by="staff-2")
    submit(ledger, some_items(1), purpose="ad")
    longer = amend(ledger, "c1", lambda record, _: replace(record, subject=record.subject, valid_until=later(record)))
    assert longer.terms.approvals == ()
    with pytest.raises(ConsentRefused, match="needs 2 more approval"):
        submit(ledger, some_items(1, first=5), purpose="ad")


def later(record: ConsentRecord) -> datetime:
    return record.valid_until.replace(year=record.valid_until.year + 1)


def test_nothing_in_a_plain_consent_needs_approval(ledger: Ledger) -> None:
    give_consent(ledger)
    with pytest.raises(BadInput, match="needs approval"):
        approve(ledger, "c1", by="staff-1")
    with pytest.raises(BadInput, match="say who approves"):
        approve(ledger, "c1", by=" ")


def test_a_program_of_before_sees_fewer_purposes_where_it_can_not_know_the_rest(ledger: Ledger) -> None:
    give_consent(ledger, purposes=(Purpose.AD, Purpose.CATALOGUE, Purpose.TRAINING))

    def column() -> list[str]:
        with ledger.transaction() as connection:
            return list(connection.execute(select(consents_table.c.purposes)).scalar_one())

    assert column() == ["ad", "catalogue", "training"]
    amend(ledger, "c1", saying(approvals=()))
    assert column() == ["catalogue", "training"]
    amend(ledger, "c1", saying(channels=frozenset({"web"})))
    assert column() == ["training"]
    record = consents.get(ledger, "c1")
    assert record is not None
    assert len(record.purposes) == 3
    assert dispatch_once(ledger, Broker()) == 0
