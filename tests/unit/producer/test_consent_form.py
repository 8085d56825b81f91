"""Forms: what the docs and the release forms ask is what a record can hold, and a form becomes that record."""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.consent_document import TERMS, to_document
from face0_worker.contract.depictions import CATEGORIES
from face0_worker.contract.errors import BadInput
from producer.consent.form import FORM_FIELDS, Form, changed, read_form, to_record
from producer.consent.words import WORDS, lines

DOCS = Path(__file__).parents[3] / "docs"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BLANK = ConsentRecord("c1", "s", frozenset({Purpose.CATALOGUE}), NOW, NOW.replace(year=2027))


@pytest.mark.parametrize("name", ["release_ja.md", "release_en.md"])
def test_every_field_of_a_release_form_is_one_of_the_record_and_the_reverse(name: str) -> None:
    named = set(re.findall(r"[((]`([a-z_]+)`[))]", (DOCS / "releases" / name).read_text()))
    assert named == (FORM_FIELDS - {"id"}) | {"approvals"}
    assert named <= set(to_document(BLANK, {}))


def test_the_example_says_every_field_and_becomes_a_record() -> None:
    file = DOCS / "releases" / "consent.toml"
    text = file.read_text()
    said = set(tomllib.loads(re.sub(r"^# (?=\[guardian|relation|pseudonym)", "", text, flags=re.MULTILINE)))
    assert said == (FORM_FIELDS | {"person"}) - {"id"}
    record = to_record(read_form(file), NOW)
    assert record.terms.prohibited <= set(CATEGORIES)
    assert record.terms.campaigns is None
    assert "Hanako" not in str(to_document(record, {}))


def test_the_docs_name_every_field_category_and_word() -> None:
    page = (DOCS / "consent.md").read_text()
    for name in [*to_document(BLANK, {"kind": "", "at": NOW, "by": ""}), *CATEGORIES]:
        assert f"`{name}`" in page, name
    assert set(WORDS) <= TERMS | set(vars(BLANK)) | {"training_use"}
    assert next(field for field, *_ in lines(BLANK)) == "id"


def test_a_form_says_only_what_changes() -> None:
    new = changed(BLANK, Form({"channels": ["web"], "training_use": True}))
    assert new.terms.channels == frozenset({"web"})
    assert new.purposes == {Purpose.CATALOGUE, Purpose.TRAINING}
    assert (new.valid_from, new.subject) == (BLANK.valid_from, BLANK.subject)
    assert changed(new, Form({"channels": "any", "purposes": ["ad"]})).purposes == {Purpose.AD, Purpose.TRAINING}
    assert changed(new, Form({"channels": []})).terms.channels == frozenset()
    with pytest.raises(BadInput, match="training_use: true or false"):
        changed(BLANK, Form({"training_use": "no"}))


def test_a_day_is_this_machines_and_the_last_one_counts_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    record = changed(BLANK, Form({"valid_from": "2026-03-01", "valid_until": "2026-03-31"}))
    assert record.valid_from.astimezone().isoformat().startswith("2026-03-01T00:00:00")
    assert record.valid_until.astimezone().isoformat().startswith("2026-04-01T00:00:00")
    exact = changed(BLANK, Form({"valid_until": "2026-03-31T12:00:00+09:00"}))
    assert exact.valid_until == datetime(2026, 3, 31, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"valid_until": "9999-12-31"}, "field valid_until: too far away"),
        ({"valid_from": "0001-01-01T00:00:00+14:00"}, "field valid_from: too far away"),
        ({"age_band": "nobody"}, "field age_band: nobody is for characters"),
    ],
)
def test_a_form_says_nothing_that_would_be_another_thing_than_it_looks(said: dict[str, str], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        changed(BLANK, Form(said))


def test_a_consent_may_be_for_training_alone() -> None:
    form = Form({"subject": "s", "purposes": [], "training_use": True, "valid_until": "2099-12-31"})
    assert to_record(form, NOW).purposes == {Purpose.TRAINING}
    with pytest.raises(BadInput, match="a consent needs purposes"):
        to_record(Form({**form.said, "training_use": False}), NOW)
