"""Objects by key: the key layout, what every storage promises, and the one in a local folder."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from face0_worker.contract.errors import BadInput, Face0Error, StorageDown

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_PREFIX = re.compile(rf"({_SEGMENT}/)+")
_STAGED = re.compile(r"\.part-[0-9a-f]{16}$")
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


def check_id(value: str) -> str:
    """Return an id that may stand in a key. Raises: BadInput: another form (the text itself is not repeated)."""
    if not _ID.fullmatch(value):
        raise BadInput("an id has up to 128 letters, digits, - and _, and starts with a letter or digit")
    return value


def _check_sha256(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise BadInput("a digest in an object key is 64 lower-case hex digits")
    return value


def picture_key(consent_id: str, item_key: str, sha256: str) -> str:
    """Return where a picture goes. The bytes' own sha256 is in the key, so no two renders ever meet."""
    return f"pictures/{check_id(consent_id)}/{check_id(item_key)}/{_check_sha256(sha256)}.png"


def item_prefix(consent_id: str, item_key: str) -> str:
    """Return the prefix under which every render of one item lies, committed or not."""
    return f"pictures/{check_id(consent_id)}/{_check_sha256(item_key)}/"


def receipt_key(consent_id: str, item_key: str) -> str:
    """Return where an item's signed receipt goes."""
    return f"receipts/{check_id(consent_id)}/{check_id(item_key)}.json"


def face_key(consent_id: str, digest: str) -> str:
    """Return where an encrypted photo with its embedding goes."""
    return f"faces/{check_id(consent_id)}/{_check_sha256(digest)}.enc"


def manifest_prefix(job_id: str) -> str:
    """Return the prefix of a job's manifest."""
    return f"jobs/{check_id(job_id)}/manifest/"


def consent_prefixes(consent_id: str) -> tuple[str, ...]:
    """Return every prefix under which something of this person lies: what an erasure deletes."""
    return tuple(f"{kind}/{check_id(consent_id)}/" for kind in ("pictures", "receipts", "faces"))


def open_storage(url: str, endpoint: str = "") -> Storage:
    """Open an absolute folder (made when missing) or `s3://bucket/prefix` at `endpoint` (empty: AWS).

    Raises: BadInput: neither of the two. StorageDown: the folder can't be made.
    """
    if url.startswith("s3://"):
        match = _S3_URL.fullmatch(url)
        prefix = (match.group(2) or "").strip("/") + "/" if match else "/"
        if match is None or (prefix != "/" and not _PREFIX.fullmatch(prefix)):
            raise BadInput("storage is not in the form s3://bucket or s3://bucket/prefix; see FACE0_STORAGE")
        # boto3 takes a quarter of a second that a machine with a local folder need not spend
        from face0_worker.records.storage_s3 import S3Storage

        return S3Storage(match.group(1), prefix.lstrip("/"), endpoint)
    if not os.path.isabs(url):
        raise BadInput("storage must be an absolute folder or s3://bucket/prefix; see FACE0_STORAGE")
    return LocalStorage(Path(url))


def probe(storage: Storage) -> None:
    """Write, refuse to overwrite, read back and erase one small object.

    Raises: StorageDown: the store can't do one of these; some S3 servers silently ignore conditional writes.
    """
    key, first = f"probe/{secrets.token_hex(8)}", secrets.token_bytes(16)
    try:
        if not storage.put(key, first):
            raise StorageDown("the storage says that an object stands under a key nobody has used")
        if storage.put(key, secrets.token_bytes(16)) or storage.get(key) != first:
            raise StorageDown("the storage overwrites objects although asked not to (If-None-Match); use another one")
    finally:
        storage.delete(key)
    if storage.exists(key):
        raise StorageDown("the storage still shows an object after it was erased; use another server")


def check_key(key: str) -> str:
    """Return a key in the form. Raises: BadInput: another form (the text itself is not repeated)."""
    if not _KEY.fullmatch(key) or len(key) > 900 or _STAGED.search(key):
        raise BadInput("an object key is made of ids joined by /; this one is not in the form")
    return key


def check_prefix(prefix: str) -> str:
    """Return a prefix in the form, which ends with /. Raises: BadInput: another form."""
    # without the last / the prefix of consent c1 would reach into consent c10
    if not _PREFIX.fullmatch(prefix) or len(prefix) > 900:
        raise BadInput("a prefix of object keys is made of ids, each followed by /; this one is not in the form")
    return prefix


class LocalStorage:
    """Storage in one folder, by obstore; see Storage for the promises."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)  # pictures of people: nobody else's business
            self._store = LocalStore(root, automatic_cleanup=True)
        except (BaseError, OSError, ValueError) as error:
            raise self._down("can't be opened", error) from error

    def put(self, key: str, data: bytes, *, if_absent: bool = True) -> bool:
        # obstore's create mode links a file that isn't on the disk yet: a power cut would leave an empty picture
        # under its own sha256 for ever. So: write beside, sync, then take the name (atomic, link or rename).
        staged = f"{check_key(key)}.part-{secrets.token_hex(8)}"
        folder = (self.root / key).parent
        try:
            entered = {folder} | {new.parent for new in (folder, *folder.parents) if not new.exists()}
            obstore.put(self._store, staged, data, use_multipart=False)
            _sync(self.root / staged)
            obstore.rename(self._store, staged, key, overwrite=not if_absent)
            for changed in entered:  # each costs a disk flush, so only where a name was added
                _sync(changed)
        except AlreadyExistsError:
            self._forget(staged)
            return self.get(key) == data
        except (BaseError, OSError) as error:
            self._forget(staged)
            raise self._down(f"can't write {key}", error) from error
        return True

    def get(self, key: str) -> bytes:
        try:
            return bytes(obstore.get(self._store, check_key(key)).bytes())
        except FileNotFoundError as error:
            raise StorageMissing(f"storage has no object {key}") from error
        except (BaseError, OSError) as error:
            raise self._down(f"can't read {key}", error) from error

    def exists(self, key: str) -> bool:
        try:
            obstore.head(self._store, check_key(key))
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise self._down(f"can't look for {key}", error) from error
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        try:
            for batch in obstore.list(self._store, check_prefix(prefix) if prefix else None):
                yield from (entry["path"] for entry in batch if not _STAGED.search(entry["path"]))
        except (BaseError, OSError) as error:
            raise self._down("can't be listed", error) from error

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self._store, check_key(key))
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise self._down(f"can't erase {key}", error) from error

    def delete_prefix(self, prefix: str) -> int:
        folder = self.root / check_prefix(prefix)
        count = sum(1 for _ in self.list(prefix))
        try:
            # the whole tree and not the listed keys: a killed writer's half-written file is in no listing
            for left in range(ERASE_ROUNDS, 0, -1):
                shutil.rmtree(folder, ignore_errors=left > 1)
                if not folder.exists():
                    break
            self._tidy(folder.parent)
        except FileNotFoundError:
            pass  # it was not there, which is what was asked for
        except OSError as error:
            raise self._down(f"can't erase {prefix}", error) from error
        return count

    def _tidy(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent
        _sync(folder)

    def _forget(self, staged: str) -> None:
        # best effort: the write has failed and says so; the disk may be unable to do this as well
        with contextlib.suppress(BaseError, OSError):
            obstore.delete(self._store, staged)
        with contextlib.suppress(OSError):
            self._tidy((self.root / staged).parent)

    def _down(self, what: str, error: Exception) -> StorageDown:
        number = re.search(r"\(os error (\d+)\)", str(error))
        code = int(number.group(1)) if number else getattr(error, "errno", None)
        why = os.strerror(code) if code else type(error).__name__
        return StorageDown(f"storage folder {self.root} {what}: {why}; make room or correct the folder, then try again")


def _sync(path: Path) -> None:
    """Force a file's or folder's contents to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
