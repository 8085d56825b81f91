"""What an S3 server or the way to it did wrong, as a sentence that names the variable to correct."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from face0_worker.contract.errors import Face0Error, StorageDown
from face0_worker.records.storage import StorageMissing
from face0_worker.records.storage_s3_client import Server


class Occupied(StorageDown):
    """A conditional write met an object that stands already, or one that is being written."""


class Unknown(StorageDown):
    """The server does not know this operation."""


class CredentialsRefused(StorageDown):
    """The server knows the credentials not at all, not any more, or not as ours."""


_SECRET = "the secret is not that of the access key; correct AWS_SECRET_ACCESS_KEY"
_KEY = "it does not know the access key; correct AWS_ACCESS_KEY_ID or AWS_PROFILE"
_TOKEN = (
    "the temporary credentials have run out or are damaged; get new ones for AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (a lasting key needs no AWS_SESSION_TOKEN)"
)
_CREDENTIALS = {
    "SignatureDoesNotMatch": _SECRET,
    "InvalidAccessKeyId": _KEY,
    "InvalidClientTokenId": _KEY,
    "UnrecognizedClientException": _KEY,
    "ExpiredToken": _TOKEN,
    "ExpiredTokenException": _TOKEN,
    "TokenRefreshRequired": _TOKEN,
    "InvalidToken": _TOKEN,
}
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "InsufficientCapacity"})
_CHECKSUMS = frozenset(
    {"XAmzContentSHA256Mismatch", "InvalidDigest", "MissingContentLength", "XAmzContentChecksumMismatch"}
)
# what a policy must allow for an operation of ours
_ACTIONS = {
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObjectVersion (or lift a retention rule)",
    "ListObjectsV2": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
}


def answered(error: ClientError, server: Server) -> Face0Error:
    """Return what an answer of the server means. It is StorageMissing only where the bucket is there."""
    said = error.response.get("ResponseMetadata", {})
    code, status = str(error.response.get("Error", {}).get("Code", "nothing")), said.get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return StorageDown(f"{server} does not exist; create the bucket or correct FACE0_STORAGE")
    if status == 404:
        return StorageMissing(f"{server} has no such object")
    if status in (409, 412):
        return Occupied(f"{server} was busy with the same object ({code}); try again")
    if status == 501:
        return Unknown(f"{server} does not know an operation that face0 needs; use another server")
    if code in _CREDENTIALS:
        return CredentialsRefused(f"{server} refused the credentials ({code}): {_CREDENTIALS[code]}")
    if code == "RequestTimeTooSkewed":
        off = _off(said.get("HTTPHeaders", {}).get("date", ""))
        return StorageDown(
            f"{server} refused the time of the request: this machine's clock is {off}; set it, best by NTP "
            "(for instance `timedatectl set-ntp true`)"
        )
    if code in ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"):
        return StorageDown(f"{server} is in another region; correct FACE0_S3_REGION or AWS_REGION")
    if code in _FULL:
        return StorageDown(f"{server} is full ({code}); make room or raise the quota")
    if code in _CHECKSUMS:
        return StorageDown(f"{server} refused the upload's checksum ({code}); set FACE0_S3_CHECKSUMS=when_required")
    if status in (401, 403):
        action = _ACTIONS.get(error.operation_name, error.operation_name)
        return CredentialsRefused(
            f"{server} does not allow this ({code}); let a policy allow {action}, or correct AWS_ACCESS_KEY_ID"
        )
    if status == 400 and server.endpoint.startswith("http://") and code == "400":
        return StorageDown(
            f"{server} understood nothing; if it speaks TLS, write https:// in {server.endpoint_variable}"
        )
    return StorageDown(f"{server} answered {code} (status {status}); try again later")


def unanswered(error: BotoCoreError, server: Server) -> StorageDown:
    """Return why there was no answer."""
    endpoint = server.endpoint_variable
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return StorageDown(
            f"there are no credentials for {server}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError | boto.SSOError):
        return StorageDown(f"no credentials could be had for {server}; sign in again, or correct AWS_PROFILE")
    if isinstance(error, boto.ProxyConnectionError):
        return StorageDown(f"the proxy on the way to {server} does not answer; correct HTTPS_PROXY or NO_PROXY")
    if isinstance(error, boto.SSLError):
        return StorageDown(f"{server} can't be trusted: {_distrust(error, server)}")
    if any(isinstance(cause, socket.gaierror) for cause in _causes(error)):
        return StorageDown(f"{server}: there is no host of this name; correct {endpoint} or the name service")
    if isinstance(error, boto.EndpointConnectionError):
        return StorageDown(f"{server} does not answer: nothing listens there; start it or correct {endpoint}")
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return StorageDown(f"{server} does not answer in time; try again later, or correct {endpoint}")
    if isinstance(error, boto.ConnectionClosedError) and server.endpoint.startswith("http://"):
        return StorageDown(
            f"{server} closed the connection without an answer; if it speaks TLS, write https:// in {endpoint}, "
            "otherwise try again later"
        )
    return StorageDown(f"{server} does not answer ({type(error).__name__}); see {endpoint}, or try again later")


def _distrust(error: BotoCoreError, server: Server) -> str:
    why = str(error)
    if "mismatch" in why or "doesn't match" in why:
        return f"its certificate is for another host; correct {server.endpoint_variable}"
    if "CERTIFICATE_VERIFY_FAILED" not in why:
        return f"it speaks another TLS than this machine, or none; for none write http:// in {server.endpoint_variable}"
    if "expired" in why or "not yet valid" in why:
        return "its certificate has run out or is not valid yet; renew it, or set this machine's clock"
    return f"no known authority signed its certificate; put the PEM file of its CA into {server.ca_variable}"


def _off(date: str) -> str:
    try:
        there = parsedate_to_datetime(date)
        return f"{abs((datetime.now(UTC) - there).total_seconds()):.0f} s away from the server's"
    except (TypeError, ValueError):
        return "too far from the server's"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and everything that led to it; botocore keeps the first cause as an argument."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "kwargs", {}).get("error"), *one.args]
            yield one
