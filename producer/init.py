"""Prepare an installation: config, keys, vault, storage, face pack and the ledger's tables. Safe to repeat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from face0_worker.contract.errors import BadInput, StorageDown
from face0_worker.contract.licence import require_licences
from face0_worker.embedded import ledger_url, running
from face0_worker.records import schema
from face0_worker.records.ledger import open_ledger
from face0_worker.records.provenance import Signer
from face0_worker.records.storage import open_storage
from face0_worker.records.storage_probe import probe
from face0_worker.records.vault import Vault
from face0_worker.settings import Settings
from producer.services import keys_folder, vault_folder


@dataclass(frozen=True)
class Step:
    """One thing that init looked after: what, whether it was made now, and where or which it is."""

    what: str
    made: bool
    found: str


def init(settings: Settings) -> Iterator[Step]:
    """Make what is missing, one step at a time; what exists is never changed.

    Raises: StorageDown: a folder can't be made. ModelMissing: the face pack's weights are not installed.
    LedgerDown: the ledger does not answer.
    """
    home = settings.home_dir
    fresh = not home.is_dir()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageDown(
            f"the home folder {home} can't be made ({error.strerror}); choose another with --home or FACE0_HOME"
        ) from error
    yield Step("home folder", fresh, str(home))
    yield _config(home / "face0.toml")
    keys = keys_folder(settings)
    made = not (keys / "signing.pem").is_file()
    if made:
        Signer.create(keys)
    yield Step("signing key", made, str(keys))
    made = not Vault.exists(vault_folder(settings), settings.vault_secret)
    if made:
        Vault.create(vault_folder(settings), settings.vault_secret)
    yield Step("vault", made, str(vault_folder(settings)))
    yield _storage(settings)
    yield _pack(settings)
    yield _ledger(settings)


def _config(path: Path) -> Step:
    """Write a config file in which every setting stands with its meaning and is commented out."""
    if path.is_file():
        return Step("config file", False, str(path))
    lines = ["# Settings of face0. Remove the # to set one; FACE0_* variables and options win over this file.", ""]
    for name, field in Settings.model_fields.items():
        if name == "home":  # the file lies in it
            continue
        value = "" if field.default is None else field.default
        shown = f'"{value}"' if isinstance(value, str | Path) else str(value).lower()
        lines += [f"# {field.description}", f"# {name} = {shown}", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return Step("config file", True, str(path))


def _storage(settings: Settings) -> Step:
    url = settings.storage_url
    made = not url.startswith("s3://") and not Path(url).is_dir()
    if made:
        try:
            Path(url).mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise StorageDown(
                f"the storage folder {url} can't be made ({error.strerror}); see FACE0_STORAGE"
            ) from error
    can = probe(open_storage(url, settings.s3_options), allow_weak=settings.allow_weak_store)
    return Step("storage", made, f"{url} ({can})")


def _pack(settings: Settings) -> Step:
    from face0_worker.faces.packs import LITE, cache_dir, load_pack

    before = settings.pack is not None or (cache_dir() / "packs" / LITE / "pack.json").is_file()
    pack = load_pack(settings.pack)
    require_licences(settings.licence_profile, pack.licences)
    return Step("face pack", not before, f"{pack.name}, licence: {pack.licence}")


def _ledger(settings: Settings) -> Step:
    made = not settings.ledger_url and not (settings.home_dir / "ledger" / "PG_VERSION").is_file()
    with running_ledger(settings) as url:
        ledger = open_ledger(url)
        try:
            done = schema.upgrade(ledger.engine)
        finally:
            ledger.close()
    where = "the server at FACE0_LEDGER_URL" if settings.ledger_url else "embedded PostgreSQL"
    return Step("ledger", made or done.before != done.after, f"{done}, {where}")


@contextmanager
def running_ledger(settings: Settings) -> Iterator[str]:
    """Give the ledger's URL; the embedded one is started for the time when it does not run."""
    with running(settings, broker=False):
        yield ledger_url(settings)


def require_home(settings: Settings) -> None:
    """Check that `face0 init` was run. Raises: BadInput."""
    vault = Vault.exists(vault_folder(settings), settings.vault_secret)
    if not vault or not (keys_folder(settings) / "signing.pem").is_file():
        raise BadInput(f"{settings.home_dir} is not prepared yet; run `face0 init` first")
