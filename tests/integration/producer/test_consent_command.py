"""`face0 consent` as people type it: forms, versions, approvals, receipts, contact, and photos held for a human."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data as sample_photos
from sqlalchemy import select, text, update

from face0_worker.contract.consent_document import from_document
from face0_worker.faces import packs
from face0_worker.faces.packs import load_pack
from face0_worker.records import consents
from face0_worker.records.provenance import open_public_key, verify_statement
from face0_worker.records.tables import audit_outbox, consent_versions
from face0_worker.records.tables import consents as consents_table
from face0_worker.settings import Settings
from producer.demo import LIST, PERSON
from producer.services import Services, keys_folder
from tests.integration.producer.plain_worker import grant
from tests.integration.producer.test_commands import Person

pytestmark = pytest.mark.services
FORM = Path(__file__).parents[3] / "docs" / "releases" / "consent.toml"
MINIMAL = ("consent", "grant", "--subject", "model 17", "--purpose", "catalogue", "--until", "2099-12-31", "--id", "c1")


@pytest.fixture
def person(
    services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Person:
    return Person(settings, monkeypatch, capsys)


def kinds(services: Services) -> list[str]:
    with services.ledger.transaction() as connection:
        return list(connection.execute(select(audit_outbox.c.kind).order_by(audit_outbox.c.id)).scalars())


def everything_in(services: Services) -> Iterator[str]:
    """Every row of every table as text, and every stored object."""
    with services.ledger.transaction() as connection:
        for table in connection.execute(text("SELECT relname FROM pg_stat_user_tables")).scalars().all():
            yield from map(str, connection.execute(text(f"SELECT t::text FROM {table} t")).scalars())
    for key in services.storage.list():
        yield services.storage.get(key).decode("latin-1")


def test_a_minimal_consent_is_signed_and_shown(person: Person) -> None:
    assert "Consent c1 is granted for catalogue" in person.types(*MINIMAL)
    said = person.types("consent", "show", "c1")
    assert "signed: 1 version(s)" in said
    assert "now, for catalogue: allowed" in said
    assert person.reads("consent", "show", "c1")["signature"]["state"] == "signed"
    assert "model 17" in person.types("consent", "list")


def test_without_a_terminal_a_missing_field_is_said_and_nothing_is_asked(person: Person) -> None:
    said = person.types("consent", "grant", "--subject", "x", "--until", "2099-12-31", code=2)
    assert "a consent needs purposes; say --purpose" in said


def test_the_form_in_the_docs_is_taken_and_the_name_lies_in_the_vault_only(person: Person, services: Services) -> None:
    granted = person.reads("consent", "grant", "--record", FORM, "--id", "c1")
    assert granted["terms"]["controller"]
    assert "Hanako Example" in person.types("consent", "contact", "c1")
    assert kinds(services)[-2:] == ["contact.written", "contact.read"]
    assert not any("Hanako" in part or "example.com" in part for part in everything_in(services))
    person.types("consent", "revoke", "c1", "--yes")
    assert "no name or contact" in person.types("consent", "contact", "c1", code=2)


def test_an_option_counts_more_than_the_form(person: Person) -> None:
    granted = person.reads(
        "consent", "grant", "--record", FORM, "--id", "c1", "--channel", "tv", "--until", "2098-01-01"
    )
    assert granted["terms"]["channels"] == ["tv"]
    assert granted["valid_until"].startswith(("2098-01-01", "2098-01-02"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('colour = "red"', "no field 'colour'"),
        ("purposes = ['everything']", "field purposes: a list of catalogue"),
        ("age_band = 'old'", "field age_band"),
        ("faces = ['f']", "no field 'faces'"),
        ("valid_until = 'soon'", "field valid_until: expected a day"),
        ("[retention]\nphotos = 3", "no field retention.photos"),
        ("[person]\nnick = 'x'", "[person] holds texts named"),
        ("subject = ", "neither TOML nor JSON"),
        ("age_band = '13-15'", "a minor needs a guardian"),
        ("prohibited = ['nudity', ' ']", "an empty text stands among its prohibited"),
    ],
)
def test_a_wrong_form_is_refused_with_its_field(person: Person, tmp_path: Path, text: str, said: str) -> None:
    needed = 'subject = "x"\npurposes = ["catalogue"]\nvalid_until = 2099-12-31\n'
    kept = "".join(line + "\n" for line in needed.splitlines() if line.split(" ")[0] not in text)
    (tmp_path / "form.toml").write_text(kept + text)
    assert said in person.types("consent", "grant", "--record", tmp_path / "form.toml", code=2)
    assert person.reads("consent", "list") == []


def test_an_ad_waits_for_two_people(person: Person) -> None:
    assert "waits for 2 approval(s)" in person.types(*MINIMAL, "--purpose", "ad")
    submit = ("submit", "--face", PERSON, "--skus", LIST, "--consent", "c1", "--purpose", "ad", "--dry-run")
    person.types("consent", "approve", "c1", "--by", "staff-1")
    assert "has approved consent c1 already" in person.types("consent", "approve", "c1", "--by", "STAFF-1", code=2)
    assert "needs 1 more approval(s)" in person.types(*submit, code=3)
    assert "2 approval(s) of 2" in person.types("consent", "approve", "c1", "--by", "staff-2")
    person.types(*submit)
    shown = person.reads("consent", "show", "c1")
    assert [version["event"]["kind"] for version in shown["versions"]] == ["granted", "approved", "approved"]
    assert shown["consent"]["epoch"] == 1
    person.types("consent", "amend", "c1", "--channel", "web", "--territory", "JP")
    assert "channel: web; asked for: none" in person.types(*submit, code=3)
    person.types(*submit, "--channel", "web", "--territory", "jp")
    person.types("consent", "amend", "c1", "--channel", "any")
    assert "needs 2 more" in person.types(*submit, "--territory", "jp", code=3)


def test_a_version_that_was_changed_behind_our_back_is_told(person: Person, services: Services) -> None:
    person.types(*MINIMAL)
    person.types("consent", "amend", "c1", "--until", "2090-01-01")

    def state_after(change: Any) -> str:
        with services.ledger.engine.connect() as connection:
            connection.execute(change)
            connection.commit()
        return str(person.reads("consent", "show", "c1")["signature"]["state"])

    terms = consents_table.c.terms
    assert state_after(update(consents_table).values(terms=terms.concat({"channels": ["web"]}))) == "broken"
    assert state_after(update(consents_table).values(terms=terms.concat({"channels": None}))) == "signed"
    first = consent_versions.c.version == 1
    unsigned = update(consent_versions).where(first).values(envelope=None)
    envelope = services.ledger.engine.connect().execute(select(consent_versions.c.envelope).where(first)).scalar_one()
    assert state_after(unsigned) == "unsigned"
    assert state_after(update(consent_versions).where(first).values(envelope=envelope)) == "signed"
    assert state_after(consent_versions.delete().where(first)) == "broken"


def test_a_list_that_names_a_product_or_depiction_outside_the_consent_is_refused_by_its_sku(
    person: Person, services: Services, tmp_path: Path
) -> None:
    person.types(*MINIMAL, "--product", "TS-*", "--prohibit", "alcohol")
    (tmp_path / "list.csv").write_text("sku,prompt\nTS-1,a portrait\nKN-1,a portrait\n")
    submit = ("submit", "--face", PERSON, "--skus", tmp_path / "list.csv", "--consent", "c1")
    assert "SKU KN-1: Consent c1 allows these only for product: TS-*" in person.types(*submit, code=3)
    (tmp_path / "list.csv").write_text("sku,prompt\nTS-1,a portrait\nTS-2,a person with a beer\n")
    assert "SKU TS-2: Consent c1 forbids showing the person with alcohol" in person.types(*submit, code=3)
    assert list(services.storage.list()) == []
    assert kinds(services).count("consent.refused") == 2


def test_the_receipt_is_signed_and_names_no_person(person: Person, services: Services, tmp_path: Path) -> None:
    person.types("consent", "grant", "--record", FORM, "--id", "c1")
    said = person.types("consent", "receipt", "c1", "--to", tmp_path)
    assert f"written: {tmp_path / 'c1.receipt.html'}" in said
    page = (tmp_path / "c1.receipt.html").read_text()
    assert "同意の控え" in page
    assert "Hanako" not in page
    envelope = (tmp_path / "c1.receipt.json").read_bytes()
    key = open_public_key(keys_folder(services.settings) / "signing.pub")
    receipt = verify_statement(envelope, key, "the receipt")["predicate"]
    assert receipt["header"]["record_identifier"] == "c1"
    assert receipt["state"] == "dpv:ConsentGiven"
    assert receipt["events"][0]["kind"] == "granted"
    assert "Consent receipt / 同意の控え" in person.types("consent", "receipt", "c1")


def astronaut(tmp_path: Path) -> Path:
    path = tmp_path / "other.png"
    Image.fromarray(sample_photos.astronaut()).save(path)
    return path


def test_a_photo_of_somebody_else_is_held_and_enqueued_only_when_a_human_accepted_it(
    person: Person, services: Services, tmp_path: Path
) -> None:
    person.types(*MINIMAL)
    person.submits()
    record = consents.get(services.ledger, "c1")
    assert record is not None
    assert (len(record.terms.faces), record.version, record.epoch) == (1, 2, 1)
    submit = ("submit", "--face", astronaut(tmp_path), "--skus", LIST, "--consent", "c1")
    assert "it would be held for a human" in person.types(*submit, "--dry-run", code=3)
    assert person.reads("consent", "held", "list") == []
    assert "does not look like the person" in person.types(*submit, code=3)
    person.types(*submit, code=3)
    (held,) = person.reads("consent", "held", "list")
    assert held["distance"] > held["bar"]
    assert len(person.reads("status")) == 1
    shown = person.reads("consent", "held", "show", held["id"], "--to", tmp_path / "look")
    assert {Path(file).name for file in shown["files"]} == {f"{held['id']}.jpg", "enrolled-1.jpg"}
    assert {Path(file).stat().st_mode & 0o777 for file in shown["files"]} == {0o600}
    person.types("consent", "held", "accept", held["id"])
    assert "unknown or was decided on already" in person.types("consent", "held", "reject", held["id"], code=2)
    person.types(*submit)
    decisions = {"face.held", "face.viewed", "face.accepted", "face.rejected"}
    assert [kind for kind in kinds(services) if kind in decisions] == ["face.held", "face.viewed", "face.accepted"]
    record = consents.get(services.ledger, "c1")
    assert record is not None
    assert len(record.terms.faces) == 2
    assert person.reads("consent", "show", "c1")["signature"]["state"] == "signed"


def test_a_rejected_photo_is_erased_and_refused_from_then_on(
    person: Person, services: Services, tmp_path: Path
) -> None:
    person.types(*MINIMAL)
    other = astronaut(tmp_path)
    assert "enrolled" in person.types("consent", "enrol", "c1", PERSON)
    before = sorted(services.storage.list())
    assert "held" in person.types("consent", "enrol", "c1", other, code=3)
    (held,) = person.reads("consent", "held", "list")
    person.types("consent", "held", "reject", held["id"])
    assert sorted(services.storage.list()) == before
    said = person.types("submit", "--face", other, "--skus", LIST, "--consent", "c1", code=3)
    assert "was rejected" in said
    assert sorted(services.storage.list()) == before, "what was erased was stored again"
    assert "is rejected" in person.types("consent", "held", "reject", held["id"])  # again, after a kill perhaps
    assert "was rejected already" in person.types("consent", "held", "accept", held["id"], code=2)


def test_without_a_bar_nothing_is_guessed(
    person: Person, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, mean = packs._read_manifest(load_pack(None).folder / "pack.json")
    # a pack that was built before there were bars says none in its manifest; one that is built now does
    monkeypatch.setattr(packs, "_read_manifest", lambda path: ({**facts, "same_person": None}, mean))
    monkeypatch.setattr(packs, "LITE_BAR", None)
    person.types(*MINIMAL)
    person.submits()
    person.submits()  # the very same photo needs no bar
    darker = tmp_path / "darker.png"
    with Image.open(PERSON) as opened:
        opened.convert("RGB").point(lambda value: value * 0.8).save(darker)
    said = person.types("submit", "--face", darker, "--skus", LIST, "--consent", "c1", code=3)
    assert "states no bar" in said


def test_an_older_consent_has_no_documents_until_it_is_amended(person: Person, services: Services) -> None:
    person.types(*MINIMAL)
    with services.ledger.transaction() as connection:
        connection.execute(consent_versions.delete())
        connection.execute(update(consents_table).values(terms={}))
    assert "unsigned" in person.types("consent", "show", "c1")
    person.types("consent", "amend", "c1", "--channel", "web")
    shown = person.reads("consent", "show", "c1")
    assert shown["signature"]["state"] == "signed"
    record = consents.get(services.ledger, "c1")
    assert from_document(shown["versions"][-1]) == record
    assert json.dumps(shown)


def test_a_photo_that_cannot_be_used_enrols_none_of_those_beside_it(
    person: Person, services: Services, tmp_path: Path
) -> None:
    person.types(*MINIMAL)
    Image.new("RGB", (200, 200)).save(tmp_path / "nobody.png")
    person.types("consent", "enrol", "c1", PERSON, tmp_path / "nobody.png", code=2)
    assert list(services.storage.list()) == []


def test_no_photo_is_opened_for_a_consent_that_has_ended(person: Person, services: Services, tmp_path: Path) -> None:
    grant(services.ledger, "over", days=-1)
    assert "expired" in person.types("consent", "enrol", "over", tmp_path / "absent.jpg", code=3)
    assert kinds(services)[-1] == "consent.refused"


def test_keeping_a_contact_answers_machines_as_json(person: Person, tmp_path: Path) -> None:
    person.types(*MINIMAL)
    (tmp_path / "form.toml").write_text('[person]\nname = "Hanako"\n')
    assert person.reads("consent", "contact", "c1", "--record", tmp_path / "form.toml")["kept"] is True
