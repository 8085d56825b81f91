"""An erasure is done whole, whoever dies in the middle of it, and what it leaves behind proves it (promise P6)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from face0_worker.contract.errors import BadInput, Refused, StorageDown
from face0_worker.contract.job import ItemState
from face0_worker.records import audit, consents, deliveries, erasure
from face0_worker.records.erasure import Eraser, Step
from face0_worker.records.ledger import Ledger
from face0_worker.records.storage import manifest_prefix, open_storage
from face0_worker.records.storage_options import S3Options
from face0_worker.records.tables import audit_outbox, commits, erasures, jobs
from face0_worker.records.tombstones import certificate_key, read_certificate, read_tombstone
from tests import ledgers
from tests.erasures import Desk, make_desk
from tests.object_servers import Become, ObjectServer


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    return make_desk(ledger, open_storage(str(tmp_path / "storage")), tmp_path)


def manifest_lines(desk: Desk, job_id: str) -> list[dict[str, Any]]:
    """Every line of a job's manifest, of shards that nothing names any more too."""
    names = [key for key in desk.storage.list(manifest_prefix(job_id)) if key.endswith(".jsonl")]
    return [json.loads(line) for name in names for line in desk.storage.get(name).splitlines()]


def test_an_erasure_leaves_nothing_of_the_person_and_everything_of_others(desk: Desk) -> None:
    mine, other = desk.person("c1"), desk.person("c2")
    before = desk.objects("c2")
    assert desk.objects("c1") == 5
    desk.revoke("c1")
    assert desk.objects("c1") == 5
    assert desk.eraser.run("c1").finished
    assert desk.objects("c1") == 0
    assert desk.objects("c2") == before
    with pytest.raises(Refused, match="key destroyed"):
        desk.vault.seal("c1", b"", about="face")
    assert [line["picture_key"] for line in manifest_lines(desk, mine)] == [None, None]
    assert all(line["picture_key"] for line in manifest_lines(desk, other))
    with desk.ledger.transaction() as connection:
        left = connection.execute(select(commits.c.receipt, commits.c.verdict).where(commits.c.consent_id == "c1"))
        assert {(bytes(row.receipt), str(row.verdict)) for row in left} == {(b"", "{}")}
        digests = connection.execute(select(jobs.c.face_digest, jobs.c.face_key).where(jobs.c.consent_id == "c1"))
        assert set(digests) == {("", "")}


def test_the_certificate_and_the_tombstone_are_signed_and_name_no_one(desk: Desk) -> None:
    desk.person("c1")
    desk.revoke("c1")
    done = desk.eraser.run("c1")
    assert done.certificate is not None
    assert desk.storage.get(certificate_key("c1")) == done.certificate
    said = read_certificate(done.certificate, desk.signer.public_key)
    assert said["counts"] == {"objects": 5, "late": 0, "manifests": 1, "copies": 2}
    assert (said["cause"], said["epoch"], said["key"]) == ("revoked", 2, "destroyed")
    assert read_tombstone(desk.storage, desk.signer.public_key, "c1").epoch == 2
    assert "subject-c1" not in str(said)


def test_what_was_being_written_in_the_moment_of_the_revocation_is_erased_by_the_second_sweep(desk: Desk) -> None:
    desk.person("c1")
    desk.revoke("c1")
    desk.settle_s = 3600
    waiting = desk.eraser.run("c1")
    assert (waiting.step, waiting.finished) == (Step.SWEEP, False)
    desk.storage.put(f"receipts/c1/{ledgers.digest('late')}.json", b"a late writer's receipt")
    assert desk.eraser.run("c1").step is Step.SWEEP
    assert desk.objects("c1") == 1
    desk.settle_s = 0
    done = desk.eraser.run("c1")
    assert (desk.objects("c1"), done.counts["late"], done.finished) == (0, 1, True)


def test_an_erasure_goes_on_where_a_service_was_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.person("c1")
    desk.revoke("c1")
    with monkeypatch.context() as patch:
        away = StorageDown("away")

        def refuse(*_: object) -> int:
            raise away

        patch.setattr(type(desk.storage), "delete_prefix", refuse)
        with pytest.raises(StorageDown):
            desk.eraser.run("c1")
    found = erasure.get(desk.ledger, "c1")
    assert found is not None
    assert found.step is Step.OBJECTS
    assert desk.vault.is_destroyed("c1")
    assert desk.eraser.run("c1").finished
    assert erasure.unfinished(desk.ledger) == []


def test_there_is_nothing_to_erase_of_who_did_not_ask(desk: Desk) -> None:
    desk.person("c1")
    with pytest.raises(BadInput, match="no erasure of this consent"):
        desk.eraser.run("c1")
    assert desk.objects("c1") == 5


def test_one_audit_event_tells_the_end_however_often_it_is_run(desk: Desk) -> None:
    desk.person("c1")
    desk.revoke("c1")
    for _ in range(3):
        desk.eraser.run("c1")
    with desk.ledger.transaction() as connection:
        kinds = list(connection.execute(select(audit_outbox.c.kind)).scalars())
    assert [kinds.count(kind) for kind in ("consent.revoked", "erasure.finished")] == [1, 1]


def test_a_consent_that_an_older_program_revoked_is_erased_when_it_is_revoked_again(desk: Desk) -> None:
    desk.person("c1")
    desk.revoke("c1")
    with desk.ledger.transaction() as connection:
        connection.execute(delete(erasures))
    consents.revoke(desk.ledger, "c1")
    assert desk.eraser.run("c1").finished


def test_a_bucket_that_keeps_versions_keeps_none_of_an_erased_person(
    ledger: Ledger, tmp_path: Path, ministack: ObjectServer, as_owner: Become
) -> None:
    server = as_owner(ministack)
    bucket = server.bucket(versioned=True)
    desk = make_desk(ledger, open_storage(f"s3://{bucket}/shop", S3Options(endpoint=server.url)), tmp_path)
    desk.person("c1")
    (face,) = desk.storage.list("faces/c1/")
    desk.storage.put(face, b"replaced", if_absent=False)
    desk.revoke("c1")
    assert desk.eraser.run("c1").finished
    assert desk.objects("c1") == 0
    keys = {version["Key"] for version in server.client().list_object_versions(Bucket=bucket)["Versions"]}
    assert not [key for key in keys if "/c1/" in key]
    assert "shop/tombstones/c1.json" in keys
    # the manifest's own old versions named her pictures
    assert all(b"pictures/c1/" not in data for _, data in desk.storage.every_version())


class _Killed(BaseException):
    """The process dies here: nothing of ours catches this, and nothing after it happens."""


class _Dying:
    """A part whose process dies after so many of its effects."""

    def __init__(self, part: object, left: list[int], effects: frozenset[str]) -> None:
        self._part, self._left, self._effects = part, left, effects

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._part, name)
        if name not in self._effects:
            return inner

        def act(*given: Any, **named: Any) -> Any:
            result = inner(*given, **named)
            _count_down(self._left)
            return result

        return act


class _DyingLedger(Ledger):
    def __init__(self, ledger: Ledger, left: list[int]) -> None:
        super().__init__(ledger.engine)
        self._left = left

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as connection:
            yield connection
            wrote = connection.exec_driver_sql("SELECT pg_current_xact_id_if_assigned()").scalar() is not None
        if wrote:
            _count_down(self._left)


def _count_down(left: list[int]) -> None:
    left[0] -= 1
    if left[0] == 0:
        raise _Killed


def _die_after(effects: int, desk: Desk) -> bool:
    """Revoke and erase, and die after so many effects; return whether that came to pass."""
    left = [effects]
    ledger = _DyingLedger(desk.ledger, left)
    storage: Any = _Dying(desk.storage, left, frozenset({"put", "delete_prefix"}))
    vault: Any = _Dying(desk.vault, left, frozenset({"destroy"}))
    try:
        consents.revoke(ledger, "c1")
        Eraser(ledger, storage, vault, desk.signer, 0.0).run("c1")
    except _Killed:
        return True
    return False


def test_killed_at_any_moment_it_completes_on_restart(desk: Desk, steps_seen: Callable[[Step], None]) -> None:
    """Kill after the first effect, the second, ... until a run outlives its own killer."""
    desk.person("c1", pictures=1, waiting=1)
    effects, killed = 0, True
    while killed:
        effects += 1
        desk.storage.put(f"pictures/c1/{ledgers.digest(str(effects))}/{'0' * 64}.png", b"again")
        desk.ask_again_at("c1", "key")
        killed = _die_after(effects, desk)
        found = erasure.get(desk.ledger, "c1")
        assert found is not None, "the revocation itself is one transaction, and the first effect"
        steps_seen(found.step)
        # what a worker does when it starts
        assert desk.eraser.run("c1").finished
        assert desk.objects("c1") == 0
        assert read_certificate(desk.storage.get(certificate_key("c1")), desk.signer.public_key)
        assert [line["state"] for line in manifest_lines(desk, "done-c1")] == [ItemState.PURGED]
    assert effects > 14


@pytest.fixture
def steps_seen() -> Iterator[Callable[[Step], None]]:
    """Remember where erasures were cut off; at the end every step must have been among them."""
    seen: set[Step] = set()
    yield seen.add
    assert seen == set(Step)


def test_every_copy_that_left_is_in_the_takedown_list_once_per_place(desk: Desk) -> None:
    desk.person("c1", pictures=1, waiting=0)
    ((item_key, sha256),) = [(one.item_key, one.picture_sha256) for one in deliveries.takedown(desk.ledger, "c1")]
    assert not desk.deliver("c1", "done-c1", item_key, sha256)
    assert desk.deliver("c1", "done-c1", item_key, sha256, to="s3://agency/spring")
    desk.revoke("c1")
    desk.eraser.run("c1")
    assert [one.destination for one in deliveries.takedown(desk.ledger, "c1")] == ["/srv/shop", "s3://agency/spring"]
    with pytest.raises(BadInput, match="destination"):
        desk.deliver("c1", "done-c1", item_key, sha256, to="two\nlines")


def test_deliveries_are_audited_without_the_place(desk: Desk) -> None:
    desk.person("c1", pictures=1, waiting=0)
    audit.chain(desk.ledger)
    with desk.ledger.transaction() as connection:
        rows = [row for row in audit.walk(connection) if row.kind == "picture.delivered"]
    assert len(rows) == 1
    assert "shop" not in rows[0].body
