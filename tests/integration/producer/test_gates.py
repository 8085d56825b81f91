"""Every gate of docs/consent.md: a consent that does not allow the use now stops it there, and that is audited."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from face0_worker.contract.errors import ConsentRefused, Refused
from face0_worker.contract.job import ItemState, RenderItem
from face0_worker.queue.dispatch import dispatch
from face0_worker.records import attempts, offers, release
from face0_worker.records.attempts import Claim
from face0_worker.records.ledger import Ledger
from face0_worker.records.tables import audit_outbox
from face0_worker.records.tables import consents as consents_table
from producer.check import check_files
from producer.delivery.links import links
from producer.results import pull
from producer.services import Services
from producer.submit import submit
from tests import ledgers
from tests.integration.producer.plain_worker import MODEL, offer, render_everything

pytestmark = pytest.mark.services
DOCS = Path(__file__).parents[3] / "docs" / "consent.md"


def expire(ledger: Ledger, consent_id: str) -> None:
    change(ledger, consent_id, valid_until=datetime.now(UTC) - timedelta(seconds=1))


def restrict(ledger: Ledger, consent_id: str) -> None:
    change(ledger, consent_id, terms=consents_table.c.terms.concat({"channels": ["tv"]}))


def unapprove(ledger: Ledger, consent_id: str) -> None:
    change(ledger, consent_id, terms=consents_table.c.terms.concat({"approvals": [], "age_band": "16-17"}))


def change(ledger: Ledger, consent_id: str, **values: object) -> None:
    """Change the row behind the back of the rooms that would stop what runs: here the gates stand alone."""
    with ledger.transaction() as connection:
        connection.execute(update(consents_table).where(consents_table.c.id == consent_id).values(**values))


WAYS: dict[str, Callable[[Ledger, str], None]] = {
    "expired": expire,
    "wrong_channel": restrict,
    "not_approved": unapprove,
}


def items(count: int = 2) -> tuple[RenderItem, ...]:
    return ledgers.some_items(count, width=64, height=64, steps=4)


def enqueue(services: Services, consent_id: str) -> str:
    return ledgers.submit(services.ledger, items(), consent_id=consent_id, model=MODEL)


def send(services: Services) -> ledgers.Broker:
    broker = ledgers.Broker()
    offer(services)
    dispatch(services.ledger, broker.send, batch_size=8, window=9, queue_length=broker.length)
    return broker


def claim(services: Services) -> Claim:
    (one,) = ledgers.claim_all(services.ledger, send(services))
    return one


def ends(services: Services, job_id: str, code: str) -> None:
    rows = ledgers.item_rows(services.ledger, job_id)
    assert {(row.state, row.error_code) for row in rows} == {(ItemState.CANCELLED, code)}


def at_submit(services: Services, consent_id: str, refuse: Callable[[], None], code: str, folder: Path) -> None:
    refuse()
    os.mkfifo(folder / "photo")  # reading it would block for ever
    with pytest.raises(ConsentRefused) as refused:
        submit(services, face=folder / "photo", items=items(), consent_id=consent_id)
    assert refused.value.code == code


def at_creation(services: Services, consent_id: str, refuse: Callable[[], None], code: str, folder: Path) -> None:
    refuse()
    with pytest.raises(ConsentRefused):
        enqueue(services, consent_id)


def at_carry_over(services: Services, consent_id: str, refuse: Callable[[], None], code: str, folder: Path) -> None:
    enqueue(services, consent_id)
    render_everything(services)
    refuse()
    with pytest.raises(ConsentRefused):  # all of it would be kept, and nothing rendered
        enqueue(services, consent_id)


def at_dispatch(services: Services, consent_id: str, refuse: Callable[[], None], code: str, folder: Path) -> None:
    job_id = enqueue(services, consent_id)
    refuse()
    assert send(services).take() == []
    ends(services, job_id, code)


def at_claim(services: Services, consent_id: str, refuse: Callable[[], None], code: str, folder: Path) -> None:
    job_id = enqueue(services, consent_id)
    broker = send(services)
    refuse()
    assert ledgers.claim_all(services.ledger, broker) == []
    ends(services, job_id, code)


def at_commit(services: Services, consent_id: str, refuse: Callable[[], None], code: str, folder: Path) -> None:
    job_id = enqueue(services, consent_id)
    claimed = claim(services)
    refuse()
    for item in claimed.items:
        with pytest.raises(ConsentRefused):
            ledgers.commit_item(services.ledger, claimed, item)
    ends(services, job_id, code)
    attempts.finish_attempt(services.ledger, claimed.attempt_id, claimed.token)


def finished(services: Services, consent_id: str, refuse: Callable[[], None]) -> str:
    job_id = enqueue(services, consent_id)
    render_everything(services)
    refuse()
    return job_id


def at_pull(services: Services, consent_id: str, refuse: Callable[[], None], code: str, folder: Path) -> None:
    job_id = finished(services, consent_id, refuse)
    with pytest.raises(ConsentRefused):
        pull(services, job_id, folder / "out")
    assert not (folder / "out").exists()


def at_links(services: Services, consent_id: str, refuse: Callable[[], None], code: str, folder: Path) -> None:
    job_id = finished(services, consent_id, refuse)
    with pytest.raises(ConsentRefused):
        list(links(services, job_id, 60))


GATES = {
    "submit": at_submit,
    "create": at_creation,
    "carry-over": at_carry_over,
    "dispatch": at_dispatch,
    "claim": at_claim,
    "commit": at_commit,
    "pull": at_pull,
    "links": at_links,
}
STAGES = {"create": "submit", "carry-over": "submit"}


@pytest.mark.parametrize("gate", GATES)
def test_a_consent_that_does_not_allow_it_stops_it_at_this_gate(services: Services, tmp_path: Path, gate: str) -> None:
    for code, way in WAYS.items():
        consent_id, folder = code.replace("_", "-"), tmp_path / code
        folder.mkdir()
        ledgers.give_consent(services.ledger, consent_id)

        def refuse(way: Callable[[Ledger, str], None] = way, consent_id: str = consent_id) -> None:
            way(services.ledger, consent_id)

        GATES[gate](services, consent_id, refuse, code, folder)
        with services.ledger.transaction() as connection:
            kind = audit_outbox.c.kind == "consent.refused"
            bodies = connection.execute(select(audit_outbox.c.body).where(kind)).scalars().all()
        noted = [body for body in bodies if body.get("consent_id") == consent_id]
        assert {(body["stage"], body["code"]) for body in noted} == {(STAGES.get(gate, gate), code)}


def test_what_a_consent_refuses_picture_by_picture_stays_and_each_reason_is_audited_once(
    services: Services, tmp_path: Path
) -> None:
    ledgers.give_consent(services.ledger)
    job_id = enqueue(services, "c1")
    render_everything(services)
    change(services.ledger, "c1", terms=consents_table.c.terms.concat({"products": []}))
    pulled = pull(services, job_id, tmp_path / "out")
    assert (len(pulled.files), len(pulled.problems)) == (0, len(items()))
    with services.ledger.transaction() as connection:
        kind = audit_outbox.c.kind == "consent.refused"
        bodies = connection.execute(select(audit_outbox.c.body).where(kind)).scalars().all()
    assert [(body["stage"], body["code"]) for body in bodies] == [("pull", "wrong_product")]


def test_an_expired_consent_releases_no_key_and_verifies_no_picture(services: Services, tmp_path: Path) -> None:
    ledgers.give_consent(services.ledger)
    job_id = enqueue(services, "c1")
    render_everything(services)
    pull(services, job_id, tmp_path / "out")
    assert {one.code for one in check_files(services, [tmp_path / "out"])} == {"ok"}
    services.vault.new_key("c1")
    sealed = services.vault.seal("c1", b"x", about="face")
    expire(services.ledger, "c1")
    assert {one.code for one in check_files(services, [tmp_path / "out"])} == {"refused"}
    with pytest.raises(ConsentRefused):
        release.open_face(services.ledger, services.vault, "c1", "catalogue", sealed, digest="0" * 64, by="w1")


def test_a_model_whose_licence_forbids_commercial_use_is_refused_at_submit(services: Services) -> None:
    ledgers.give_consent(services.ledger)
    facts = {"embedder_digest": services.pack.digest, "licences": {"weights": "CC-BY-NC-4.0"}}
    offers.offer_model(services.ledger, "w2", "f" * 64, "portrait", facts)
    with pytest.raises(Refused, match=r"weights of model portrait forbids commercial use: 'CC-BY-NC-4\.0'"):
        submit(services, face=b"", items=items(), consent_id="c1", model="portrait")


def test_the_table_of_gates_in_the_docs_names_code_that_exists() -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| ") and ".py`" in line]
    named = [part for row in rows for part in row.split("`") if part.endswith(".py")]
    assert len(named) > 10
    for file in named:
        assert (DOCS.parents[1] / file).is_file(), file
    first = {row.split("|")[1].strip() for row in rows}
    assert set(GATES) - {"create"} <= first
