"""Pictures for somebody else: only for whom the consent names, and the register says who has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update

from face0_worker.contract.derivation import FileFormat, Form
from face0_worker.contract.errors import ConsentRefused
from face0_worker.records import deliveries
from face0_worker.records.deliveries import Channel
from face0_worker.records.tables import audit_outbox, derivations
from face0_worker.records.tables import consents as consents_table
from producer import cli
from producer.delivery.fetching import Exit, Request
from producer.delivery.links import links
from producer.delivery.places import Folder
from producer.delivery.selection import of_job
from producer.results import bring
from producer.services import Services
from tests import ledgers
from tests.integration.producer.plain_worker import MODEL, grant, render_everything

pytestmark = pytest.mark.services
AGENCY = "Studio Kita K.K."


@pytest.fixture
def job_id(services: Services) -> str:
    """A job of three finished pictures of somebody who allows that `AGENCY` gets them."""
    grant(services.ledger)
    terms = consents_table.c.terms.concat({"recipients": [AGENCY]})
    with services.ledger.transaction() as connection:
        connection.execute(update(consents_table).values(terms=terms))
    items = ledgers.some_items(3, width=64, height=64, steps=4)
    made = ledgers.submit(services.ledger, items, consent_id="c1", model=MODEL)
    render_everything(services)
    return made


def refusals(services: Services) -> list[tuple[str, str]]:
    with services.ledger.transaction() as connection:
        refused = audit_outbox.c.kind == "consent.refused"
        bodies = connection.execute(select(audit_outbox.c.body).where(refused)).scalars().all()
    return [(body["stage"], body["code"]) for body in bodies]


def copies(services: Services) -> set[str]:
    return {copy.destination for copy in deliveries.takedown(services.ledger, "c1")}


def test_who_is_named_gets_the_pictures_and_stands_in_the_register(
    services: Services, job_id: str, tmp_path: Path
) -> None:
    way = Exit("export", Channel.EXPORT, "/agency", AGENCY.lower())
    brought = bring(services, Request(of_job(services, job_id), way), Folder(tmp_path / "out"))
    assert len(brought.copies) == 3
    assert not brought.problems
    assert copies(services) == {f"/agency, for {AGENCY.lower()}"}


def test_who_is_not_named_gets_nothing_and_that_is_audited(services: Services, job_id: str, tmp_path: Path) -> None:
    way = Exit("export", Channel.EXPORT, "/other", "Other Ltd")
    with pytest.raises(ConsentRefused, match="handing pictures to Other Ltd") as refused:
        bring(services, Request(of_job(services, job_id), way), Folder(tmp_path / "out"))
    assert refused.value.code == "wrong_recipient"
    with pytest.raises(ConsentRefused, match="Other Ltd"):
        list(links(services, job_id, 60, "Other Ltd"))
    assert copies(services) == set()
    assert not (tmp_path / "out").exists()
    assert refusals(services) == [("export", "wrong_recipient"), ("links", "wrong_recipient")]


def test_no_other_form_is_made_for_who_is_not_named(services: Services, job_id: str, tmp_path: Path) -> None:
    way = Exit("export", Channel.EXPORT, "/other", "Other Ltd")
    request = Request(of_job(services, job_id), way, Form(FileFormat.JPEG))
    with pytest.raises(ConsentRefused, match="Other Ltd"):
        bring(services, request, Folder(tmp_path / "out"))
    with services.ledger.transaction() as connection:
        assert connection.execute(select(derivations.c.id)).all() == []


def test_of_a_catalogue_of_many_people_those_leave_who_allow_this_recipient(
    services: Services, job_id: str, tmp_path: Path
) -> None:
    """A selection of several people asks each picture's own consent; nothing was required of one of them before."""
    grant(services.ledger, "c2")
    items = tuple(replace(one, sku=f"of-c2-{one.sku}") for one in ledgers.some_items(2, width=64, height=64, steps=4))
    other = ledgers.submit(services.ledger, items, consent_id="c2", model=MODEL)
    render_everything(services)
    mine, theirs = of_job(services, job_id), of_job(services, other)
    both = replace(mine, wanted=(*mine.wanted, *theirs.wanted), person=None)
    way = Exit("export", Channel.EXPORT, "/agency", AGENCY)
    brought = bring(services, Request(both, way), Folder(tmp_path / "out"))
    assert {copy.picture.sku for copy in brought.copies} == {one.sku for one in mine.wanted}
    assert len(brought.problems) == 2
    assert all(AGENCY in problem for problem in brought.problems)
    assert list(deliveries.takedown(services.ledger, "c2")) == []


def test_without_a_recipient_pictures_stay_in_the_house(services: Services, job_id: str, tmp_path: Path) -> None:
    way = Exit("pull", Channel.PULL, "/shop")
    assert len(bring(services, Request(of_job(services, job_id), way), Folder(tmp_path / "out")).copies) == 3
    assert copies(services) == {"/shop"}


@pytest.mark.parametrize("command", ["pull", "export"])
def test_the_commands_ask_for_the_recipient_that_they_name(
    services: Services,
    job_id: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FACE0_HOME", str(services.settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", services.settings.ledger_url)
    monkeypatch.setenv("FACE0_STORAGE", services.settings.storage)
    out = tmp_path / "out"
    assert cli.run(["results", command, job_id, "--to", str(out), "--recipient", "Other Ltd"]) == 3
    assert "handing pictures to Other Ltd" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.png"))
    assert cli.run(["results", command, job_id, "--to", str(out), "--recipient", AGENCY]) == 0
    assert len(list(out.glob("*.png"))) == 3
    assert copies(services) == {f"{out}, for {AGENCY}"}
