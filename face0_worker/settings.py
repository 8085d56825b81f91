"""One frozen Settings from FACE0_* variables and a config file; entry points read it, nobody else."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from face0_worker.contract.errors import BadInput
from face0_worker.records.storage_options import S3Options

CONFIG_FILE = "face0.toml"
# for a process whose settings all stand in its environment
NO_FILE = Path(os.devnull)
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*(?=@)|(?<=[?&])(password)=[^&]*")
_FORMS = {
    "broker_url": (r"(rediss?|unix|redis\+socket)://.+", "redis://host:6379/0 or rediss://..."),
    "ledger_url": (r"postgres(ql)?://.*", "postgresql://user:password@host/database"),
    "s3_endpoint": (r"https?://.+", "http://host:port or https://..."),
    "s3_public_endpoint": (r"https?://.+", "http://host:port or https://..."),
    "s3_path_style": (r"auto|path|virtual", "auto, path or virtual"),
    "s3_checksums": (r"when_required|when_supported", "when_required or when_supported"),
    "hour_price": (r"\d+(\.\d+)?\s*[^\s\d]+", "a number and a currency, as in 2.50 EUR"),
    "licence_profile": (r"commercial|research", "commercial or research"),
    "device": (r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N"),
    "precision": (r"auto|float32|bfloat16|float16", "auto, float32, bfloat16 or float16"),
    "compile": (r"auto|on|off", "auto, on or off"),
}


class Settings(BaseSettings):
    """Everything that may differ between two installations. Times are in seconds.

    In order of increasing strength: the config file `face0.toml`, `FACE0_*` variables, the command line. A variable
    that is set to nothing counts as not set.
    """

    model_config = SettingsConfigDict(env_prefix="FACE0_", frozen=True, extra="forbid", env_ignore_empty=True)

    home: Path = Field(default=Path("~/.face0"), description="keys, embedded broker and ledger, local storage")
    keys: Path | None = Field(default=None, description="folder of the signing key; empty: home/keys")
    vault: Path | None = Field(default=None, description="folder of the vault, shared by machines; empty: home/vault")
    vault_master: SecretStr | None = Field(
        default=None, description="the vault's master key, 32 bytes in base64; empty: the file vault/master.key"
    )
    retention_days: int = Field(
        default=30, ge=0, description="days after a consent's end until all is erased, where it says nothing itself"
    )
    broker_url: str = Field(default="", description="redis:// or rediss:// URL; empty: the embedded Valkey in home")
    ledger_url: str = Field(default="", description="postgresql:// URL; empty: the embedded PostgreSQL in home")
    storage: str = Field(default="", description="folder or s3://bucket/prefix; empty: home/storage")
    s3_endpoint: str = Field(default="", description="URL of an S3 server other than AWS")
    s3_region: str = Field(default="", description="region of the bucket; empty: AWS_REGION or the profile's")
    s3_path_style: str = Field(default="auto", description="auto, path or virtual: where the bucket's name stands")
    s3_checksums: str = Field(default="when_required", description="when_required, or when_supported (AWS)")
    s3_ca: Path | None = Field(default=None, description="PEM file of the S3 server's own CA; empty: AWS_CA_BUNDLE")
    s3_public_endpoint: str = Field(default="", description="URL for links to pictures; empty: s3_endpoint")
    allow_weak_store: bool = Field(default=False, description="accept a store that ignores conditional writes")
    pack: Path | None = Field(default=None, description="insightface pack folder; empty: face0_lite, built at set-up")
    model: Path | None = Field(default=None, description="model folder of this worker; empty: the shipped one")
    bars: Path | None = Field(default=None, description="file of the quality gate's bars; empty: the model's own")
    allowed_models: str = Field(
        default="", description="digests of the models this worker may load, with commas, or a file; empty: any"
    )
    licence_profile: str = Field(
        default="commercial", description="commercial: what forbids it is refused; research: it is told"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: str = Field(default="auto", description="auto, float32, bfloat16 or float16")
    compile: str = Field(default="auto", description="on, off, or auto: on a GPU where `on` compiled the model before")
    batch: int = Field(
        default=0,
        ge=0,
        le=256,
        description="pictures in one render batch; 0: as calibrated, 8 where nothing was measured",
    )
    hour_price: str = Field(default="", description='what a worker costs an hour, as in "2.50 EUR"; for dry runs')
    window: int = Field(default=2, ge=1, le=16, description="batches outstanding per worker")
    lease_s: float = Field(default=60.0, gt=0, description="a worker silent for longer loses its batch")
    grace_s: float = Field(default=60.0, ge=0, description="a worker told to stop may finish its batch for so long")
    crash_limit: int = Field(default=3, ge=1, description="crashes alone after which an item is given up")
    webhook_hosts: str = Field(
        default="", description="hosts, with commas, that webhooks may tell over http or inside this network"
    )
    poll_s: float = Field(default=0.2, gt=0, description="the dispatcher's pause when there is nothing to do")

    @field_validator(*_FORMS)
    @classmethod
    def _in_form(cls, value: str, info: ValidationInfo) -> str:
        form, example = _FORMS[str(info.field_name)]
        if value and not re.fullmatch(form, value):
            raise ValueError(f"expected {example}")  # the value itself may hold a password
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, cls.from_file())

    @classmethod
    def from_file(cls) -> dict[str, Any]:
        """Return what the config file says; Settings made by themselves have none."""
        return {}

    @property
    def home_dir(self) -> Path:
        """The home folder with ~ expanded, absolute."""
        return self.home.expanduser().absolute()

    @property
    def keys_dir(self) -> Path:
        """The folder of the signing key, absolute."""
        return (self.keys or self.home_dir / "keys").expanduser().absolute()

    @property
    def vault_dir(self) -> Path:
        """The folder of the vault, absolute."""
        return (self.vault or self.home_dir / "vault").expanduser().absolute()

    @property
    def vault_secret(self) -> str:
        """The vault's master key as text, "" where it lies in a file."""
        return self.vault_master.get_secret_value() if self.vault_master else ""

    @property
    def s3_options(self) -> S3Options:
        """How the S3 server is spoken to. Raises: BadInput: an endpoint that can't be meant."""
        return S3Options(
            endpoint=self.s3_endpoint,
            region=self.s3_region,
            path_style=self.s3_path_style,
            checksums=self.s3_checksums,
            ca=self.s3_ca.expanduser().absolute() if self.s3_ca else None,
            public_endpoint=self.s3_public_endpoint,
        )

    @property
    def webhook_host_names(self) -> frozenset[str]:
        """The hosts that webhooks may tell over http or inside this network."""
        return frozenset(name.strip().lower() for name in self.webhook_hosts.split(",") if name.strip())

    @property
    def storage_url(self) -> str:
        """Where objects go: an s3:// URL or an absolute folder."""
        if not self.storage:
            return str(self.home_dir / "storage")
        return self.storage if self.storage.startswith("s3://") else str(Path(self.storage).expanduser().absolute())


def environment_with(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a process that is to have these very settings; paths are absolute.

    A variable that an argument has emptied does not come back. The process must read no config file:
    `load_settings(NO_FILE)`, `--config /dev/null`.
    """
    said = {name: getattr(settings, name) for name in Settings.model_fields}
    said |= {"home": settings.home_dir, "storage": settings.storage_url, "vault_master": settings.vault_secret}
    kept = {name: value for name, value in environment.items() if name.removeprefix("FACE0_").lower() not in said}
    kept.pop("FACE0_CONFIG", None)
    paths = {name: value.expanduser().absolute() for name, value in said.items() if isinstance(value, Path)}
    return kept | {f"FACE0_{name.upper()}": str(v) for name, v in (said | paths).items() if v not in (None, "")}


@dataclass(frozen=True)
class Origin:
    """One setting in force: its value as text (passwords in URLs hidden) and where it was said."""

    name: str
    value: str
    where: str
    meaning: str


def load_settings(config: Path | None = None, **given: object) -> Settings:
    """Return the settings in force. `given`: what the command line says; None means not said.

    Raises: BadInput: the config file, a variable or an option is wrong; the message names which and why.
    """
    file = _config_file(config, given)
    filed = _read(file, asked=config is not None)
    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in said:
        if name not in Settings.model_fields:
            raise BadInput(f"there is no setting {name!r}{_meant(name)}; `face0 config` lists them")

    class Configured(Settings):
        @classmethod
        def from_file(cls) -> dict[str, Any]:
            return filed

    try:
        return Configured(**said)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        where = _where(name, file, filed, said)
        why = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{where}: {why}; `face0 config` shows every setting") from error


def explain(config: Path | None = None, **given: object) -> Iterator[Origin]:
    """Yield every setting with its value in force and where it comes from. Raises: as load_settings."""
    settings = load_settings(config, **given)
    file = _config_file(config, given)
    filed = _read(file, asked=config is not None)
    said = {name: value for name, value in given.items() if value is not None}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        shown = "" if value is None else _PASSWORD.sub(_hide, str(value))
        yield Origin(name, shown, _where(name, file, filed, said), field.description or "")


def unknown_variables(environment: Mapping[str, str], known: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return FACE0_* variables that mean nothing, each with " (did you mean ...?)" or "". `known`: others that do."""
    names = {f"FACE0_{name.upper()}" for name in Settings.model_fields} | known
    return {
        name: _meant(name, names)
        for name in sorted(environment)
        if name.startswith("FACE0_") and name not in names and not name.startswith("FACE0_TEST_")
    }


def _config_file(config: Path | None, given: Mapping[str, object]) -> Path:
    home = given.get("home") or os.environ.get("FACE0_HOME")
    return config or Path(str(home or "~/.face0")).expanduser() / CONFIG_FILE


def _read(file: Path, *, asked: bool) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        if not asked:
            return {}
        raise BadInput(f"config file {file} does not exist; `face0 init` writes one") from error
    except OSError as error:
        raise BadInput(f"config file {file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"config file {file} is not UTF-8; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(
            f'config file {file} is not TOML: {error}; values stand in quotes, as in home = "/srv"'
        ) from error
    for name in values:
        if name not in Settings.model_fields:
            raise BadInput(f"config file {file}: there is no setting {name!r}{_meant(name)}; `face0 config` lists them")
    return values


def _where(name: str, file: Path, filed: Mapping[str, object], said: Mapping[str, object]) -> str:
    variable = f"FACE0_{name.upper()}"
    if name in said:
        return "--home" if name == "home" else f"--set {name}"
    if os.environ.get(variable):
        return variable
    return f"{file}, {name}" if name in filed else "default"


def _hide(found: re.Match[str]) -> str:
    return f"{found[1]}:***" if found[1] is not None else f"{found[2]}=***"


def _meant(name: str, names: Collection[str] = ()) -> str:
    near = difflib.get_close_matches(name, sorted(names or Settings.model_fields), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
