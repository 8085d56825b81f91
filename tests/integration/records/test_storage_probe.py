"""What the probe finds out about a store at the start, and that it leaves nothing behind."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from face0_worker.contract.errors import StorageDown
from face0_worker.records.storage import open_storage
from face0_worker.records.storage_options import S3Options
from face0_worker.records.storage_probe import Capabilities, probe
from tests.object_proxy import Fault, proxied
from tests.object_servers import Become, Ceph, ObjectServer


@pytest.mark.parametrize("versioned", [False, True], ids=["plain", "versioned"])
def test_ministack_keeps_every_promise(ministack: ObjectServer, as_owner: Become, versioned: bool) -> None:
    found = probed(as_owner(ministack), versioned=versioned)
    assert found == Capabilities(conditional_writes=True, versioned=versioned)


def test_ceph_keeps_every_promise_over_http_and_https(ceph: Ceph, as_owner: Become) -> None:
    for server in (ceph.http, ceph.https):
        assert probed(as_owner(server)) == Capabilities(conditional_writes=True, versioned=False)


def test_what_the_probe_says_of_a_versioned_ceph_bucket_is_what_it_does(ceph: Ceph, as_owner: Become) -> None:
    # radosgw 16 ignores If-None-Match where a bucket keeps versions
    server = as_owner(ceph.http)
    bucket = server.bucket(versioned=True)
    storage = open_storage(f"s3://{bucket}", S3Options(endpoint=server.url))
    found = probe(storage, allow_weak=True)
    storage.put("a", b"first")
    assert found == Capabilities(conditional_writes=not storage.put("a", b"second"), versioned=True)
    if not found.conditional_writes:
        with pytest.raises(StorageDown, match="in a bucket that keeps old versions; use one that does not"):
            probe(storage)


def test_a_folder_keeps_every_promise(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    assert probe(storage) == Capabilities(conditional_writes=True, versioned=False)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_ignores_conditional_writes_is_refused_unless_that_is_allowed(
    ministack: ObjectServer, as_owner: Become
) -> None:
    bucket = as_owner(ministack).bucket()
    with proxied(ministack.url, Fault(times=-1, without="If-None-Match")) as proxy:
        storage = open_storage(f"s3://{bucket}", S3Options(endpoint=proxy.url))
        with pytest.raises(StorageDown, match=r"ignores If-None-Match.*--allow-weak-store"):
            probe(storage)
        found = probe(storage, allow_weak=True)
    assert found == Capabilities(conditional_writes=False, versioned=False)
    assert "weak" in str(found)
    assert ministack.client().list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_store_that_looks_first_and_writes_then_is_weak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(str(tmp_path))
    write, all_have_looked = storage.put, threading.Barrier(4, timeout=60)

    def put(key: str, data: bytes, *, if_absent: bool = True) -> bool:
        free = not if_absent or not storage.exists(key)
        if key.endswith("race"):
            all_have_looked.wait()
        return write(key, data, if_absent=False) if free else storage.get(key) == data

    monkeypatch.setattr(storage, "put", put)
    assert probe(storage, allow_weak=True) == Capabilities(conditional_writes=False, versioned=False)
    assert list(storage.list()) == []


@pytest.mark.parametrize("failing", range(1, 5), ids=["second write", "read", "overwrite", "list"])
def test_a_probe_that_fails_half_way_leaves_nothing(
    ministack: ObjectServer, as_owner: Become, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    bucket = as_owner(ministack).bucket(versioned=True)
    storage = open_storage(f"s3://{bucket}", S3Options(endpoint=ministack.url))
    calls = []

    def failing_once(use: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            calls.append(use)
            if len(calls) == failing + 1:
                raise StorageDown("the network is gone for a moment")
            return use(*given, **named)

        return call

    for name in ("put", "get", "list"):
        monkeypatch.setattr(storage, name, failing_once(getattr(storage, name)))
    with pytest.raises(StorageDown, match="gone for a moment"):
        probe(storage)
    left = ministack.client().list_object_versions(Bucket=bucket)
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")


def test_a_probe_costs_few_requests(ministack: ObjectServer, as_owner: Become) -> None:
    bucket = as_owner(ministack).bucket(versioned=True)
    with proxied(ministack.url) as proxy:
        probe(open_storage(f"s3://{bucket}", S3Options(endpoint=proxy.url)))
        assert len(proxy.methods) <= 30


def test_a_store_that_retains_what_it_should_erase_is_refused(ministack: ObjectServer, as_owner: Become) -> None:
    bucket = as_owner(ministack).bucket()
    with proxied(ministack.url, Fault("DELETE", times=-1, status=204)) as proxy:
        storage = open_storage(f"s3://{bucket}", S3Options(endpoint=proxy.url))
        with pytest.raises(StorageDown, match="look for a retention rule"):
            probe(storage)


def probed(server: ObjectServer, *, versioned: bool = False) -> Capabilities:
    """Probe a new bucket and check that nothing is left in it."""
    bucket = server.bucket(versioned=versioned)
    prefix = secrets.token_hex(4)
    found = probe(open_storage(f"s3://{bucket}/{prefix}", S3Options(endpoint=server.url, ca=server.ca)))
    left = server.client().list_object_versions(Bucket=bucket)
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")
    return found
