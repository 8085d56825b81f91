"""Look at every part an installation needs, say what is wrong in a sentence and how to mend it. Changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from face0_worker.contract.errors import BrokerDown, Face0Error, ModelMissing, StorageDown
from face0_worker.contract.licence import require_licences
from face0_worker.embedded import ledger_url, redis_url
from face0_worker.models import digest_model, face_folder, model_folder, model_licences, require_allowed
from face0_worker.records.ledger import database_clock, open_ledger
from face0_worker.records.offers import Worker, find_model, list_workers
from face0_worker.records.provenance import Signer
from face0_worker.records.schema import describe
from face0_worker.records.storage_probe import probe
from face0_worker.settings import Settings, unknown_variables
from producer.delivery.places import EXPORT_VARIABLES
from producer.services import Services, keys_folder

_NEEDED_BYTES = 2_000_000_000
# S3 refuses signatures that are a quarter of an hour off; a consent's day should end on the day
_CLOCK_S = 5.0
_OLDEST_BROKER = (6, 2)
_FULL = 0.8  # of the broker's memory: above its limit kombu loses a message with every receive


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


def examine(settings: Settings, options: frozenset[str] = frozenset()) -> Iterator[Check]:
    """Yield one check per part. Never raises for what it finds. `options`: variables that are options of commands."""
    with Services(settings) as services:
        looks: tuple[tuple[str, Callable[[Services], str], str], ...] = (
            ("settings", lambda _: _variables(options), "correct or remove the variable; `face0 config` lists them"),
            ("keys", _keys, "run `face0 init`"),
            ("broker", _broker, "start it with `face0 up`, or correct FACE0_BROKER_URL"),
            ("ledger", _ledger, "start it with `face0 up`, or correct FACE0_LEDGER_URL"),
            ("clock", _clock, "start the ledger first"),
            ("storage", _storage, "correct FACE0_STORAGE and FACE0_S3_ENDPOINT, or the folder's permissions"),
            ("worker", _worker, "start one with `face0 up` or `face0-worker run`"),
            ("model", _model, "correct FACE0_MODEL, or remove it to use the model that ships"),
            ("face pack", _pack, "run `face0 init`, or name a pack folder with FACE0_PACK"),
            ("gpu", _gpu, "install the GPU's driver, or set device to auto or cpu"),
            ("disk", _disk, "free some space, or move the home folder with FACE0_HOME"),
        )
        for part, look, mend in looks:
            try:
                yield Check(part, True, look(services), "")
            except Trouble as trouble:
                yield Check(part, False, trouble.found, trouble.mend)
            except Face0Error as error:
                yield Check(part, False, str(error), mend)


def _variables(options: frozenset[str]) -> str:
    unknown = unknown_variables(os.environ, options | EXPORT_VARIABLES | {"FACE0_CONFIG", "FACE0_CACHE"})
    if unknown:
        said = ", ".join(f"{name}{meant}" for name, meant in unknown.items())
        raise Trouble(f"a variable means nothing: {said}", "correct or remove it; `face0 config` lists the settings")
    return f"face0 {version('face0')}; every FACE0_* variable is known"


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
    numbers = str(server.get("redis_version", "0")).split(".")[:2]
    if tuple(int(number) for number in numbers if number.isdecimal()) < _OLDEST_BROKER:
        raise Trouble(f"answers, but Redis {'.'.join(numbers)} is too old", "use Redis 6.2 or newer, or Valkey")
    limit, used = int(memory.get("maxmemory", 0)), int(memory.get("used_memory", 0))
    if limit and used > _FULL * limit:
        raise Trouble(
            f"answers, but {used / 1e6:.0f} of its {limit / 1e6:.0f} MB are used: at its limit messages are lost",
            "raise maxmemory, or give face0 a server of its own",
        )
    return f"version {server.get('valkey_version', server.get('redis_version', 'unknown'))}, noeviction"


def _ledger(services: Services) -> str:
    # opened without the check that commands make, whose answer is what is asked for here
    ledger = open_ledger(ledger_url(services.settings))
    try:
        schema = describe(ledger.engine)
        with ledger.transaction() as connection:
            server = connection.exec_driver_sql("SHOW server_version").scalar_one()
    finally:
        ledger.close()
    if not schema.compatible:
        raise Trouble(schema.problem, "run `face0 init` where the ledger is older, update face0 where it is newer")
    return f"PostgreSQL {server}, schema {schema.current}"


def _storage(services: Services) -> str:
    url = services.settings.storage_url
    if not url.startswith("s3://") and not Path(url).is_dir():
        raise Trouble(f"the folder {url} does not exist", "run `face0 init`, or correct FACE0_STORAGE")
    can = probe(services.storage, allow_weak=services.settings.allow_weak_store)
    return f"{url} ({can})"


def _clock(services: Services) -> str:
    before = datetime.now(UTC)
    with services.ledger.transaction() as connection:
        there = database_clock(connection)
    # the answer was given somewhere between the two readings
    off = max((before - there).total_seconds(), (there - datetime.now(UTC)).total_seconds(), 0.0)
    if off > _CLOCK_S:
        raise Trouble(
            f"this machine's clock is {off:.0f} s away from the ledger's",
            "set both by NTP (for instance `timedatectl set-ntp true`)",
        )
    return "agrees with the ledger's"


def _worker(services: Services) -> str:
    workers = list_workers(services.ledger)
    if not workers:
        offer = find_model(services.ledger, None)
        raise ModelMissing(f"no worker is running; the last one offered {offer.name}")
    said = [
        f"{one.model} (digest {one.digest[:12]}) by {one.worker_id} on {one.host or 'an unnamed machine'}, "
        f"{one.device or 'a device it did not name'}, face0 {one.version or 'of an older version'}; {_paces(one)}"
        for one in workers
    ]
    return f"{len(workers)} live: " + "; ".join(said)


def _paces(worker: Worker) -> str:
    if not worker.paces:
        return "pace not measured (`face0-worker bench --calibrate`)"
    return ", ".join(
        f"{pace.width}x{pace.height} px: {pace.batch} at a time, {pace.fixed_s:.3g} s a picture "
        f"and {pace.row_s:.3g} s an evaluation"
        for pace in worker.paces
    )


def _model(services: Services) -> str:
    place = model_folder(services.settings.model)
    card, digest = _card(place), digest_model(place)
    require_allowed(place, digest, services.settings.allowed_models)
    forbidding = require_licences(services.settings.licence_profile, model_licences(place))
    licences = ", ".join(f"{what}: {licence}" for what, licence in dict(card.get("licences", {})).items())
    licences += " (for research only)" if forbidding else ""
    bars = "calibrated" if card.get("gate") else "not calibrated: likeness is measured, nobody is rejected for it"
    return f"{card.get('name')} (digest {digest[:12]}) at {place}; licences: {licences or 'not stated'}; gate {bars}"


def _card(place: Path) -> dict[str, Any]:
    file = face_folder(place) / "face0.json"
    try:
        card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelMissing(f"{file} can't be read ({type(error).__name__}): {place} is no model") from error
    return card


def _gpu(services: Services) -> str:
    """The card as its driver sees it: torch, which would take seconds to load, may not be here at all."""
    program = shutil.which("nvidia-smi")
    wanted = services.settings.device.startswith("cuda")
    query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run([program, *query], capture_output=True, text=True, timeout=20) if program else None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelMissing(f"the GPU's driver does not answer ({type(error).__name__})") from error
    if done is not None and done.returncode == 0 and done.stdout.strip():
        return "; ".join(done.stdout.strip().splitlines())
    if wanted:
        raise ModelMissing(f"device is {services.settings.device}, but this machine shows no NVIDIA GPU")
    return "none on this machine; a worker here renders on the CPU"


def _pack(services: Services) -> str:
    from face0_worker.faces.packs import LITE, cache_dir

    if services.settings.pack is None and not (cache_dir() / "packs" / LITE / "pack.json").is_file():
        raise ModelMissing(f"the face pack {LITE} is not built yet")
    return f"{services.pack.name} (digest {services.pack.digest[:12]}), licence: {services.pack.licence}"


def _disk(services: Services) -> str:
    url = services.settings.storage_url
    folders = [services.settings.home_dir, *([] if url.startswith("s3://") else [Path(url)])]
    free = min(free_bytes(folder) for folder in folders)
    if free < _NEEDED_BYTES:
        raise StorageDown(f"{free / 1e9:.1f} GB free; at least {_NEEDED_BYTES / 1e9:.0f} GB are wise")
    return f"{free / 1e9:.0f} GB free"


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder lies or would lie."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
