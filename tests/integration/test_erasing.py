"""What a worker's process erases and signs by itself, beside its dispatcher."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from face0_worker.contract.errors import StorageDown, VerificationFailed
from face0_worker.erasing import AGAIN_S, FOLDER_S, STORE_S, Finishing, Signing, errands, make_eraser, replay_first
from face0_worker.records import audit, checkpoints, erasure
from face0_worker.records.ledger import Ledger
from face0_worker.records.storage import open_storage
from face0_worker.records.tables import audit_events
from face0_worker.records.tables import checkpoints as checkpoints_table
from face0_worker.settings import Settings
from face0_worker.telemetry import configure
from tests.erasures import Desk, make_desk


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    return make_desk(ledger, open_storage(str(tmp_path / "storage")), tmp_path)


def refuse_erasing(desk: Desk, monkeypatch: pytest.MonkeyPatch, consent_id: str, error: Exception) -> None:
    """Let the store fail for one person."""
    delete_prefix = type(desk.storage).delete_prefix

    def fail(storage: Any, prefix: str) -> int:
        if f"/{consent_id}/" in prefix:
            raise error
        return delete_prefix(storage, prefix)

    monkeypatch.setattr(type(desk.storage), "delete_prefix", fail)


@pytest.mark.parametrize("error", [StorageDown("away"), VerificationFailed("a catalogue was changed"), KeyError("odd")])
def test_an_erasure_that_can_not_go_on_keeps_no_other_from_it_and_is_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for consent_id in ("c1", "c2"):
        desk.person(consent_id, pictures=1, waiting=0)
        desk.revoke(consent_id)
    now = [1000.0]
    finishing = Finishing(desk.eraser, lambda: now[0])
    with monkeypatch.context() as patch:
        refuse_erasing(desk, patch, "c1", error)
        if isinstance(error, StorageDown):
            with pytest.raises(StorageDown):
                finishing.round()
        else:
            assert finishing.round() == 1
    assert [one.consent_id for one in erasure.unfinished(desk.ledger)] == ["c1"]
    assert not desk.vault.has_key("c1")
    if not isinstance(error, StorageDown):
        assert finishing.round() == 0  # not again and again, each second
        now[0] += AGAIN_S
    assert (finishing.round(), finishing.round()) == (1, 0)
    assert (desk.objects("c1"), desk.objects("c2")) == (0, 0)


def test_the_chain_is_signed_by_itself_and_a_fork_is_told_once(desk: Desk) -> None:
    stream = io.StringIO()  # not pytest's own, which is closed while later tests still log to it
    configure(stream=stream, json=True)
    signing = Signing(desk.eraser)
    assert signing.round() == 0
    desk.person("c1", pictures=1, waiting=0)
    audit.chain(desk.ledger)
    assert (signing.round(), signing.round()) == (1, 0)
    assert len(list(checkpoints.read_all(desk.storage, desk.signer.public_key))) == 1
    with desk.ledger.transaction() as connection:
        connection.execute(delete(audit_events))
        connection.execute(delete(checkpoints_table))
        audit.append(connection, "test", {})
    audit.chain(desk.ledger)
    assert (signing.round(), signing.round()) == (0, 0)
    told = [json.loads(line) for line in stream.getvalue().splitlines() if "audit.forked" in line]
    assert len(told) == 1
    assert "run `face0 audit verify`" in told[0]["reason"]


def test_the_second_sweep_waits_for_lease_and_store(desk: Desk) -> None:
    for storage, late_s in (("/srv/pictures", FOLDER_S), ("s3://pictures", STORE_S)):
        settings = Settings(storage=storage, lease_s=7)
        made = make_eraser(settings, desk.ledger, desk.storage, desk.vault, desk.signer)
        assert made.settle_s == 7 + late_s
    assert len(errands(desk.eraser, 30)) == 3


def test_one_erasure_that_can_not_go_on_keeps_no_worker_from_starting(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for consent_id in ("c1", "c2"):
        desk.person(consent_id, pictures=1, waiting=0)
        desk.revoke(consent_id)
    refuse_erasing(desk, monkeypatch, "c1", VerificationFailed("a catalogue was changed"))
    replay_first(desk.eraser)
    assert [one.consent_id for one in erasure.unfinished(desk.ledger)] == ["c1"]
    assert (desk.vault.has_key("c1"), desk.objects("c2")) == (False, 0)
