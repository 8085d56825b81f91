"""What a catalogue's pointer names, whatever is withdrawn, rolled back or cut short meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import Connection

from face0_worker.contract.errors import BadInput, VerificationFailed
from face0_worker.records import catalogue_runs, catalogues, consents
from face0_worker.records.catalogue_pointer import read_pointer
from face0_worker.records.progress import list_jobs
from face0_worker.records.storage import pointer_key
from producer.nightly import run_night
from producer.nights.plan import Share
from producer.services import Services
from tests.integration.producer.plain_worker import grant
from tests.integration.producer.shop import Shop, item, open_photo, some

pytestmark = pytest.mark.services


# ---- consent against the pointer


def test_a_consent_that_ends_while_the_manifest_is_written_is_left_out(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(shop.services.ledger, "c2")
    put = shop.services.storage.put

    def put_and_revoke(key: str, data: bytes, *, if_absent: bool = True) -> bool:
        if "/root-" in key:
            consents.revoke(shop.worker.ledger, "c2")
        return put(key, data, if_absent=if_absent)

    monkeypatch.setattr(shop.services.storage, "put", put_and_revoke)
    night = shop.night(("c1", some(1)), ("c2", some(2, 3)))
    assert shop.skus() == ["s1"]
    assert (night.counts.refused, night.counts.done, night.exit_code) == (2, 1, 3)


def test_a_revoked_consent_leaves_every_catalogue_that_names_it(shop: Shop) -> None:
    services = shop.services
    grant(services.ledger, "c2")
    shop.night(("c1", some(1)), ("c2", some(2)))
    others = (Share("c2", some(7), open_photo),)
    run_night(services, replace(shop.order(), catalogue="winter", shares=others), shop.work)
    mine = (Share("c1", some(8), open_photo),)
    run_night(services, replace(shop.order(), catalogue="summer", shares=mine), shop.work)
    consents.revoke(services.ledger, "c2")
    office = services.ledger, services.storage, services.signer
    assert catalogues.supersede(*office, "c2") == ("autumn", "winter")
    assert shop.skus() == ["s1"]
    winter = read_pointer(services.storage, services.signer.public_key, "winter")
    assert winter is not None
    assert (winter.total, winter.consents) == (0, ())
    assert catalogues.supersede(*office, "c2") == ()
    everything = [services.storage.get(key) for key in services.storage.list("catalogues/") if key.endswith("jsonl")]
    assert everything
    assert not any(b'"c2"' in data for data in everything)


def test_a_revoked_consent_leaves_the_manifests_of_earlier_nights_too(shop: Shop) -> None:
    grant(shop.services.ledger, "c2")
    office = shop.services.ledger, shop.services.storage, shop.services.signer
    shop.night(("c1", some(1)), ("c2", some(2)))
    shop.night(("c1", some(1, 3)), ("c2", some(2)))
    shop.night(("c1", some(1, 3)))
    consents.revoke(shop.services.ledger, "c2")
    assert catalogues.supersede(*office, "c2") == ("autumn",)
    assert shop.skus() == ["s1", "s3"]
    assert not any(b'"c2"' in shop.services.storage.get(key) for key in shop.services.storage.list("catalogues/"))
    assert len([key for key in shop.services.storage.list("catalogues/") if "/root-" in key]) == 1
    with pytest.raises(BadInput, match="has no manifest before"):
        catalogues.rollback(*office, "autumn")


def test_rollback_shows_what_was_shown_before_and_twice_undoes_it(shop: Shop) -> None:
    grant(shop.services.ledger, "c2")
    office = shop.services.ledger, shop.services.storage, shop.services.signer
    with pytest.raises(BadInput, match="has no manifest before"):
        catalogues.rollback(*office, "autumn")
    shop.night(("c1", some(1)), ("c2", some(2)))
    shop.night(("c1", some(3)))
    catalogues.rollback(*office, "autumn")
    assert shop.skus() == ["s1", "s2"]
    catalogues.rollback(*office, "autumn")
    assert shop.skus() == ["s3"]
    consents.revoke(shop.services.ledger, "c2")
    catalogues.rollback(*office, "autumn")
    assert shop.skus() == ["s1"]
    # the next night follows the lists again, though they are those of the last
    assert shop.night(("c1", some(3))).run.state == "published"
    assert shop.skus() == ["s3"]


def test_a_changed_pointer_or_manifest_is_noticed(shop: Shop) -> None:
    shop.night(("c1", some(1)))
    pointer, storage = shop.pointer(), shop.services.storage
    assert pointer is not None
    signed = storage.get(pointer.manifest.key)
    storage.put(pointer.manifest.key, signed.replace(b"autumn", b"winter") + b" ", if_absent=False)
    with pytest.raises(VerificationFailed, match="not the one that the pointer names"):
        shop.shown()
    storage.put(pointer.manifest.key, signed, if_absent=False)
    (shard,) = (key for key in storage.list("catalogues/") if key.endswith(".jsonl"))
    storage.put(shard, storage.get(shard).replace(b"s1", b"s2"), if_absent=False)
    with pytest.raises(VerificationFailed, match="not as it was signed"):
        shop.shown()
    storage.put(pointer_key("autumn"), b"{}", if_absent=False)
    with pytest.raises(VerificationFailed, match="pointer of catalogue autumn"):
        shop.pointer()


# ---- a night that is cut short


class Killed(BaseException):
    """The process ended here."""


class Mortal:
    """Counts every write to storage and every transaction, and dies at one of them: before it, or after."""

    def __init__(self, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.die_at = -1
        self.after = False
        put, transaction = services.storage.put, services.ledger.transaction

        def dying_put(key: str, data: bytes, *, if_absent: bool = True) -> bool:
            with self._step(f"put {key.split('/')[0]}"):
                return put(key, data, if_absent=if_absent)

        @contextmanager
        def dying_transaction() -> Iterator[Connection]:
            with self._step("transaction"), transaction() as connection:
                yield connection

        monkeypatch.setattr(services.storage, "put", dying_put)
        monkeypatch.setattr(services.ledger, "transaction", dying_transaction)

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        mine = len(self.steps)
        self.steps.append(what)
        if mine == self.die_at and not self.after:
            raise Killed
        yield
        if mine == self.die_at:
            raise Killed

    def live(self) -> None:
        """Die no more."""
        self.die_at = -1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_the_pointer_names_a_whole_manifest_and_the_same_command_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    shop.night(("c1", some(0, 1)))
    mortal = Mortal(shop.services, monkeypatch)
    shop.night(("c1", some(0, 1, 2)))
    steps = len(mortal.steps)
    moments = random.Random(20261127).sample(range(steps), 4)
    moments += [number for number, what in enumerate(mortal.steps) if what == "put catalogues"]
    for number, moment in enumerate(moments):
        lines = (*some(0, 1), item(f"s{100 + number}"))
        before = shop.skus()
        mortal.steps, mortal.die_at, mortal.after = [], moment, after
        died = False
        try:
            shop.night(("c1", lines))
        except Killed:
            died = True
        mortal.live()
        assert died
        assert shop.skus() in (before, [line.sku for line in lines])
        night = shop.night(("c1", lines))
        assert night.exit_code == 0
        assert shop.skus() == [line.sku for line in lines]
        assert catalogue_runs.find_open(shop.services.ledger, "autumn") is None
    jobs = [job for job in list_jobs(shop.services.ledger, 1000) if job.catalogue == "autumn"]
    assert len(jobs) == len(moments) + 2, "a job was made twice"
