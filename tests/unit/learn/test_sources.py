"""By what right pictures are learned from: a stated licence, or a consent that allows training."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from face0_worker.contract.consent import ConsentRecord, Purpose
from face0_worker.contract.errors import BadInput, ConsentRefused
from face0_worker.learn.sources import read_source
from face0_worker.records import consents
from face0_worker.records.ledger import Ledger
from face0_worker.settings import Settings
from face0_worker.training_permit import training_permit
from tests.unit.learn.toy_data import names, write_people

NOW = datetime.now(UTC)


def _grant(ledger: Ledger, consent_id: str, *purposes: Purpose) -> None:
    record = ConsentRecord(consent_id, "s", frozenset(purposes), NOW - timedelta(days=1), NOW + timedelta(days=1))
    consents.grant(ledger, record)


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ({}, "no licence and no consent"),
        ({"licence": "  "}, "no licence and no consent"),
        ({"licence": None, "consent": ""}, "no licence and no consent"),
        ({"licence": "CC0-1.0", "consent": "c1"}, "both a licence and a consent"),
        ([], "JSON object"),
    ],
)
def test_a_folder_that_does_not_state_one_right_is_refused_in_one_sentence(
    tmp_path: Path, card: object, told: str
) -> None:
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(BadInput, match=told) as refused:
        read_source(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_card_is_refused_and_told_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no card\.json; write"):
        read_source(tmp_path)


def test_a_licence_is_a_right(tmp_path: Path) -> None:
    source = read_source(write_people(tmp_path / "data", names(2), card={"licence": " CC0-1.0 "}))
    assert (source.licence, source.consent, source.right) == ("CC0-1.0", "", "CC0-1.0")


def test_a_consent_is_refused_where_no_ledger_can_be_asked(tmp_path: Path) -> None:
    with pytest.raises(ConsentRefused):
        read_source(write_people(tmp_path / "data", names(1), card={"consent": "c1"}))


def test_several_people_under_one_consent_are_refused(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "data", names(2), card={"consent": "c1"})
    with pytest.raises(BadInput, match="shows 2 people under one consent"):
        read_source(folder, lambda consent_id: None)


@pytest.mark.services
def test_only_a_consent_that_allows_training_now_is_a_right(tmp_path: Path, ledger: Ledger, ledger_url: str) -> None:
    permit = training_permit(Settings(ledger_url=ledger_url))
    folder = write_people(tmp_path / "data", names(1), card={"consent": "c-1"})
    with pytest.raises(ConsentRefused, match="No such consent"):
        read_source(folder, permit)
    _grant(ledger, "c-1", Purpose.CATALOGUE, Purpose.AD)
    with pytest.raises(ConsentRefused, match="not training"):
        read_source(folder, permit)
    (folder / "card.json").write_text(json.dumps({"consent": "c-2"}))
    _grant(ledger, "c-2", Purpose.TRAINING)
    source = read_source(folder, permit)
    assert (source.consent, source.right) == ("c-2", "a person's consent")
    consents.revoke(ledger, "c-2")
    with pytest.raises(ConsentRefused, match="was revoked"):
        read_source(folder, permit)
