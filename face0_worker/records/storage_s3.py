"""Storage in an S3 bucket, by boto3; it asks servers only for what all of them can do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from face0_worker.contract.errors import StorageDown
from face0_worker.records.storage import ERASE_ROUNDS, StorageMissing, check_key, check_prefix
from face0_worker.records.storage_options import S3Options
from face0_worker.records.storage_s3_client import connect, name_server
from face0_worker.records.storage_s3_faults import CredentialsRefused, Occupied, Unknown, answered, unanswered

_CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".json": "application/json",
}
# S3 answers 409 while another conditional write of the same key is not decided
_CONFLICT_PAUSES_S = (0.1, 0.4, 1.6)
# boto3 repeats a request that got no answer, but not a body that broke off
_READS = 3
_BROKEN_OFF = (ConnectionClosedError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError)


class S3Storage:
    """Storage in an S3 bucket, by boto3; credentials come from the usual AWS_* places. See Storage for the promises.

    Credentials that the server refuses are read anew before the next call: a file that somebody rotates is enough.
    Raises: BadInput: a setting or an AWS_* variable that can't be meant.
    """

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self.bucket, self.prefix, self.options = bucket, prefix, options
        self.server = name_server(bucket, options)
        self._client = connect(options)

    def put(self, key: str, data: bytes, *, if_absent: bool = True) -> bool:
        left = list(_CONFLICT_PAUSES_S)
        while True:
            try:
                self._put(key, data, if_absent=if_absent)
            except Occupied:
                # a lost answer makes botocore try again and meet its own object
                with contextlib.suppress(StorageMissing):
                    return self.get(key) == data
                if not left:  # somebody has been writing it all the time
                    raise
                time.sleep(left.pop(0))
            else:
                return True

    def _put(self, key: str, data: bytes, *, if_absent: bool) -> None:
        given: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        md5 = hashlib.md5(data, usedforsecurity=False).digest()  # the one upload check every server knows
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

    def get(self, key: str) -> bytes:
        whole = self.prefix + check_key(key)
        with self._answering():
            return self._read(whole, _READS)

    def _read(self, whole: str, tries: int, **version: str) -> bytes:
        try:
            return bytes(self._client.get_object(Bucket=self.bucket, Key=whole, **version)["Body"].read())
        except _BROKEN_OFF:
            if tries == 1:
                raise
            return self._read(whole, tries - 1, **version)

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

    def versions(self, prefix: str) -> int:
        return sum(1 for _ in self._versions(self.prefix + check_prefix(prefix)))

    def every_version(self) -> Iterator[tuple[str, bytes]]:
        for whole, version, marker in self._versions(self.prefix):
            if not marker:
                with contextlib.suppress(StorageMissing), self._answering():  # erased meanwhile
                    yield whole.removeprefix(self.prefix), self._read(whole, _READS, **version)

    def link(self, key: str, seconds: int) -> str:
        with self._answering():
            url: str = self._linker.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": self.prefix + check_key(key)}, ExpiresIn=seconds
            )
        return url

    @cached_property
    def _linker(self) -> Any:
        # the signature covers the host name: a link for the public endpoint must be signed for it
        return connect(self.options, public=True)

    def _erase(self, start: str, *, exactly: bool) -> int:
        erased: set[str] = set()
        for _ in range(ERASE_ROUNDS):
            found = [row for row in self._versions(self.prefix + start) if not exactly or row[0] == self.prefix + start]
            if not found:
                return len(erased)
            erased.update(key for key, _, marker in found if not marker)
            # one request each: DeleteObjects needs a checksum header over which servers disagree
            with ThreadPoolExecutor(8) as pool:
                for _ in pool.map(lambda row: self._erase_version(row[0], row[1]), found):
                    pass
        raise StorageDown(f"{self} still holds objects that it was told to erase; look for a retention rule")

    def _erase_version(self, whole: str, version: dict[str, str]) -> None:
        with contextlib.suppress(StorageMissing):  # somebody else erases the same
            self._call("delete_object", Key=whole, **version)

    def _versions(self, start: str) -> Iterator[tuple[str, dict[str, str], bool]]:
        """Yield (key, {"VersionId": ...}, is a delete marker) of every version under `start`."""
        given = {"Prefix": start}
        while True:
            try:
                page = self._call("list_object_versions", **given)
            except Unknown:  # a server without versions (Garage): what is listed is all there is
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
            fault = answered(error, self.server)
            if isinstance(fault, CredentialsRefused):
                self._client = connect(self.options)
                self.__dict__.pop("_linker", None)
            raise fault from error
        except BotoCoreError as error:
            raise unanswered(error, self.server) from error

    def __str__(self) -> str:
        return str(self.server)
