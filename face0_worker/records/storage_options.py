"""How an S3 server is spoken to: what the settings say, as one value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from face0_worker.contract.errors import BadInput

# no user:password@, no path, no query: credentials belong into AWS_*, and the bucket into FACE0_STORAGE
_SERVER = re.compile(r"https?://[^/@?#\s:]+(:\d{1,5})?/?|https?://\[[0-9a-fA-F:.]+\](:\d{1,5})?/?")
_CHOICES = {"path_style": ("auto", "path", "virtual"), "checksums": ("when_required", "when_supported")}


@dataclass(frozen=True)
class S3Options:
    """What an S3 server needs besides bucket and credentials; those not given come from the usual AWS_* places.

    Raises: BadInput: a value that can't be meant; the sentence names the setting.
    """

    endpoint: str = ""  # "": AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, and without them AWS itself
    region: str = ""  # "": AWS_REGION, AWS_DEFAULT_REGION or the profile's
    path_style: str = "auto"  # auto: bucket in the path, and at AWS in the host name
    checksums: str = "when_required"  # when_supported: boto3's own trailing checksums, which many servers refuse
    ca: Path | None = None  # PEM file; none: AWS_CA_BUNDLE, or the authorities everybody trusts
    public_endpoint: str = ""  # where links point; "": endpoint
    profile: str = ""  # of the AWS files; "": AWS_PROFILE
    access_key_id: str = ""  # "": from the usual places
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name in ("endpoint", "public_endpoint"):
            if getattr(self, name) and not _SERVER.fullmatch(getattr(self, name)):
                raise BadInput(
                    f"FACE0_S3_{name.upper()} is not in the form https://host or http://host:port; "
                    "the bucket stands in FACE0_STORAGE and credentials in AWS_*"
                )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise BadInput(f"FACE0_S3_{name.upper()} must be one of {', '.join(choices)}")
