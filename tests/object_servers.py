"""Real S3 servers, each once per session: ministack, and a one-node Ceph with radosgw over http and https.

Loaded as a pytest plugin by tests/conftest.py. Every daemon listens on loopback only and dies with the test process,
also when that is killed.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import boto3
import pytest
from botocore.config import Config

from tests.authority import make_authority
from tests.ceph import CEPH, start_ceph
from tests.daemons import Daemons, free_port, listens


@dataclass(frozen=True)
class ObjectServer:
    """A running S3 server: where it is, and the credentials of somebody who may do everything."""

    url: str
    access_key: str
    secret_key: str = field(repr=False)
    ca: Path | None = None

    @property
    def credentials(self) -> dict[str, str]:
        """The credentials as AWS_* variables."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def client(self) -> Any:
        """Return a plain boto3 client, to see with other eyes what the product did."""
        return _client(self)

    def bucket(self, *, versioned: bool = False) -> str:
        """Make a bucket of a new name."""
        name, client = f"face0-{secrets.token_hex(4)}", self.client()
        client.create_bucket(Bucket=name)
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name


@cache
def _client(server: ObjectServer) -> Any:
    return boto3.Session().client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        verify=str(server.ca) if server.ca else None,
        config=Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
    )


@dataclass(frozen=True)
class Ceph:
    """One radosgw: the same buckets over http and over https, and somebody who may do nothing yet."""

    http: ObjectServer
    https: ObjectServer
    nobody: ObjectServer
    domain: str  # buckets also answer as host names below it


Become = Callable[[ObjectServer], ObjectServer]


def missing(sentence: str, *, required: bool) -> NoReturn:
    """Skip a test whose server this machine lacks; in CI that is a failure."""
    if required:
        pytest.fail(f"{sentence}; in CI it must be there")
    pytest.skip(sentence)


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A running ministack: quick, and it checks neither secrets nor clocks."""
    in_ci = os.environ.get("CI") == "true"
    command = os.environ.get("FACE0_TEST_S3_COMMAND") or shutil.which("ministack")
    if command is None:
        missing(
            "no S3 server: put `ministack` on the PATH or its path into FACE0_TEST_S3_COMMAND",
            required=in_ci and os.environ.get("FACE0_TEST_S3") == "required",
        )
    port, daemons = free_port(), Daemons(tmp_path_factory.mktemp("ministack"))
    environment = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "IOT_MTLS_ENABLED": "0"}
    try:
        daemons.start("ministack", [command], environment)
        daemons.wait_until(lambda: listens(port))
        yield ObjectServer(f"http://127.0.0.1:{port}", "test", "test")
    finally:
        daemons.stop()


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A real Ceph with its objects in memory; its https has a CA of its own."""
    absent = [program for program in CEPH if shutil.which(program) is None]
    if absent:
        missing(
            f"{', '.join(absent)} not found: on Debian, `apt-get install radosgw ceph-mon ceph-osd`",
            required=os.environ.get("CI") == "true",
        )
    folder = tmp_path_factory.mktemp("ceph")
    authority, daemons = make_authority(folder / "ca"), Daemons(folder)
    try:
        found = start_ceph(folder, daemons, authority, (free_port(), free_port(), free_port()))
        yield Ceph(
            http=ObjectServer(f"http://127.0.0.1:{found.http}", *found.owner),
            https=ObjectServer(f"https://127.0.0.1:{found.https}", *found.owner, ca=authority.file),
            nobody=ObjectServer(f"http://127.0.0.1:{found.http}", *found.nobody),
            domain=found.domain,
        )
    finally:
        daemons.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def as_owner(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Give this process a server's credentials, and nothing else of AWS."""

    def become(server: ObjectServer) -> ObjectServer:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name, value in server.credentials.items():
            monkeypatch.setenv(name, value)
        return server

    return become
