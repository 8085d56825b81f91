"""What networks, overloaded servers and refused requests do to an upload, and what is said about it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from face0_worker.contract.errors import Face0Error, StorageDown
from face0_worker.records.storage import Storage, open_storage
from face0_worker.records.storage_options import S3Options
from tests.authority import make_authority
from tests.object_proxy import Fault, Proxy, proxied
from tests.object_servers import Become, ObjectServer
from tests.tls import closes_at_once, speaks_tls

DATA = secrets.token_bytes(400_000)


@pytest.fixture
def proxy(ministack: ObjectServer, as_owner: Become) -> Iterator[Proxy]:
    with proxied(as_owner(ministack).url) as running:
        yield running


@pytest.fixture
def behind(proxy: Proxy, ministack: ObjectServer) -> Storage:
    """A store behind the proxy."""
    return open_storage(f"s3://{ministack.bucket()}", S3Options(endpoint=proxy.url))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, code="SlowDown"),
        Fault(status=500, code="InternalError"),
        Fault(lose="request"),
        Fault(lose="answer"),
    ],
    ids=["slow down", "internal error", "reset", "lost answer"],
)
def test_an_upload_that_failed_on_the_way_is_repeated_and_whole(proxy: Proxy, behind: Storage, fault: Fault) -> None:
    proxy.faults.append(fault)
    assert behind.put("a/b", DATA) is True
    assert (fault.seen, proxy.methods.count("PUT")) == (1, 2)
    assert behind.get("a/b") == DATA


def test_a_lost_answer_about_an_object_of_somebody_else_is_not_taken_for_ours(proxy: Proxy, behind: Storage) -> None:
    behind.put("a/b", b"somebody else's")
    proxy.faults.append(Fault(lose="answer"))
    assert behind.put("a/b", DATA) is False
    assert behind.get("a/b") == b"somebody else's"


def test_a_write_that_met_another_undecided_one_is_repeated(proxy: Proxy, behind: Storage) -> None:
    proxy.faults.append(Fault(status=409, code="ConditionalRequestConflict"))
    assert behind.put("a/b", DATA) is True
    proxy.faults[0] = Fault(times=-1, status=409, code="ConditionalRequestConflict")
    with pytest.raises(StorageDown, match="was busy with the same object"):
        behind.put("a/c", DATA)


def test_a_version_that_somebody_else_has_just_erased_is_erased(proxy: Proxy, behind: Storage) -> None:
    behind.put("p/a", b"1")
    proxy.faults.append(Fault("DELETE", status=404, code="NoSuchVersion"))
    assert behind.delete_prefix("p/") == 1
    assert proxy.faults[0].seen == 1


def test_a_store_that_stays_overloaded_is_storage_down_after_a_few_tries(proxy: Proxy, behind: Storage) -> None:
    proxy.faults.append(Fault(times=-1, status=503, code="SlowDown"))
    with pytest.raises(StorageDown, match=r"answered SlowDown \(status 503\); try again later") as down:
        behind.put("a/b", DATA)
    assert down.value.retryable
    assert proxy.methods.count("PUT") == 4


def test_a_download_that_breaks_off_is_repeated(proxy: Proxy, behind: Storage) -> None:
    behind.put("a/b", DATA)
    proxy.faults.append(Fault("GET", times=2, lose="half"))
    assert behind.get("a/b") == DATA
    proxy.faults[0] = Fault("GET", times=-1, lose="half")
    with pytest.raises(StorageDown):
        behind.get("a/b")


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (400, "ExpiredToken", "run out .* AWS_SESSION_TOKEN"),
        (403, "SignatureDoesNotMatch", "correct AWS_SECRET_ACCESS_KEY"),
        (403, "InvalidAccessKeyId", "correct AWS_ACCESS_KEY_ID or AWS_PROFILE"),
        (403, "AccessDenied", "let a policy allow s3:PutObject"),
        (403, "RequestTimeTooSkewed", "this machine's clock is .* the server's; set it"),
        (400, "AuthorizationHeaderMalformed", "another region; correct FACE0_S3_REGION"),
        (403, "QuotaExceeded", "is full .* make room or raise the quota"),
        (400, "XAmzContentSHA256Mismatch", "FACE0_S3_CHECKSUMS=when_required"),
        (404, "NoSuchBucket", "create the bucket or correct FACE0_STORAGE"),
        (501, "NotImplemented", "use another server"),
    ],
)
def test_a_refusal_says_which_variable_to_correct(
    proxy: Proxy, behind: Storage, status: int, code: str, sentence: str
) -> None:
    proxy.faults.append(Fault(times=-1, status=status, code=code))
    with pytest.raises(StorageDown, match=sentence) as down:
        behind.put("a/b", DATA)
    assert down.value.exit_code == 4
    assert proxy.methods == ["PUT"]  # repeating what was refused helps nobody


def said_at(endpoint: str, ca: Path | None = None) -> str:
    """Return what is said about a server that gives no S3 answer."""
    with pytest.raises(StorageDown) as down:
        open_storage("s3://bucket", S3Options(endpoint=endpoint, ca=ca)).exists("a")
    return str(down.value)


@pytest.mark.usefixtures("owner")
class TestTheWayToTheServer:
    @pytest.fixture
    def owner(self, ministack: ObjectServer, as_owner: Become) -> None:
        as_owner(ministack)

    def test_a_host_that_does_not_exist_is_said_to_be_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)  # a machine without a name service may wait for it
        assert "there is no host of this name; correct FACE0_S3_ENDPOINT" in said_at("http://no-such-host.invalid")

    def test_the_variable_that_named_the_endpoint_is_the_one_to_correct(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with closes_at_once() as port:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
            assert "write https:// in AWS_ENDPOINT_URL_S3" in said_at("")

    def test_https_at_a_server_without_tls_says_http(self, ministack: ObjectServer) -> None:
        said = said_at(ministack.url.replace("http://", "https://"))
        assert "for none write http:// in FACE0_S3_ENDPOINT" in said

    def test_a_certificate_of_an_unknown_authority_asks_for_its_ca(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours, other = make_authority(tmp_path / "ours"), make_authority(tmp_path / "other")
        with speaks_tls(*ours.sign(tmp_path / "server", ["127.0.0.1"])) as port:
            url = f"https://127.0.0.1:{port}"
            assert "put the PEM file of its CA into FACE0_S3_CA" in said_at(url)
            assert "put the PEM file of its CA into FACE0_S3_CA" in said_at(url, other.file)
            assert "trusted" not in said_at(url, ours.file)
            monkeypatch.setenv("AWS_CA_BUNDLE", str(other.file))
            assert "put the PEM file of its CA into AWS_CA_BUNDLE" in said_at(url)

    def test_a_certificate_for_another_host_or_from_another_time_is_said_so(self, tmp_path: Path) -> None:
        ours = make_authority(tmp_path)
        with speaks_tls(*ours.sign(tmp_path / "other", ["other.example"])) as port:
            assert "is for another host; correct FACE0_S3_ENDPOINT" in said_at(f"https://127.0.0.1:{port}", ours.file)
        with speaks_tls(*ours.sign(tmp_path / "old", ["127.0.0.1"], days=-1)) as port:
            assert "has run out or is not valid yet" in said_at(f"https://127.0.0.1:{port}", ours.file)


def test_missing_credentials_are_said_to_be_missing(
    ministack: ObjectServer, as_owner: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_owner(ministack)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Face0Error, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"):
        open_storage("s3://bucket", S3Options(endpoint=ministack.url)).exists("a")
