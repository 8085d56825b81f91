"""What every storage promises, shown on the local folder, on ministack and on a real Ceph over http and https."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from face0_worker.contract.errors import StorageDown
from face0_worker.records.storage import Storage, StorageMissing, open_storage
from face0_worker.records.storage_options import S3Options
from tests.daemons import free_port
from tests.object_servers import Become, Ceph, ObjectServer

SERVERS = ["ministack", "ceph", "ceph-https"]


def named(request: pytest.FixtureRequest, name: str) -> ObjectServer:
    """Start the server of this name if it does not run, and become its owner."""
    become: Become = request.getfixturevalue("as_owner")
    if name == "ministack":
        return become(request.getfixturevalue("ministack"))
    ceph: Ceph = request.getfixturevalue("ceph")
    return become(ceph.https if name == "ceph-https" else ceph.http)


def at(server: ObjectServer, bucket: str, prefix: str = "") -> Storage:
    return open_storage(f"s3://{bucket}/{prefix}", S3Options(endpoint=server.url, ca=server.ca))


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> ObjectServer:
    return named(request, request.param)


@pytest.fixture(params=["folder", *SERVERS])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty store that keeps every promise."""
    if request.param == "folder":
        return open_storage(str(tmp_path / "storage"))
    server = named(request, request.param)
    # ministack's bucket keeps versions, as a careful shop's does; where one does, Ceph ignores If-None-Match
    return at(server, server.bucket(versioned=request.param == "ministack"), "some/prefix")


def test_what_was_put_is_what_one_gets(storage: Storage) -> None:
    data = secrets.token_bytes(300_000)
    assert storage.put("pictures/c1/a.png", data) is True
    assert storage.get("pictures/c1/a.png") == data
    assert storage.exists("pictures/c1/a.png")
    assert storage.put("empty", b"") is True
    assert storage.get("empty") == b""


def test_an_object_that_stands_is_never_touched(storage: Storage) -> None:
    storage.put("a/b", b"first")
    assert storage.put("a/b", b"other") is False
    assert storage.get("a/b") == b"first"


def test_repeating_a_put_whose_answer_was_lost_is_a_success(storage: Storage) -> None:
    storage.put("a/b", b"first")
    assert storage.put("a/b", b"first") is True


def test_an_object_is_replaced_only_when_that_is_asked_for(storage: Storage) -> None:
    storage.put("catalogues/c/latest.json", b"1")
    assert storage.put("catalogues/c/latest.json", b"2", if_absent=False) is True
    assert storage.get("catalogues/c/latest.json") == b"2"


def test_of_many_writers_at_once_exactly_one_wins_and_readers_see_it_whole(storage: Storage) -> None:
    datas = [bytes([number]) * 20_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda data: storage.put("a/b", data), datas))
    assert won.count(True) == 1
    assert storage.get("a/b") == datas[won.index(True)]
    assert list(storage.list()) == ["a/b"]


def test_a_missing_object_is_said_to_be_missing(storage: Storage) -> None:
    storage.put("a/bb", b"1")
    with pytest.raises(StorageMissing):
        storage.get("a/b")
    assert not storage.exists("a/b")
    assert not storage.exists("a")
    storage.delete("a/b")
    assert storage.delete_prefix("nothing/here/") == 0


def test_a_listing_has_the_keys_under_its_prefix_and_no_others(storage: Storage) -> None:
    for key in ("p/c1/a", "p/c1/d/b", "p/c10/a", "r/c1/a"):
        storage.put(key, b"1")
    assert sorted(storage.list("p/c1/")) == ["p/c1/a", "p/c1/d/b"]
    assert len(list(storage.list())) == 4
    assert list(storage.list("q/")) == []


def test_a_deleted_object_is_gone_and_its_neighbours_stay(storage: Storage) -> None:
    storage.put("a/b", b"1")
    storage.put("a/bb", b"2")
    storage.delete("a/b")
    assert list(storage.list()) == ["a/bb"]


def test_erasing_a_prefix_takes_all_of_it_and_nothing_else(storage: Storage) -> None:
    for key in ("p/c1/a", "p/c1/d/b", "p/c10/a"):
        storage.put(key, b"1")
    storage.put("p/c1/a", b"2", if_absent=False)
    assert storage.delete_prefix("p/c1/") == 2
    assert list(storage.list()) == ["p/c10/a"]
    assert storage.delete_prefix("p/c1/") == 0


def test_a_local_erasure_leaves_no_empty_folder(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.put("pictures/c1/i/a", b"1")
    storage.put("receipts/c1/b", b"1")
    storage.delete_prefix("pictures/c1/")
    storage.delete("receipts/c1/b")
    assert list(tmp_path.iterdir()) == []


def test_every_version_under_a_prefix_is_counted_and_none_of_its_neighbours(storage: Storage) -> None:
    storage.put("p/c10/a", b"1")
    assert storage.versions("p/c1/") == 0
    storage.put("p/c1/a", b"1")
    storage.put("p/c1/a", b"2", if_absent=False)
    storage.put("p/c1/b", b"2")
    assert storage.versions("p/c1/") >= 2
    storage.delete_prefix("p/c1/")
    assert storage.versions("p/c1/") == 0


def test_every_version_is_read_whether_it_was_replaced_or_deleted(storage: Storage) -> None:
    storage.put("p/c1/a", b"old")
    storage.put("p/c1/a", b"new", if_absent=False)
    storage.put("q/b", b"other")
    found = set(storage.every_version())
    # what keeps no versions has the newest only
    assert found - {("p/c1/a", b"old")} == {("p/c1/a", b"new"), ("q/b", b"other")}
    if storage.versions("p/c1/") == 2:
        assert ("p/c1/a", b"old") in found


def test_an_s3_erasure_leaves_no_version_and_no_marker(server: ObjectServer) -> None:
    client, bucket = server.client(), server.bucket(versioned=True)
    storage = at(server, bucket, "x")
    for number in range(3):
        storage.put("p/c1/a", bytes([number]), if_absent=False)
        storage.put("p/c1/b", bytes([number]), if_absent=False)
    client.delete_object(Bucket=bucket, Key="x/p/c1/a")  # hides the object behind a marker
    assert not storage.exists("p/c1/a")
    assert storage.delete_prefix("p/c1/") == 2
    left = client.list_object_versions(Bucket=bucket)
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")


def test_two_who_erase_the_same_at_once_both_succeed(server: ObjectServer) -> None:
    storage = at(server, server.bucket(versioned=True))
    for number in range(20):
        storage.put(f"p/{number}", b"1")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(storage.delete_prefix, ["p/", "p/"]))
    assert storage.versions("p/") == 0


def test_more_objects_than_one_page_are_listed_and_erased(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = at(server, server.bucket(versioned=True))
    answers = []

    def in_small_pages(operation: str, **given: object) -> object:
        more = {"MaxKeys": 3} if operation.startswith("list_object") else {}
        answers.append(ask(operation, **given, **more))
        return answers[-1]

    ask = storage._call  # type: ignore[attr-defined]
    monkeypatch.setattr(storage, "_call", in_small_pages)
    keys = [f"p/{number}" for number in range(10)]
    for key in keys:
        storage.put(key, b"1", if_absent=False)
        storage.put(key, b"2", if_absent=False)
    answers.clear()
    assert sorted(storage.list("p/")) == sorted(keys)
    assert len(answers) == 4
    assert storage.versions("p/") == 20
    assert storage.delete_prefix("p/") == 10
    assert storage.versions("p/") == 0


def test_a_missing_bucket_is_said_to_be_missing_and_not_the_object(server: ObjectServer) -> None:
    for use in every_use(at(server, "no-such-bucket")):
        with pytest.raises(StorageDown, match="does not exist; create the bucket or correct FACE0_STORAGE"):
            use()


def test_a_server_that_is_not_there_is_said_to_be_away(ministack: ObjectServer, as_owner: Become) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    as_owner(ministack)
    with pytest.raises(StorageDown, match="nothing listens there; start it or correct FACE0_S3_ENDPOINT"):
        open_storage("s3://bucket", S3Options(endpoint=nowhere)).get("a")


def every_use(storage: Storage) -> list[Callable[[], object]]:
    return [
        lambda: storage.get("a"),
        lambda: storage.exists("a"),
        lambda: storage.put("a", b""),
        lambda: list(storage.list()),
        lambda: storage.delete_prefix("a/"),
    ]
