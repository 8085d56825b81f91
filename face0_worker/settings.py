"""One frozen Settings from FACE0_* variables and a config file; entry points read it, nobody else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from face0_worker.contract.errors import BadInput


class Settings(BaseSettings):
    """Everything that may differ between two installations. Times are in seconds.

    `FACE0_*` variables win over the config file `face0.toml`; arguments given by name win over both.
    """

    model_config = SettingsConfigDict(env_prefix="FACE0_", frozen=True, extra="forbid")

    home: Path = Field(default=Path("~/.face0"), description="keys, embedded broker and ledger, local storage")
    broker_url: str = Field(default="", description="redis:// or rediss:// URL; empty: the embedded Valkey in home")
    ledger_url: str = Field(default="", description="postgresql:// URL; empty: the embedded PostgreSQL in home")
    storage: str = Field(default="", description="folder or s3://bucket/prefix; empty: home/storage")
    s3_endpoint: str = Field(default="", description="URL of an S3 server other than AWS")
    pack: Path | None = Field(default=None, description="insightface pack folder; empty: face0_lite, built at set-up")
    model: Path | None = Field(default=None, description="model folder of this worker; empty: the shipped one")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: str = Field(default="auto", description="auto, float32, bfloat16 or float16")
    batch: int = Field(default=8, ge=1, le=256, description="pictures in one render batch")
    window: int = Field(default=2, ge=1, le=16, description="batches outstanding per worker")
    lease_s: float = Field(default=60.0, gt=0, description="a worker silent for longer loses its batch")
    crash_limit: int = Field(default=3, ge=1, description="crashes alone after which an item is given up")
    poll_s: float = Field(default=0.2, gt=0, description="the dispatcher's pause when there is nothing to do")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def home_dir(self) -> Path:
        """The home folder with ~ expanded, absolute."""
        return self.home.expanduser().absolute()

    @property
    def storage_url(self) -> str:
        """Where objects go: an s3:// URL or an absolute folder."""
        if not self.storage:
            return str(self.home_dir / "storage")
        return self.storage if self.storage.startswith("s3://") else str(Path(self.storage).expanduser().absolute())


def load_settings(config: Path | None = None, **given: object) -> Settings:
    """Return the settings in force. `given`: what the command line says; None means not said.

    Raises: BadInput: the config file or a variable is wrong; the message names which and why.
    """
    if config is not None and not config.is_file():
        raise BadInput(f"config file {config} does not exist; `face0 init` writes one")
    home = given.get("home") or os.environ.get("FACE0_HOME")
    toml = config or Path(str(home or "~/.face0")).expanduser() / "face0.toml"

    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    class Configured(Settings):
        model_config = SettingsConfigDict(env_prefix="FACE0_", frozen=True, extra="forbid", toml_file=toml)

    try:
        return Configured(**said)
    except ValidationError as error:
        first = error.errors()[0]
        where = "FACE0_" + "_".join(str(part) for part in first["loc"]).upper()
        raise BadInput(f"setting {where} (or the same name in {toml}): {first['msg']}") from error
