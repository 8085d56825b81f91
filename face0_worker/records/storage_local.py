"""Storage in a local folder, by obstore: whole files, synced to the disk before they have their name."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from face0_worker.contract.errors import BadInput, StorageDown
from face0_worker.records.disk import sync
from face0_worker.records.storage import ERASE_ROUNDS, STAGED, StorageMissing, check_key, check_prefix


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
            sync(self.root / staged)
            obstore.rename(self._store, staged, key, overwrite=not if_absent)
            for changed in entered:  # each costs a disk flush, so only where a name was added
                sync(changed)
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
                yield from (entry["path"] for entry in batch if not STAGED.search(entry["path"]))
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

    def versions(self, prefix: str) -> int:
        return sum(1 for _ in self.list(check_prefix(prefix)))  # a folder keeps no old versions

    def every_version(self) -> Iterator[tuple[str, bytes]]:
        for path in self.root.rglob("*"):  # and not the listing, which shows no half-written file
            try:
                if path.is_file():
                    yield path.relative_to(self.root).as_posix(), path.read_bytes()
            except FileNotFoundError:
                continue  # erased meanwhile
            except OSError as error:
                raise self._down("can't be read", error) from error

    def link(self, key: str, seconds: int) -> str:
        raise BadInput(
            f"links need S3 storage, and this installation keeps its pictures in the folder {self.root}; "
            "copy them with `face0 results pull`, or set FACE0_STORAGE to s3://bucket/prefix"
        )

    def _tidy(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent
        sync(folder)

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
