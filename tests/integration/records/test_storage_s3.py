"""What every storage promises, shown on the local folder and on S3 (a real server process where one is installed)."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from face0_worker.contract.errors import StorageDown
from face0_worker.records.storage import Storage, StorageMissing, open_storage, probe


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a ministack of this module's own. Without the command: skip, or fail where CI requires it."""
    command = os.environ.get("FACE0_TEST_S3_COMMAND") or shutil.which("ministack")
    if command is None:
        sentence = "no S3 server: put `ministack` on the PATH or its path into FACE0_TEST_S3_COMMAND"
        if os.environ.get("CI") == "true" and os.environ.get("FACE0_TEST_S3") == "required":
            pytest.fail(sentence)
        pytest.skip(sentence)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "IOT_MTLS_ENABLED": "0"}
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [command], env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent, start_new_session=True
        )
    try:
        _wait_until_it_listens(server, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def _wait_until_it_listens(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    pause = threading.Event()
    for _ in range(300):
        with socket.socket() as probe_socket:
            if probe_socket.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        pause.wait(0.1)
    pytest.fail(f"the S3 server did not start: {log.read_text()[-500:]}")


@pytest.fixture
def client(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return boto3.client("s3", endpoint_url=s3_server)


@pytest.fixture
def bucket(client: Any) -> str:
    """A bucket that keeps versions, as a careful shop's does."""
    name = f"face0-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(str(tmp_path / "storage"))
    bucket = request.getfixturevalue("bucket")
    return open_storage(f"s3://{bucket}/some/prefix", request.getfixturevalue("s3_server"))


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


def test_the_probe_finds_a_good_store_good_and_leaves_nothing(storage: Storage) -> None:
    probe(storage)
    assert list(storage.list()) == []


def test_the_probe_refuses_a_store_that_overwrites(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    careless = storage.put

    def put(key: str, data: bytes, *, if_absent: bool = True) -> bool:
        return careless(key, data, if_absent=False)

    storage.put = put  # type: ignore[method-assign]
    with pytest.raises(StorageDown, match="overwrites objects"):
        probe(storage)


def test_a_local_erasure_leaves_no_empty_folder(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.put("pictures/c1/i/a", b"1")
    storage.put("receipts/c1/b", b"1")
    storage.delete_prefix("pictures/c1/")
    storage.delete("receipts/c1/b")
    assert list(tmp_path.iterdir()) == []


def test_an_s3_erasure_leaves_no_version_and_no_marker(client: Any, bucket: str, s3_server: str) -> None:
    storage = open_storage(f"s3://{bucket}/x", s3_server)
    for number in range(3):
        storage.put("p/c1/a", bytes([number]), if_absent=False)
        storage.put("p/c1/b", bytes([number]), if_absent=False)
    client.delete_object(Bucket=bucket, Key="x/p/c1/a")  # hides the object behind a marker
    assert not storage.exists("p/c1/a")
    assert storage.delete_prefix("p/c1/") == 2
    left = client.list_object_versions(Bucket=bucket)
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")


def test_more_objects_than_one_page_are_listed_and_erased(client: Any, bucket: str, s3_server: str) -> None:
    storage = open_storage(f"s3://{bucket}", s3_server)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: client.put_object(Bucket=bucket, Key=f"p/{number}", Body=b""), range(1005)))
    assert len(list(storage.list("p/"))) == 1005
    assert storage.delete_prefix("p/") == 1005


def test_a_missing_bucket_and_a_silent_server_are_storage_down_and_not_a_missing_object(
    client: Any, s3_server: str
) -> None:
    for storage in (open_storage("s3://no-such-bucket", s3_server), open_storage("s3://bucket", "http://127.0.0.1:9")):
        uses: list[tuple[str, tuple[object, ...]]]
        uses = [("get", ("a",)), ("exists", ("a",)), ("put", ("a", b"")), ("delete_prefix", ("a/",))]
        for name, given in uses:
            with pytest.raises(StorageDown):
                getattr(storage, name)(*given)
