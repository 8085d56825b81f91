"""Exports to a real S3 server, read by a client that shares no code with ours: rclone, written in Go."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from face0_worker.contract.errors import BadInput, StorageDown
from face0_worker.contract.job import RenderItem
from face0_worker.derive import Deriver
from face0_worker.errands import Errand
from face0_worker.records import deliveries
from face0_worker.records.deliveries import Channel
from face0_worker.records.provenance import Signer
from face0_worker.records.storage_options import S3Options
from producer import cli
from producer.delivery.export import export
from producer.delivery.fetching import Exit, Request
from producer.delivery.places import Bucket, target_options
from producer.delivery.selection import of_job
from producer.services import Services, keys_folder
from tests import ledgers
from tests.integration.producer.plain_worker import MODEL, grant, render_everything
from tests.object_servers import ObjectServer, missing

pytestmark = pytest.mark.services

ITEMS = (
    RenderItem("A 1+2", "a red shirt", variant="beach & sun", seed=1),
    RenderItem("赤い/靴", "red shoes", variant="春", seed=2),
    RenderItem("plain", "a plain shirt", seed=3),
)
NAMES = ["A 1+2-beach & sun", "赤い_靴-春", "plain"]


@pytest.fixture
def rclone() -> str:
    """The path of rclone."""
    found = shutil.which("rclone")
    if found is None:
        missing("rclone not found: on Debian, `apt-get install rclone`", required=os.environ.get("CI") == "true")
    return found


@pytest.fixture(params=["ministack", "ceph"])
def server(request: pytest.FixtureRequest) -> ObjectServer:
    """A real S3 server that is not the installation's own storage."""
    found = request.getfixturevalue(request.param)
    server: ObjectServer = found if request.param == "ministack" else found.http
    return server


@pytest.fixture
def job_id(services: Services) -> str:
    grant(services.ledger)
    job_id = ledgers.submit(services.ledger, ITEMS, model=MODEL)
    render_everything(services)
    return job_id


@pytest.fixture
def own_key(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give this process the target's credentials, which are not those of AWS_*."""
    given = {
        "FACE0_EXPORT_ACCESS_KEY_ID": server.access_key,
        "FACE0_EXPORT_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "else",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


def reads(rclone: str, server: ObjectServer, folder: Path, *words: str) -> str:
    """Run rclone against the server, with `s3:` as its name and no config but this."""
    settings = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENDPOINT": server.url,
        "ACCESS_KEY_ID": server.access_key,
        "SECRET_ACCESS_KEY": server.secret_key,
    }
    environment = {f"RCLONE_CONFIG_S3_{name}": value for name, value in settings.items()}
    environment |= {"RCLONE_CONFIG": str(folder / "none.conf"), "PATH": os.environ["PATH"], "HOME": str(folder)}
    ran = subprocess.run([rclone, *words], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_rclone_reads_the_very_bytes_that_were_committed(
    services: Services,
    job_id: str,
    server: ObjectServer,
    own_key: dict[str, str],
    rclone: str,
    file_format: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FACE0_HOME", str(services.settings.home))
    monkeypatch.setenv("FACE0_LEDGER_URL", services.settings.ledger_url)
    bucket, out = server.bucket(), tmp_path / "read"
    words = ["results", "export", job_id, "--to", f"s3://{bucket}/shop/autumn", "--endpoint", server.url]
    worker = Deriver(services.ledger, services.storage, Signer.open(keys_folder(services.settings)))
    with Errand("derivations", worker.round, pause_s=0.05):
        assert cli.run([*words, "--format", file_format]) == 0
    assert f"3 of 3 pictures are in s3://{bucket}/shop/autumn/; 3 came now" in capsys.readouterr().out
    reads(rclone, server, tmp_path, "copy", f"s3:{bucket}/shop/autumn", str(out))
    assert {path.name for path in out.iterdir()} == {
        "index.json",
        *(f"{name}.{ending}" for name in NAMES for ending in (file_format, "json")),
    }
    index = json.loads((out / "index.json").read_text())
    assert [entry["file"] for entry in index["pictures"]] == [f"{name}.{file_format}" for name in NAMES]
    for entry in index["pictures"]:
        data = (out / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        about = head(server, bucket, f"shop/autumn/{entry['file']}")
        assert about["Metadata"]["sha256"] == entry["sha256"]
        assert (about["ContentType"], about["CacheControl"]) == (f"image/{file_format}", "public, max-age=3600")
    render_everything(services)
    assert cli.run(["verify", str(out)]) == 0
    places = {one.destination for one in deliveries.takedown(services.ledger, "c1")}
    assert places == {f"s3://{bucket}/shop/autumn/"}


def head(server: ObjectServer, bucket: str, key: str) -> Any:
    return server.client().head_object(Bucket=bucket, Key=key)


def test_an_export_goes_on_where_it_stopped_and_mends_what_is_wrong(
    services: Services, job_id: str, server: ObjectServer, own_key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, client = server.bucket(), server.client()
    place = Bucket.open(f"s3://{bucket}", target_options(S3Options(), own_key, endpoint=server.url))
    request = Request(of_job(services, job_id), Exit("export", Channel.EXPORT, place.where))
    assert [copy.size is not None for copy in export(services, request, place).copies] == [True] * 3
    client.put_object(Bucket=bucket, Key=f"{NAMES[0]}.png", Body=b"somebody else's")
    client.delete_object(Bucket=bucket, Key=f"{NAMES[2]}.png")
    before = {entry["Key"]: entry["LastModified"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert [copy.size is not None for copy in export(services, request, place).copies] == [True, False, True]
    after = {entry["Key"]: entry["LastModified"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]}
    untouched = {"index.json", f"{NAMES[1]}.png", *(f"{name}.json" for name in NAMES)}
    assert {key: after[key] for key in untouched} == {key: before[key] for key in untouched}


@pytest.mark.parametrize("server", ["ceph"], indirect=True)
def test_what_is_wrong_with_the_target_is_said_of_the_target(
    services: Services, job_id: str, server: ObjectServer, own_key: dict[str, str]
) -> None:
    def sends(url: str, endpoint: str = server.url, **keys: str) -> None:
        options = target_options(S3Options(), own_key | keys, endpoint=endpoint)
        place = Bucket.open(url, options)
        export(services, Request(of_job(services, job_id), Exit("export", Channel.EXPORT, place.where)), place)

    bucket = server.bucket()
    with pytest.raises(StorageDown, match=r"export to s3://face0-no-such/: .* create the bucket or correct --to"):
        sends("s3://face0-no-such")
    with pytest.raises(StorageDown, match=r": .* refused .* correct FACE0_EXPORT_SECRET_ACCESS_KEY"):
        sends(f"s3://{bucket}", FACE0_EXPORT_SECRET_ACCESS_KEY="wrong")
    with pytest.raises(StorageDown, match=r"export to .* at http://127\.0\.0\.1:1"):
        sends(f"s3://{bucket}", "http://127.0.0.1:1")


def test_the_targets_credentials_come_from_a_profile_or_variables_and_never_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "credentials"
    files.write_text("[shop]\naws_access_key_id = OF-THE-SHOP\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(files))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OUR-OWN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    own = S3Options(endpoint="http://own:1", region="r")
    key = {"FACE0_EXPORT_ACCESS_KEY_ID": "OF-THE-EXPORT", "FACE0_EXPORT_SECRET_ACCESS_KEY": "secret"}

    def who(environment: dict[str, str], **given: str) -> tuple[str, str]:
        client = Bucket.open("s3://bucket", target_options(own, environment, **given))._client
        return client._request_signer._credentials.access_key, client.meta.endpoint_url

    assert who({}) == ("OUR-OWN", "http://own:1")
    assert who({}, profile="shop", endpoint="http://shop:2") == ("OF-THE-SHOP", "http://shop:2")
    assert who(key) == ("OF-THE-EXPORT", "http://own:1")
    assert "amazonaws.com" in who({}, profile="shop")[1]
    assert "secret" not in repr(target_options(own, key))
    with pytest.raises(BadInput, match="belong together"):
        target_options(own, {"FACE0_EXPORT_ACCESS_KEY_ID": "half"})
    with pytest.raises(BadInput, match="leave one out"):
        target_options(own, key, profile="shop")
    with pytest.raises(BadInput, match="the profile none is in none of your AWS files"):
        who({}, profile="none")
