"""What FACE0_S3_* and AWS_* say, and which wins: a link shows host, region and credentials without asking anybody."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

import pytest

from face0_worker.contract.errors import BadInput
from face0_worker.records.storage import open_storage
from face0_worker.records.storage_options import S3Options
from face0_worker.settings import Settings
from tests.authority import make_authority

Variables = Callable[..., None]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Variables:
    """Set AWS_* variables by name, in a process that has no others."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FACE0_S3"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def set_(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"AWS_{name}", value)

    set_(ACCESS_KEY_ID="key", SECRET_ACCESS_KEY="secret")
    return set_


def linked(options: S3Options | None = None) -> tuple[SplitResult, dict[str, str]]:
    url = urlsplit(open_storage("s3://bucket/pre", options).link("a/b.png", 60))
    return url, {name: values[0] for name, values in parse_qs(url.query).items()}


def scope(options: S3Options | None = None) -> list[str]:
    return linked(options)[1]["X-Amz-Credential"].split("/")


def test_without_an_endpoint_it_is_aws_with_the_bucket_in_the_host_name(variables: Variables) -> None:
    variables(DEFAULT_REGION="eu-central-1")
    url, query = linked()
    assert url.netloc == "bucket.s3.eu-central-1.amazonaws.com"
    assert url.path == "/pre/a/b.png"
    assert query["X-Amz-Expires"] == "60"
    assert query["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"


@pytest.mark.parametrize("name", ["ENDPOINT_URL", "ENDPOINT_URL_S3"])
def test_an_endpoint_in_aws_variables_is_another_server_with_the_bucket_in_the_path(
    variables: Variables, name: str
) -> None:
    variables(**{name: "http://store:9000"})
    url, _ = linked()
    assert (url.netloc, url.path) == ("store:9000", "/bucket/pre/a/b.png")


def test_face0_wins_where_both_name_an_endpoint(variables: Variables) -> None:
    variables(ENDPOINT_URL_S3="http://other:9000")
    assert linked(S3Options(endpoint="https://ours"))[0].netloc == "ours"


@pytest.mark.parametrize(("style", "netloc"), [("auto", "ours"), ("path", "ours"), ("virtual", "bucket.ours")])
def test_the_path_style_is_as_said(variables: Variables, style: str, netloc: str) -> None:
    assert linked(S3Options(endpoint="https://ours", path_style=style))[0].netloc == netloc


def test_the_region_is_face0s_then_aws_region_then_aws_default_region(variables: Variables) -> None:
    server = S3Options(endpoint="http://ours")
    assert scope(server)[2] == "us-east-1"
    variables(DEFAULT_REGION="eu-north-1")
    assert scope(server)[2] == "eu-north-1"
    variables(REGION="eu-west-1")
    assert scope(server)[2] == "eu-west-1"
    assert scope(S3Options(endpoint="http://ours", region="ap-northeast-1"))[2] == "ap-northeast-1"


def test_a_session_token_goes_along(variables: Variables) -> None:
    variables(SESSION_TOKEN="temporary")
    assert linked(S3Options(endpoint="http://ours"))[1]["X-Amz-Security-Token"] == "temporary"


def test_a_profile_of_the_credentials_file_is_used(
    variables: Variables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[shop]\naws_access_key_id = of-the-profile\naws_secret_access_key = s\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    variables(SHARED_CREDENTIALS_FILE=str(file), PROFILE="shop")
    assert scope(S3Options(endpoint="http://ours"))[0] == "of-the-profile"


def test_a_profile_that_is_not_there_is_bad_input(variables: Variables) -> None:
    variables(PROFILE="shop")
    with pytest.raises(BadInput, match="AWS_PROFILE"):
        open_storage("s3://bucket")


def test_links_are_signed_for_the_public_endpoint(variables: Variables) -> None:
    options = S3Options(endpoint="http://inside:9000", public_endpoint="https://pictures.shop.example")
    url, _ = linked(options)
    assert (url.scheme, url.netloc, url.path) == ("https", "pictures.shop.example", "/bucket/pre/a/b.png")
    inside = linked(S3Options(endpoint="http://inside:9000"))[1]["X-Amz-Signature"]
    assert linked(options)[1]["X-Amz-Signature"] != inside


@pytest.mark.parametrize(
    "url", ["ours:9000", "ftp://ours", "http://", "http://k:secret@ours", "http://ours/bucket", "http://ours?x=1"]
)
@pytest.mark.parametrize("name", ["endpoint", "public_endpoint"])
def test_an_endpoint_that_is_no_server_is_bad_input_and_not_repeated(name: str, url: str) -> None:
    with pytest.raises(BadInput, match=f"FACE0_S3_{name.upper()} is not in the form") as refused:
        S3Options(**{name: url})  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["path_style", "checksums"])
def test_a_choice_that_does_not_exist_is_bad_input(name: str) -> None:
    with pytest.raises(BadInput, match=f"FACE0_S3_{name.upper()} must be one of"):
        S3Options(**{name: "maybe"})  # type: ignore[arg-type]


@pytest.mark.parametrize("variable", ["FACE0_S3_CA", "AWS_CA_BUNDLE"])
def test_a_ca_file_that_is_none_is_bad_input_and_says_whose_it_is(
    variables: Variables, tmp_path: Path, variable: str
) -> None:
    def opened(file: Path) -> None:
        if variable == "AWS_CA_BUNDLE":
            variables(CA_BUNDLE=str(file))
        open_storage("s3://bucket", S3Options(ca=file if variable == "FACE0_S3_CA" else None))

    opened(make_authority(tmp_path).file)
    (tmp_path / "key.pem").write_text("no certificate")
    with pytest.raises(BadInput, match=f"{variable}: .* holds no certificate"):
        opened(tmp_path / "key.pem")
    with pytest.raises(BadInput, match=f"{variable}: .* can't be read"):
        opened(tmp_path / "absent.pem")


def test_the_settings_say_it_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = {
        "ENDPOINT": "https://ours",
        "REGION": "eu-west-1",
        "PATH_STYLE": "virtual",
        "CHECKSUMS": "when_supported",
        "CA": str(tmp_path / "ca.pem"),
        "PUBLIC_ENDPOINT": "https://shop",
    }
    for name, value in said.items():
        monkeypatch.setenv(f"FACE0_S3_{name}", value)
    expected = {name.lower(): value for name, value in said.items()} | {"ca": tmp_path / "ca.pem"}
    assert Settings().s3_options == S3Options(**expected)  # type: ignore[arg-type]
