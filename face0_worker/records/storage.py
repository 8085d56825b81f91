"""Objects by key: the key layout, what every storage promises, and how one is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from face0_worker.contract.errors import BadInput, Face0Error
from face0_worker.records.storage_options import S3Options

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_PREFIX = re.compile(rf"({_SEGMENT}/)+")
STAGED = re.compile(r"\.part-[0-9a-f]{16}$")  # a file that is being written
_S3_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
# erasure must end even where somebody keeps writing under the prefix
ERASE_ROUNDS = 3


class StorageMissing(Face0Error):
    """No object stands under this key."""


class Storage(Protocol):
    """Objects by key. Every method may raise StorageDown, and BadInput for a key that is not in the form."""

    def put(self, key: str, data: bytes, *, if_absent: bool = True) -> bool:
        """Write `data`, whole and durable or not at all; return whether `data` is what stands under the key now.

        With `if_absent` an object that stands already is never touched: True when its bytes are the same
        (an earlier try of our own), False when they are others.
        """
        ...

    def get(self, key: str) -> bytes:
        """Return the object's bytes. Raises: StorageMissing: there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Say whether an object stands under the key."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys under `prefix` ("" is everything), in no promised order."""
        ...

    def delete(self, key: str) -> None:
        """Erase the object with all its versions; nothing happens where there is none."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Erase everything under `prefix`, all versions and half-written files; return how many objects stood there.

        Raises: StorageDown: something is still there, for instance because the server retains it.
        """
        ...

    def versions(self, prefix: str) -> int:
        """Return how many versions of objects stand under `prefix`, delete markers included."""
        ...

    def every_version(self) -> Iterator[tuple[str, bytes]]:
        """Yield (key, bytes) of everything that stands here, also of versions that were replaced or half written."""
        ...

    def link(self, key: str, seconds: int) -> str:
        """Return a URL by which anybody may read the object for that long. Raises: BadInput: none can be given here."""
        ...


def check_id(value: str) -> str:
    """Return an id that may stand in a key. Raises: BadInput: another form (the text itself is not repeated)."""
    if not _ID.fullmatch(value):
        raise BadInput("an id has up to 128 letters, digits, - and _, and starts with a letter or digit")
    return value


def _check_sha256(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise BadInput("a digest in an object key is 64 lower-case hex digits")
    return value


def picture_key(consent_id: str, item_key: str, sha256: str, ending: str = "png") -> str:
    """Return where a picture goes. The bytes' own sha256 is in the key, so no two renders ever meet."""
    return f"pictures/{check_id(consent_id)}/{check_id(item_key)}/{_check_sha256(sha256)}.{check_id(ending)}"


def item_prefix(consent_id: str, item_key: str) -> str:
    """Return the prefix under which every render of one item lies, committed or not."""
    return f"pictures/{check_id(consent_id)}/{_check_sha256(item_key)}/"


def receipt_key(consent_id: str, item_key: str) -> str:
    """Return where an item's signed receipt goes."""
    return f"receipts/{check_id(consent_id)}/{check_id(item_key)}.json"


def face_key(consent_id: str, digest: str) -> str:
    """Return where an encrypted photo with its embedding goes."""
    return f"faces/{check_id(consent_id)}/{_check_sha256(digest)}.enc"


def held_key(consent_id: str, item_key: str, sha256: str) -> str:
    """Return where an encrypted picture goes that waits for a human's decision."""
    return f"held/{check_id(consent_id)}/{check_id(item_key)}/{_check_sha256(sha256)}.enc"


def manifest_prefix(job_id: str) -> str:
    """Return the prefix of a job's manifest."""
    return f"jobs/{check_id(job_id)}/manifest/"


def catalogue_prefix(name: str, run_id: str) -> str:
    """Return the prefix of the manifest that one run of a catalogue made."""
    return f"catalogues/{check_id(name)}/{check_id(run_id)}/"


def catalogues_prefix(name: str) -> str:
    """Return the prefix under which a catalogue's pointer and all its manifests lie."""
    return f"catalogues/{check_id(name)}/"


def pointer_key(name: str) -> str:
    """Return where a catalogue's pointer stands: it names the newest complete manifest."""
    return f"catalogues/{check_id(name)}/latest.json"


def consent_prefixes(consent_id: str) -> tuple[str, ...]:
    """Return every prefix under which something of this person lies: what an erasure deletes."""
    return tuple(f"{kind}/{check_id(consent_id)}/" for kind in ("pictures", "receipts", "faces", "held"))


def open_storage(url: str, options: S3Options | None = None) -> Storage:
    """Open an absolute folder (made when missing), or `s3://bucket/prefix` by `options` (none: AWS, by AWS_* alone).

    Raises: BadInput: neither of the two, or options that can't be meant. StorageDown: the folder can't be made.
    """
    if url.startswith("s3://"):
        match = _S3_URL.fullmatch(url)
        prefix = (match.group(2) or "").strip("/") + "/" if match else "/"
        if match is None or (prefix != "/" and not _PREFIX.fullmatch(prefix)):
            raise BadInput("storage is not in the form s3://bucket or s3://bucket/prefix; see FACE0_STORAGE")
        # boto3 takes a quarter of a second that a machine with a local folder need not spend
        from face0_worker.records.storage_s3 import S3Storage

        return S3Storage(match.group(1), prefix.lstrip("/"), options or S3Options())
    if not os.path.isabs(url):
        raise BadInput("storage must be an absolute folder or s3://bucket/prefix; see FACE0_STORAGE")
    from face0_worker.records.storage_local import LocalStorage

    return LocalStorage(Path(url))


def check_key(key: str) -> str:
    """Return a key in the form. Raises: BadInput: another form (the text itself is not repeated)."""
    if not _KEY.fullmatch(key) or len(key) > 900 or STAGED.search(key):
        raise BadInput("an object key is made of ids joined by /; this one is not in the form")
    return key


def check_prefix(prefix: str) -> str:
    """Return a prefix in the form, which ends with /. Raises: BadInput: another form."""
    # without the last / the prefix of consent c1 would reach into consent c10
    if not _PREFIX.fullmatch(prefix) or len(prefix) > 900:
        raise BadInput("a prefix of object keys is made of ids, each followed by /; this one is not in the form")
    return prefix
