"""Where copies of pictures go, by their file names: a folder, a zip file, or a prefix of a bucket."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from face0_worker.contract.errors import BadInput, Face0Error, StorageDown
from face0_worker.records.storage_options import S3Options

CACHE_CONTROL = "public, max-age=3600"
_BUCKET = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)
_LONGEST_KEY = 1024  # bytes, S3's own limit
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".json": "application/json",
}
_CREDENTIALS = {
    "access_key_id": "FACE0_EXPORT_ACCESS_KEY_ID",
    "secret_access_key": "FACE0_EXPORT_SECRET_ACCESS_KEY",
    "session_token": "FACE0_EXPORT_SESSION_TOKEN",
}
_OPTIONS = {"FACE0_STORAGE": "--to", "FACE0_S3_ENDPOINT": "--endpoint", "FACE0_S3_REGION": "--region"}
_KEYS = {variable.replace("FACE0_EXPORT", "AWS"): variable for variable in _CREDENTIALS.values()}
EXPORT_VARIABLES = frozenset(_CREDENTIALS.values())


class Place(Protocol):
    """Where copies go. Every method may raise Face0Errors."""

    @property
    def in_order(self) -> bool:
        """Whether files must be put one after another."""
        ...

    @property
    def where(self) -> str:
        """Its address, for people and for the distribution register."""
        ...

    def holds(self, name: str, sha256: str) -> bool:
        """Say whether a file of this name is there with exactly these bytes."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all; one that is the same already is left alone."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, made when missing."""

    root: Path
    in_order: bool = False

    @property
    def where(self) -> str:
        return str(self.root.absolute())

    def holds(self, name: str, sha256: str) -> bool:
        try:
            return hashlib.sha256((self.root / name).read_bytes()).hexdigest() == sha256
        except OSError:
            return False

    def put(self, name: str, data: bytes) -> None:
        path = self.root / name
        fresh = path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and path.read_bytes() == data:
                return
            try:
                fresh.write_bytes(data)
                os.replace(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)
        except OSError as error:
            raise BadInput(f"{path} can't be written: {error.strerror}; choose another folder with --to") from error


class Archive:
    """A zip file that is written as its files come: the same files in the same order are the same bytes."""

    in_order = True

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive

    @property
    def where(self) -> str:
        return str(self._path.absolute())

    def holds(self, name: str, sha256: str) -> bool:
        return False  # it is always written anew

    def put(self, name: str, data: bytes) -> None:
        entry = zipfile.ZipInfo(name)  # dated 1980: a zip made again is the same
        entry.create_system, entry.external_attr = 3, 0o644 << 16
        # pictures are packed already; deflating them costs a minute for 2,000 and wins nothing
        entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith(".json") else zipfile.ZIP_STORED
        try:
            self._archive.writestr(entry, data)
        except OSError as error:
            raise BadInput(f"{self._path} can't be written: {error.strerror}; choose another with --zip") from error


@contextmanager
def archive(path: Path) -> Iterator[Archive]:
    """Give a zip file that stands under its name only when it is whole. Raises: BadInput: it can't be written."""
    fresh = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(fresh, "w", allowZip64=True) as opened:
                yield Archive(path, opened)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{path} can't be written: {error.strerror}; choose another with --zip") from error


@dataclass(frozen=True)
class Bucket:
    """A prefix of an S3 bucket, which may be another server's with other credentials than the installation's."""

    bucket: str
    prefix: str
    options: S3Options
    cache_control: str = CACHE_CONTROL
    in_order: bool = False
    _client: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, url: str, options: S3Options, cache_control: str = CACHE_CONTROL) -> Bucket:
        """Open s3://bucket/prefix. Raises: BadInput: another form, or options that can't be meant."""
        from face0_worker.records.storage_s3_client import connect

        match = _BUCKET.fullmatch(url)
        if match is None:
            raise BadInput(f"--to {url}: expected a folder, s3://bucket or s3://bucket/prefix")
        prefix = (match[2] or "").strip("/")
        return cls(match[1], prefix + "/" if prefix else "", options, cache_control, _client=connect(options))

    @property
    def where(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def holds(self, name: str, sha256: str) -> bool:
        from botocore.exceptions import ClientError

        with self._answering():
            try:
                found = self._client.head_object(Bucket=self.bucket, Key=self._key(name))
            except ClientError as error:
                # a HEAD has no body that says why; a key may be allowed to write only, and the write will tell
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (403, 404):
                    return False
                raise
        return bool(found.get("Metadata", {}).get("sha256") == sha256)

    def put(self, name: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        if name.endswith(".json") and self.holds(name, digest):
            return
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        with self._answering():
            self._client.put_object(
                Bucket=self.bucket,
                Key=self._key(name),
                Body=data,
                ContentMD5=base64.b64encode(md5).decode(),
                ContentType=_MEDIA_TYPES.get(os.path.splitext(name)[1], "application/octet-stream"),
                CacheControl=self.cache_control,
                Metadata={"sha256": digest},
            )

    def _key(self, name: str) -> str:
        key = self.prefix + name
        if len(key.encode()) > _LONGEST_KEY:
            raise BadInput(f"{key[:60]}... has more than the {_LONGEST_KEY} bytes that S3 allows; use a shorter --name")
        return key

    @contextmanager
    def _answering(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        from face0_worker.records.storage_s3_client import name_server
        from face0_worker.records.storage_s3_faults import answered, unanswered

        server = name_server(self.bucket, self.options)
        try:
            yield
        except ClientError as error:
            raise StorageDown(self._told(answered(error, server))) from error
        except BotoCoreError as error:
            raise StorageDown(self._told(unanswered(error, server))) from error

    def _told(self, fault: Face0Error) -> str:
        """Say it of the target: its options are not the installation's settings."""
        sentence = str(fault)
        for setting, option in (_OPTIONS | (_KEYS if self.options.access_key_id else {})).items():
            sentence = sentence.replace(setting, option)
        return f"export to {self.where}: {sentence}"


def target_options(
    own: S3Options, environment: Mapping[str, str], *, endpoint: str = "", region: str = "", profile: str = ""
) -> S3Options:
    """Return how the target of an export is spoken to.

    Where neither endpoint nor profile is named, it is the server `own` with the usual AWS_* credentials.
    Raises: BadInput: half of a key, or a key and a profile.
    """
    keys = {name: environment.get(variable, "") for name, variable in _CREDENTIALS.items()}
    if bool(keys["access_key_id"]) != bool(keys["secret_access_key"]):
        raise BadInput("FACE0_EXPORT_ACCESS_KEY_ID and FACE0_EXPORT_SECRET_ACCESS_KEY belong together; set both")
    if profile and keys["access_key_id"]:
        raise BadInput("both --profile and FACE0_EXPORT_ACCESS_KEY_ID are given; leave one out")
    if not (endpoint or profile):
        endpoint, region = own.endpoint, region or own.region
    return S3Options(
        endpoint=endpoint,
        region=region,
        path_style=own.path_style if endpoint == own.endpoint else "auto",
        ca=own.ca,
        profile=profile,
        **keys,
    )
