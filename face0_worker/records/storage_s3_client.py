"""The way to an S3 server: boto3 set up from S3Options and AWS_*, and which variable said what."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound

from face0_worker.contract.errors import BadInput
from face0_worker.records.storage_options import S3Options

_AWS = re.compile(r"https://([a-z0-9-]+\.)*amazonaws\.com(\.cn)?")


@dataclass(frozen=True)
class Server:
    """An S3 server as sentences name it: what it is called, and which variables to correct."""

    bucket: str
    endpoint: str  # "": AWS
    endpoint_variable: str
    ca_variable: str

    def __str__(self) -> str:
        return f"S3 bucket {self.bucket} at {self.endpoint or 'AWS'}"


def name_server(bucket: str, options: S3Options) -> Server:
    """Say where the bucket is by what is set now: FACE0_* wins over AWS_*."""
    said = [("FACE0_S3_ENDPOINT", options.endpoint)]
    said += [(name, os.environ.get(name, "")) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")]
    variable, endpoint = next(((name, url) for name, url in said if url), ("FACE0_S3_ENDPOINT", ""))
    own_ca = options.ca or not os.environ.get("AWS_CA_BUNDLE")
    return Server(bucket, endpoint, variable, "FACE0_S3_CA" if own_ca else "AWS_CA_BUNDLE")


def connect(options: S3Options, *, public: bool = False) -> Any:
    """Return a boto3 client; credentials and profile are read afresh. `public`: for links, at the public endpoint.

    Raises: BadInput: a setting or an AWS_* variable that can't be meant.
    """
    endpoint = (public and options.public_endpoint) or options.endpoint
    ca = _checked(options.ca, "FACE0_S3_CA")
    _checked(_path(os.environ.get("AWS_CA_BUNDLE")) if not ca else None, "AWS_CA_BUNDLE")
    try:
        # a session of its own: boto3's shared one would keep the credentials it has seen first
        core = botocore.session.Session()
        core.register_component("data_loader", _descriptions())
        session = boto3.Session(
            botocore_session=core,
            profile_name=options.profile or None,
            aws_access_key_id=options.access_key_id or None,
            aws_secret_access_key=options.secret_access_key or None,
            aws_session_token=options.session_token or None,
        )
        # AWS_REGION is what other programs read; boto3 itself knows AWS_DEFAULT_REGION only
        region = options.region or os.environ.get("AWS_REGION") or session.region_name
        # at AWS virtual and not boto3's auto, which signs links for a host that redirects
        style = "path" if name_server("", options).endpoint or (public and endpoint) else "virtual"
        if options.path_style != "auto":
            style = options.path_style
        client = _client(session, endpoint, region, ca, _config(options, style))
        if not endpoint and options.path_style == "auto" and not _AWS.fullmatch(client.meta.endpoint_url):
            # a profile of the config file named another server
            client = _client(session, endpoint, region, ca, _config(options, "path"))
    except ProfileNotFound as error:
        said = f"the profile {options.profile}" if options.profile else "the profile that AWS_PROFILE names"
        raise BadInput(f"{said} is in none of your AWS files; correct it or leave it out") from error
    except (BotoCoreError, ValueError) as error:
        raise BadInput(f"S3 storage can't be set up: {error}; see FACE0_S3_ENDPOINT and AWS_*") from error
    return client


@cache
def _descriptions() -> Any:
    """Return boto3's descriptions of the services: reading them takes a tenth of a second, once."""
    return botocore.session.Session().get_component("data_loader")


def _client(session: boto3.Session, endpoint: str, region: str | None, ca: Path | None, config: Config) -> Any:
    return session.client(
        "s3",
        endpoint_url=endpoint or None,
        # servers other than AWS have one region, whatever it is called
        region_name=region or "us-east-1",
        verify=str(ca) if ca else None,
        config=config,
    )


def _config(options: S3Options, style: str) -> Config:
    given: dict[str, Any] = {
        # Ceph and others refuse the trailing checksums that boto3 adds by default
        "request_checksum_calculation": options.checksums,
        "response_checksum_validation": options.checksums,
        "signature_version": "s3v4",  # boto3 still signs some links in the way before
        "s3": {"addressing_style": style},
        "retries": {"mode": "standard", "total_max_attempts": 4},
        "connect_timeout": 5,
        "read_timeout": 60,
        "max_pool_connections": 16,
    }
    return Config(**given)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _checked(ca: Path | None, variable: str) -> Path | None:
    """Return a CA file that holds certificates. Raises: BadInput: it does not."""
    if ca is None:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca.is_dir():  # as OpenSSL's c_rehash makes one
            context.load_verify_locations(capath=str(ca))
        else:
            context.load_verify_locations(cafile=str(ca))
    except ssl.SSLError as error:
        raise BadInput(f"{variable}: {ca} holds no certificate in PEM form; give the CA's own certificate") from error
    except OSError as error:
        raise BadInput(f"{variable}: {ca} can't be read ({error.strerror}); give the CA's PEM file") from error
    return ca
