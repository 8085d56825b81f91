"""Does this store keep what face0 promises? A dozen small requests at the start instead of a lost picture later."""

from __future__ import annotations

import contextlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from face0_worker.contract.errors import Face0Error, StorageDown
from face0_worker.records.storage import Storage

_WRITERS = 4


@dataclass(frozen=True)
class Capabilities:
    """What a probed store can do. All of them write, read back, list and erase with every version."""

    conditional_writes: bool  # refuses to overwrite when asked (If-None-Match)
    versioned: bool  # keeps what was overwritten, until it is erased

    def __str__(self) -> str:
        writes = "refuses to overwrite" if self.conditional_writes else "weak: overwrites although asked not to"
        return f"{writes}; {'keeps old versions' if self.versioned else 'keeps no old versions'}; erases all"


def probe(storage: Storage, *, allow_weak: bool = False) -> Capabilities:
    """Write, refuse to overwrite (also of writers at once), read back, list and erase, with every version.

    Nothing is left behind, also when it fails half way. `allow_weak`: a store that ignores conditional writes is
    reported and not refused.
    Raises: StorageDown: the store can't do one of these, or does not answer.
    """
    folder = f"probe/{secrets.token_hex(8)}/"
    try:
        found = _examine(storage, folder)
    except BaseException:
        with contextlib.suppress(Face0Error):  # the first error says more
            storage.delete_prefix(folder)
        raise
    if not found.conditional_writes and not allow_weak:
        # Ceph 16 does so, and only there
        where = " in a bucket that keeps old versions; use one that does not" if found.versioned else ""
        raise StorageDown(
            f"the storage overwrites objects although asked not to (it ignores If-None-Match){where}; two workers "
            "could replace each other's objects. Use another server or bucket, or accept it with --allow-weak-store"
        )
    return found


def _one_wins(storage: Storage, key: str) -> bool:
    # some servers look first and write then: a writer alone sees nothing of it (SeaweedFS up to 4.16)
    datas = [secrets.token_bytes(16) for _ in range(_WRITERS)]
    with ThreadPoolExecutor(_WRITERS) as pool:
        won = list(pool.map(lambda data: storage.put(key, data), datas))
    return won.count(True) == 1


def _examine(storage: Storage, folder: str) -> Capabilities:
    key, first, second = f"{folder}object", secrets.token_bytes(16), secrets.token_bytes(16)
    if not storage.put(key, first):
        raise StorageDown("the storage says that an object stands under a key nobody has used; use another server")
    kept = not storage.put(key, second) and storage.get(key) == first and _one_wins(storage, f"{folder}race")
    storage.put(key, second, if_absent=False)
    if storage.get(key) != second:
        raise StorageDown("the storage gives other bytes than were just written; use another server")
    listed = list(storage.list(folder))
    if key not in listed:
        raise StorageDown("the storage does not list an object that was just written; use another server")
    versioned = storage.versions(folder) > len(listed)
    storage.delete_prefix(folder)
    if storage.versions(folder) or storage.exists(key):
        raise StorageDown("the storage still shows an object after it was erased; use another server")
    return Capabilities(conditional_writes=kept, versioned=versioned)
