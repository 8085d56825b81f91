"""Storage in an S3 bucket, by boto3; it asks servers only for what all of them can do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from face0_worker.contract.errors import BadInput, StorageDown
from face0_worker.records.storage import ERASE_ROUNDS, StorageMissing, check_key, check_prefix

_CONTENT_TYPES = {".png": "image/png", ".json": "application/json"}


class _Occupied(StorageDown):
    """A conditional write met an object that stands already, or one that is being written."""


class _Unknown(StorageDown):
    """The server does not know this operation."""


class S3Storage:
    """Storage in an S3 bucket, by boto3; credentials come from the usual AWS_* places. See Storage for the promises."""

    def __init__(self, bucket: str, prefix: str = "", endpoint: str = "") -> None:
        self.bucket, self.prefix, self.endpoint = bucket, prefix, endpoint
        config = Config(
            # Ceph and others refuse the trailing checksums that boto3 adds by default
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if endpoint else "auto"},
            retries={"mode": "standard", "max_attempts": 4},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=16,
        )
        try:
            self._client = boto3.client("s3", endpoint_url=endpoint or None, config=config)
        except (BotoCoreError, ValueError) as error:
            raise BadInput(f"S3 storage can't be set up: {error}; see FACE0_S3_ENDPOINT and AWS_*") from error

    def put(self, key: str, data: bytes, *, if_absent: bool = True) -> bool:
        given: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        md5 = hashlib.md5(data, usedforsecurity=False).digest()  # the one upload check every server knows
        try:
            self._call(
                "put_object",
                Key=self.prefix + check_key(key),
                Body=data,
                ContentMD5=base64.b64encode(md5).decode(),
                ContentType=_CONTENT_TYPES.get(os.path.splitext(key)[1], "application/octet-stream"),
                # an ETag is no content hash on every server
                Metadata={"sha256": hashlib.sha256(data).hexdigest()},
                **given,
            )
        except _Occupied as occupied:
            # a lost answer makes botocore try again and meet its own object
            try:
                return self.get(key) == data
            except StorageMissing:
                raise occupied from None
        return True

    def get(self, key: str) -> bytes:
        with self._answering():
            return bytes(self._client.get_object(Bucket=self.bucket, Key=self.prefix + check_key(key))["Body"].read())

    def exists(self, key: str) -> bool:
        # not HEAD: its 404 can't say whether the object or the whole bucket is missing
        page = self._call("list_objects_v2", Prefix=self.prefix + check_key(key), MaxKeys=1)
        return any(entry["Key"] == self.prefix + key for entry in page.get("Contents", ()))

    def list(self, prefix: str = "") -> Iterator[str]:
        for key in self._listed(self.prefix + (check_prefix(prefix) if prefix else "")):
            yield key.removeprefix(self.prefix)

    def delete(self, key: str) -> None:
        self._erase(check_key(key), exactly=True)

    def delete_prefix(self, prefix: str) -> int:
        return self._erase(check_prefix(prefix), exactly=False)

    def _erase(self, start: str, *, exactly: bool) -> int:
        erased: set[str] = set()
        for _ in range(ERASE_ROUNDS):
            found = [row for row in self._versions(self.prefix + start) if not exactly or row[0] == self.prefix + start]
            if not found:
                return len(erased)
            erased.update(key for key, _, marker in found if not marker)
            # one request each: DeleteObjects needs a checksum header over which servers disagree
            with ThreadPoolExecutor(8) as pool:
                for _ in pool.map(lambda row: self._call("delete_object", Key=row[0], **row[1]), found):
                    pass
        raise StorageDown(f"{self} still holds objects that it was told to erase; look for a retention rule")

    def _versions(self, start: str) -> Iterator[tuple[str, dict[str, str], bool]]:
        """Yield (key, {"VersionId": ...}, is a delete marker) of every version under `start`."""
        given = {"Prefix": start}
        while True:
            try:
                page = self._call("list_object_versions", **given)
            except _Unknown:  # a server without versions (Garage): what is listed is all there is
                yield from ((key, {}, False) for key in self._listed(start))
                return
            for kind, marker in (("Versions", False), ("DeleteMarkers", True)):
                for entry in page.get(kind, ()):
                    yield entry["Key"], {"VersionId": entry["VersionId"]}, marker
            if not page.get("IsTruncated"):
                return
            given["KeyMarker"] = page["NextKeyMarker"]
            given["VersionIdMarker"] = page.get("NextVersionIdMarker", "")

    def _listed(self, start: str) -> Iterator[str]:
        given = {"Prefix": start}
        while True:
            page = self._call("list_objects_v2", **given)
            yield from (entry["Key"] for entry in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            given["ContinuationToken"] = page["NextContinuationToken"]

    def _call(self, operation: str, **given: Any) -> Any:
        with self._answering():
            return getattr(self._client, operation)(Bucket=self.bucket, **given)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Translate what the server or the way to it did wrong."""
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code == "NoSuchBucket":
                raise StorageDown(f"{self} does not exist; create the bucket or correct FACE0_STORAGE") from error
            if status == 404:
                raise StorageMissing(f"{self} has no such object") from error
            if status in (409, 412):
                raise _Occupied(f"{self} was busy with the same object ({code}); try again") from error
            if status == 501:
                raise _Unknown(f"{self} does not know an operation that face0 needs; use another server") from error
            if status in (401, 403):
                raise StorageDown(f"{self} refused the credentials ({code}); see AWS_ACCESS_KEY_ID") from error
            raise StorageDown(f"{self} answered {code} (status {status}); try again later") from error
        except BotoCoreError as error:
            what = f"{self} does not answer ({type(error).__name__})"
            raise StorageDown(f"{what}; see FACE0_S3_ENDPOINT and AWS_*, or try again later") from error

    def __str__(self) -> str:
        return f"S3 bucket {self.bucket} at {self.endpoint or 'AWS'}"
