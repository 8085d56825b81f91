"""Look for what must be gone of an erased person in every place where something could be left (promise P6)."""

from __future__ import annotations

import base64
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import redis
from sqlalchemy import text

from face0_worker.contract.errors import BrokerDown
from face0_worker.embedded import redis_url
from face0_worker.records.storage import consent_prefixes
from producer.services import Services

_WINDOW = 32  # bytes; a photo's own, taken where no header stands
_CHUNK = 1 << 20
_IN_THE_LEDGER = ("faces", "enrolments", "held_faces", "held_pictures")


@dataclass(frozen=True)
class Canary:
    """Something of the person that may be found nowhere; `what` it is can be told, its bytes can't."""

    what: str
    needles: tuple[bytes, ...]

    @classmethod
    def of_bytes(cls, what: str, data: bytes) -> Canary:
        """Return the canary of a file or an embedding: three pieces of it, in every usual writing."""
        starts = [len(data) * part // 4 for part in (1, 2, 3)] if len(data) >= 4 * _WINDOW else [0]
        pieces = [data[start : start + _WINDOW] for start in starts]
        return cls(what, tuple({form for piece in pieces for form in _writings(piece)}))

    @classmethod
    def of_word(cls, what: str, word: str) -> Canary:
        """Return the canary of a name or a contact."""
        raw = word.encode()
        escaped = json.dumps(word)[1:-1].encode()
        forms = {raw, escaped, word.encode("utf-16-le"), quote(word).encode(), *_writings(raw)}
        return cls(what, tuple(forms))


def of_embedding(what: str, embedding: np.ndarray) -> Canary:
    """Return the canary of a face embedding, float32 (d,), as the vault seals it."""
    return Canary.of_bytes(what, np.ascontiguousarray(embedding, "<f4").tobytes())


def _writings(piece: bytes) -> Iterator[bytes]:
    yield piece
    yield piece.hex().encode()
    yield piece.hex().upper().encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):  # where it starts within a longer text decides how base64 writes it
            whole = encode(b"\0" * shift + piece)
            yield whole[4 if shift else 0 : len(whole) - 4]


@dataclass(frozen=True)
class Leftover:
    """Something that was found: in which place, where there, and what it is."""

    place: str
    where: str
    what: str


@dataclass(frozen=True)
class Search:
    """What was looked through, as counts by place, and what was found. `unread`: what could not be looked at."""

    looked: dict[str, int]
    found: tuple[Leftover, ...]
    unread: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether everything was looked at and nothing was found."""
        return not self.found and not self.unread


def search(services: Services, consent_id: str, canaries: Sequence[Canary], paths: Iterable[Path] = ()) -> Search:
    """Look for the canaries and for what belongs to the consent in ledger, store, broker, vault and on this disk.

    The disk is the home folder with its logs, the temporary files, and `paths`. Raises: ServiceDown.
    """
    hunt = _Hunt(canaries)
    _ledger(services, consent_id, hunt)
    _store(services, consent_id, hunt)
    _broker(services, hunt)
    if services.vault.has_key(consent_id):
        hunt.found.append(Leftover("vault", consent_id, "data key"))
    for root in dict.fromkeys([services.settings.home_dir, Path(tempfile.gettempdir()), *paths]):
        _disk(root, hunt)
    return Search(hunt.looked, tuple(dict.fromkeys(hunt.found)), tuple(hunt.unread))


class _Hunt:
    def __init__(self, canaries: Sequence[Canary]) -> None:
        self.canaries = canaries
        self.looked = dict.fromkeys(("ledger", "store", "broker", "disk"), 0)
        self.found: list[Leftover] = []
        self.unread: list[str] = []
        self._overlap = max((len(one) for canary in canaries for one in canary.needles), default=1)

    def look(self, place: str, where: str, chunks: Iterable[bytes]) -> None:
        """Look through one thing that comes in pieces; a needle may lie across two of them."""
        self.looked[place] += 1
        end = b""
        for chunk in chunks:
            data = end + bytes(chunk)
            for canary in self.canaries:
                if any(needle in data for needle in canary.needles):
                    self.found.append(Leftover(place, where, canary.what))
            end = data[-self._overlap :]


def _ledger(services: Services, consent_id: str, hunt: _Hunt) -> None:
    with services.ledger.transaction() as connection:
        tables = list(
            connection.execute(
                text("SELECT quote_ident(relname) FROM pg_class WHERE relkind IN ('r', 'p', 'm') "
                     "AND relnamespace = current_schema()::regnamespace ORDER BY relname")
            ).scalars()
        )  # fmt: skip
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor:
            for table in tables:
                # binary: texts, JSON and bytes as they are, whatever columns the table has
                with cursor.copy(f"COPY {table} TO STDOUT (FORMAT BINARY)") as copy:
                    hunt.look("ledger", table, copy)
        for table in _IN_THE_LEDGER:
            count = text(f"SELECT count(*) FROM {table} WHERE consent_id = :consent_id")
            if connection.execute(count, {"consent_id": consent_id}).scalar_one():
                hunt.found.append(Leftover("ledger", table, "rows of the consent"))


def _store(services: Services, consent_id: str, hunt: _Hunt) -> None:
    for prefix in consent_prefixes(consent_id):
        if services.storage.versions(prefix):
            hunt.found.append(Leftover("store", prefix, "objects of the consent"))
    for key, data in services.storage.every_version():
        hunt.look("store", key, [key.encode(), data])


def _broker(services: Services, hunt: _Hunt) -> None:
    url = redis_url(services.settings)
    try:
        with redis.Redis.from_url(url) as client:
            for key in client.scan_iter(count=1000):
                hunt.look("broker", key.decode(errors="replace"), [key, *_flat(_value(client, key))])
    except redis.RedisError as error:
        raise BrokerDown("the broker does not answer; start it, then look again") from error


def _value(client: Any, key: bytes) -> Any:
    kind = client.type(key).decode()
    read = {
        "string": lambda: client.get(key),
        "list": lambda: client.lrange(key, 0, -1),
        "hash": lambda: client.hgetall(key),
        "set": lambda: client.smembers(key),
        "zset": lambda: client.zrange(key, 0, -1),
        "stream": lambda: client.xrange(key),
    }
    return read[kind]() if kind in read else None


def _flat(value: Any) -> Iterator[bytes]:
    """Yield every text in what Redis gave; a JSON message that holds base64 is opened too, as Celery's do."""
    if isinstance(value, bytes):
        yield value
        try:
            inside = json.loads(value)
            yield base64.b64decode(inside["body"])
        except (ValueError, KeyError, TypeError):
            return
    elif isinstance(value, dict):
        yield from _flat([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from _flat(part)


def _disk(root: Path, hunt: _Hunt) -> None:
    def closed(error: OSError) -> None:
        # what went away meanwhile holds nothing any more
        if not isinstance(error, FileNotFoundError):
            hunt.unread.append(str(error.filename))

    for folder, _, names in os.walk(root, onerror=closed):
        for name in names:
            path = Path(folder, name)
            try:
                if stat.S_ISREG(path.lstat().st_mode):
                    hunt.look("disk", str(path), [name.encode(errors="surrogateescape"), *_pieces(path)])
            except FileNotFoundError:
                continue  # gone meanwhile
            except OSError:
                hunt.unread.append(str(path))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
