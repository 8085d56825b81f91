"""A real radosgw, which checks what ministack does not: secrets, clocks, policies, certificates and host names."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest

from face0_worker.contract.errors import StorageDown
from face0_worker.records.storage import Storage, StorageMissing, open_storage
from face0_worker.records.storage_options import S3Options
from face0_worker.records.storage_probe import probe
from tests.object_servers import Become, Ceph, ObjectServer

DOCS = Path(__file__).parents[3] / "docs" / "storage.md"
CURL = shutil.which("curl")


@pytest.fixture
def server(ceph: Ceph, as_owner: Become) -> ObjectServer:
    return as_owner(ceph.http)


@pytest.fixture
def bucket(server: ObjectServer) -> str:
    return server.bucket()


def curl(url: str, *more: str) -> tuple[int, bytes]:
    """Fetch a link as somebody without any credentials; return status and body."""
    if CURL is None:
        pytest.skip("curl is not installed")
    ran = subprocess.run(
        [CURL, "-sS", "--max-time", "30", "-w", "%{stderr}%{http_code}", *more, url], capture_output=True, check=True
    )
    return int(ran.stderr), ran.stdout


def test_a_wrong_secret_is_said_to_be_wrong(server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StorageDown, match="correct AWS_SECRET_ACCESS_KEY") as down:
        opened(server, bucket).exists("a")
    assert "not-the-secret" not in str(down.value)


def test_an_unknown_access_key_is_said_to_be_unknown(
    server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    with pytest.raises(StorageDown, match="correct AWS_ACCESS_KEY_ID or AWS_PROFILE"):
        opened(server, bucket).exists("a")


def test_credentials_that_are_put_right_in_their_file_work_without_a_restart(
    server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"

    def write(secret: str) -> None:
        file.write_text(f"[default]\naws_access_key_id={server.access_key}\naws_secret_access_key={secret}\n")

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    write("of-last-month")
    storage = opened(server, bucket)
    for _ in range(2):
        with pytest.raises(StorageDown, match="AWS_SECRET_ACCESS_KEY"):
            storage.put("a", b"1")
    write(server.secret_key)
    with pytest.raises(StorageDown):
        storage.put("a", b"1")  # the refused ones are used once more, and read anew after that
    assert storage.put("a", b"1") is True


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wrong_clock_is_said_to_be_wrong_and_by_how_much(
    server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    now: Callable[..., Any] = vars(botocore.auth)["get_current_datetime"]
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *a, **k: now(*a, **k) + timedelta(hours=hours))
    with pytest.raises(StorageDown, match=r"this machine's clock is .* the server's; set it, best by NTP"):
        opened(server, bucket).exists("a")


def test_the_policy_in_the_guide_is_enough_and_nothing_in_it_is_too_much(
    ceph: Ceph, server: ObjectServer, bucket: str, as_owner: Become
) -> None:
    found = re.search(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    policy = json.loads(found[1].replace("pictures", bucket))
    for statement in policy["Statement"]:
        statement["Principal"] = {"AWS": ["arn:aws:iam:::user/nobody"]}
    server.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    as_owner(ceph.nobody)
    storage = opened(ceph.nobody, bucket, "shop-a")
    with pytest.raises(StorageDown, match=r"AccessDenied.*let a policy allow s3:PutObject"):
        probe(storage, allow_weak=True)
    server.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    probe(storage, allow_weak=True)
    for statement in policy["Statement"]:
        for action in list(statement["Action"]):
            statement["Action"].remove(action)
            server.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
            if action != "s3:GetObject":  # Ceph lets everybody read what they wrote themselves
                with pytest.raises(StorageDown, match=f"let a policy allow .*{action}"):
                    probe(storage, allow_weak=True)
            statement["Action"].append(action)


def test_https_needs_the_servers_own_ca(ceph: Ceph, as_owner: Become, monkeypatch: pytest.MonkeyPatch) -> None:
    server = as_owner(ceph.https)
    bucket = server.bucket()
    with pytest.raises(StorageDown, match="put the PEM file of its CA into FACE0_S3_CA"):
        open_storage(f"s3://{bucket}", S3Options(endpoint=server.url)).exists("a")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca))
    assert open_storage(f"s3://{bucket}", S3Options(endpoint=server.url)).exists("a") is False


def test_plain_http_to_its_https_port_says_https(ceph: Ceph, as_owner: Become) -> None:
    url = as_owner(ceph.https).url.replace("https://", "http://")
    with pytest.raises(StorageDown, match="write https:// in FACE0_S3_ENDPOINT"):
        open_storage("s3://bucket", S3Options(endpoint=url)).exists("a")


def test_uploads_pass_without_trailing_checksums_and_fail_with_a_sentence_where_they_do_not(
    ceph: Ceph, as_owner: Become
) -> None:
    server = as_owner(ceph.https)
    bucket, data = server.bucket(), secrets.token_bytes(100_000)
    assert opened(server, bucket).put("a", data) is True
    modern = S3Options(endpoint=server.url, ca=server.ca, checksums="when_supported")
    with suppress(StorageDown):
        assert open_storage(f"s3://{bucket}", modern).put("b", data) is True  # a newer Ceph than 16
        return
    with pytest.raises(StorageDown, match="set FACE0_S3_CHECKSUMS=when_required"):
        open_storage(f"s3://{bucket}", modern).put("b", data)


def test_the_bucket_may_stand_in_the_host_name(
    ceph: Ceph, server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(server.url.rpartition(":")[2])
    options = S3Options(endpoint=f"http://{ceph.domain}:{port}", path_style="virtual")
    asked, look_up = [], socket.getaddrinfo

    def here(host: str, *more: Any, **named: Any) -> Any:
        asked.append(host)
        return look_up("127.0.0.1", *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    storage = open_storage(f"s3://{bucket}", options)
    assert storage.put("a/b", b"1") is True
    assert storage.get("a/b") == b"1"
    assert set(asked) == {f"{bucket}.{ceph.domain}"}


class TestLinks:
    DATA = secrets.token_bytes(200_000)

    def test_a_link_gives_the_picture_to_anybody(self, server: ObjectServer, bucket: str) -> None:
        url = self._stored(server, bucket).link("p/a.png", 60)
        status, body = curl(url)
        assert status == 200
        assert hashlib.sha256(body).digest() == hashlib.sha256(self.DATA).digest()

    def test_a_link_over_https_is_good_where_the_ca_is_trusted(self, ceph: Ceph, as_owner: Become) -> None:
        server = as_owner(ceph.https)
        url = self._stored(server, server.bucket()).link("p/a.png", 60)
        assert curl(url, "--cacert", str(server.ca)) == (200, self.DATA)

    def test_a_link_is_signed_for_the_public_host_and_good_only_there(
        self, ceph: Ceph, server: ObjectServer, bucket: str
    ) -> None:
        self._stored(server, bucket)
        port = server.url.rpartition(":")[2]
        public = f"http://{ceph.domain}:{port}"
        url = open_storage(f"s3://{bucket}", S3Options(endpoint=server.url, public_endpoint=public)).link("p/a.png", 60)
        assert url.startswith(public)
        assert curl(url, "--resolve", f"{ceph.domain}:{port}:127.0.0.1") == (200, self.DATA)
        assert curl(url.replace(public, server.url))[0] == 403

    def test_a_link_to_another_object_or_with_another_end_is_refused(self, server: ObjectServer, bucket: str) -> None:
        storage = self._stored(server, bucket)
        storage.put("p/b.png", b"somebody else's")
        url = storage.link("p/a.png", 60)
        for other in (url.replace("p/a.png", "p/b.png"), url.replace("Expires=60", "Expires=600"), url[:-4] + "0000"):
            assert curl(other)[0] == 403

    def test_a_link_ends(self, server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = self._stored(server, bucket)
        now: Callable[..., Any] = vars(botocore.auth)["get_current_datetime"]
        hour = timedelta(hours=1)
        with monkeypatch.context() as earlier:
            earlier.setattr(botocore.auth, "get_current_datetime", lambda *a, **k: now(*a, **k) - hour)
            over, going = storage.link("p/a.png", 3500), storage.link("p/a.png", 3700)
        assert curl(over)[0] == 403
        assert curl(going) == (200, self.DATA)

    def test_erasing_the_picture_ends_its_link(self, server: ObjectServer, bucket: str) -> None:
        storage = self._stored(server, bucket)
        url = storage.link("p/a.png", 60)
        storage.delete_prefix("p/")
        assert curl(url)[0] == 404
        with pytest.raises(StorageMissing):
            storage.get("p/a.png")

    def _stored(self, server: ObjectServer, bucket: str) -> Storage:
        storage = opened(server, bucket)
        storage.put("p/a.png", self.DATA)
        return storage


def opened(server: ObjectServer, bucket: str, prefix: str = "") -> Storage:
    return open_storage(f"s3://{bucket}/{prefix}", S3Options(endpoint=server.url, ca=server.ca))
