"""Look at every part an installation needs, say what is wrong in a sentence and how to mend it. Changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
from sqlalchemy import inspect

from face0_worker.contract.errors import BrokerDown, Face0Error, ModelMissing, StorageDown
from face0_worker.embedded import redis_url
from face0_worker.records.offers import find_model
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import probe
from face0_worker.records.tables import metadata
from face0_worker.settings import Settings
from producer.services import Services, keys_folder

_NEEDED_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Check:
    """One part: ok or not, what was found, and how to mend it ("" when it is ok)."""

    part: str
    ok: bool
    found: str
    mend: str


class Trouble(Exception):
    """A check's own finding: what was found and how to mend it."""

    def __init__(self, found: str, mend: str) -> None:
        super().__init__(found)
        self.found, self.mend = found, mend


def examine(settings: Settings) -> Iterator[Check]:
    """Yield one check per part. Never raises for what it finds."""
    with Services(settings) as services:
        looks: tuple[tuple[str, Callable[[Services], str], str], ...] = (
            ("keys", _keys, "run `face0 init`"),
            ("broker", _broker, "start it with `face0 up`, or correct FACE0_BROKER_URL"),
            ("ledger", _ledger, "start it with `face0 up`, or correct FACE0_LEDGER_URL"),
            ("storage", _storage, "correct FACE0_STORAGE and FACE0_S3_ENDPOINT, or the folder's permissions"),
            ("model", _model, "start a worker with `face0 up` or `face0-worker run`"),
            ("face pack", _pack, "run `face0 init`, or name a pack folder with FACE0_PACK"),
            ("disk", _disk, "free some space, or move the home folder with FACE0_HOME"),
        )
        for part, look, mend in looks:
            try:
                yield Check(part, True, look(services), "")
            except Trouble as trouble:
                yield Check(part, False, trouble.found, trouble.mend)
            except Face0Error as error:
                yield Check(part, False, str(error), mend)


def _keys(services: Services) -> str:
    folder = keys_folder(services.settings)
    Signer.open(folder)
    _ = services.vault
    return f"signing key and vault in {services.settings.home_dir}"


def _broker(services: Services) -> str:
    client = redis.Redis.from_url(redis_url(services.settings), socket_connect_timeout=5, socket_timeout=5)
    try:
        memory, server = client.info("memory"), client.info("server")
    except (redis.RedisError, OSError, ValueError) as error:
        raise BrokerDown(f"the broker does not answer ({type(error).__name__})") from error
    finally:
        client.close()
    policy = str(memory.get("maxmemory_policy", "unknown"))
    if policy != "noeviction":
        # kombu loses a queue's binding, and with it messages, when a key is evicted
        raise Trouble(
            f"answers, but its maxmemory-policy is {policy}: messages may be lost", "set maxmemory-policy to noeviction"
        )
    return f"version {server.get('valkey_version', server.get('redis_version', 'unknown'))}, noeviction"


def _ledger(services: Services) -> str:
    there = set(inspect(services.ledger.engine).get_table_names())
    missing = sorted(set(metadata.tables) - there)
    if missing:
        raise Trouble(f"answers, but has no table {', '.join(missing)}", "run `face0 init`")
    with services.ledger.transaction() as connection:
        version = connection.exec_driver_sql("SHOW server_version").scalar_one()
    return f"PostgreSQL {version}, {len(metadata.tables)} tables"


def _storage(services: Services) -> str:
    probe(services.storage)
    return f"writable, refuses to overwrite: {services.settings.storage_url}"


def _model(services: Services) -> str:
    offer = find_model(services.ledger, None)
    if not offer.live:
        raise ModelMissing(f"no worker is running; the last one offered {offer.name}")
    return f"{offer.name} (digest {offer.digest[:12]}) is offered by a worker"


def _pack(services: Services) -> str:
    from face0_worker.faces.packs import LITE, cache_dir

    if services.settings.pack is None and not (cache_dir() / "packs" / LITE / "pack.json").is_file():
        raise ModelMissing(f"the face pack {LITE} is not built yet")
    return f"{services.pack.name}, licence: {services.pack.licence}"


def _disk(services: Services) -> str:
    free = free_bytes(services.settings.home_dir)
    if free < _NEEDED_BYTES:
        raise StorageDown(f"{free / 1e9:.1f} GB free; at least {_NEEDED_BYTES / 1e9:.0f} GB are wise")
    return f"{free / 1e9:.0f} GB free"


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder lies or would lie."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
