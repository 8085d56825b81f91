"""Settings: file, then variables, then the command line; what is wrong is named with the place it stands in."""

from __future__ import annotations

from pathlib import Path

import pytest

from face0_worker.contract.errors import BadInput
from face0_worker.settings import NO_FILE, Settings, environment_with, explain, load_settings, unknown_variables


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACE0_HOME", str(tmp_path))
    return tmp_path


def wrong(**said: object) -> str:
    with pytest.raises(BadInput) as caught:
        load_settings(None, **said)
    return str(caught.value)


def test_the_file_is_weaker_than_a_variable_and_that_weaker_than_the_command_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().batch == 0
    (home / "face0.toml").write_text("batch = 2\nwindow = 3\nlease_s = 5\n")
    monkeypatch.setenv("FACE0_BATCH", "4")
    monkeypatch.setenv("FACE0_WINDOW", "5")
    settings = load_settings(batch="6")
    assert (settings.batch, settings.window, settings.lease_s) == (6, 5, 5.0)


def test_every_setting_says_where_it_comes_from_and_hides_passwords(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "face0.toml").write_text('broker_url = "redis://:secret@host/0"\n')
    monkeypatch.setenv("FACE0_LEDGER_URL", "postgresql://face0:secret@host/face0?password=secret")
    told = {one.name: one for one in explain(batch="2")}
    assert told["batch"].where == "--set batch"
    assert told["ledger_url"].where == "FACE0_LEDGER_URL"
    assert told["broker_url"].where == f"{home / 'face0.toml'}, broker_url"
    assert told["window"].where == "default"
    assert "secret" not in told["ledger_url"].value + told["broker_url"].value
    assert told["ledger_url"].value == "postgresql://face0:***@host/face0?password=***"
    assert set(told) == set(Settings.model_fields)


def test_a_variable_that_is_set_to_nothing_is_not_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACE0_MODEL", "")
    assert load_settings().model is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ledgr_url = 'postgresql://h/d'", "no setting 'ledgr_url' (did you mean ledger_url?)"),
        ("batch = many", "not TOML"),
        ("batch = 'many'", "face0.toml, batch"),
        ("device = 'gpu'", "expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_the_file(home: Path, text: str, says: str) -> None:
    (home / "face0.toml").write_text(text)
    said = wrong()
    assert says in said
    assert str(home / "face0.toml") in said


def test_a_file_that_is_not_text_or_a_folder_is_one_sentence(home: Path) -> None:
    (home / "face0.toml").write_bytes("batch = '束'".encode("cp932"))
    assert "not UTF-8" in wrong()
    (home / "face0.toml").unlink()
    (home / "face0.toml").mkdir()
    assert "can't be read" in wrong()
    with pytest.raises(BadInput, match="does not exist"):
        load_settings(home / "other.toml")


def test_a_byte_order_mark_does_no_harm(home: Path) -> None:
    (home / "face0.toml").write_bytes(b"\xef\xbb\xbfbatch = 2\n")
    assert load_settings().batch == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BROKER_URL", "amqp://user:hunter2@host"),
        ("LEDGER_URL", "mysql://user:hunter2@host/d"),
        ("S3_ENDPOINT", "hunter2:9000"),
        ("PRECISION", "int8-hunter2"),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_is_not_repeated(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FACE0_{name}", value)
    said = wrong()
    assert said.startswith(f"FACE0_{name}: expected ")
    assert "hunter2" not in said


def test_a_setting_of_the_command_line_that_does_not_exist_is_refused(home: Path) -> None:
    assert "did you mean batch?" in wrong(bach="2")


def test_a_variable_that_means_nothing_is_found() -> None:
    found = unknown_variables(
        {"FACE0_LEDGER": "x", "FACE0_BATCH": "2", "FACE0_SUBMIT_MODEL": "m", "OTHER": ""},
        frozenset({"FACE0_SUBMIT_MODEL"}),
    )
    assert list(found) == ["FACE0_LEDGER"]
    assert "FACE0_LEDGER_URL" in found["FACE0_LEDGER"]


def test_a_process_that_is_to_have_the_same_settings_has_them_whatever_files_and_variables_say(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "face0.toml").write_text('s3_ca = "/elsewhere.pem"\nstorage = "/elsewhere"\nbatch = 3\n')
    monkeypatch.setenv("FACE0_S3_ENDPOINT", "http://elsewhere")
    monkeypatch.setenv("FACE0_CONFIG", "/elsewhere.toml")
    (home / "other.toml").write_text('window = 5\nmodel = "~/m"\n')
    settings = load_settings(home / "other.toml", s3_endpoint="", lease_s="7")
    for name, value in environment_with(settings, {"PATH": "/bin", "FACE0_S3_ENDPOINT": "http://elsewhere"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FACE0_S3_ENDPOINT", raising=False)
    same = load_settings(NO_FILE)
    assert (same.window, same.lease_s, same.batch, same.s3_ca, same.s3_endpoint) == (5, 7.0, 0, None, "")
    assert (same.storage_url, same.home_dir) == (settings.storage_url, settings.home_dir)
    assert same.model == Path("~/m").expanduser()


def test_a_variable_that_an_argument_has_emptied_does_not_come_back(home: Path) -> None:
    told = environment_with(load_settings(s3_endpoint=""), {"FACE0_S3_ENDPOINT": "http://h", "FACE0_CACHE": "/c"})
    assert "FACE0_S3_ENDPOINT" not in told
    assert told["FACE0_CACHE"] == "/c"
    assert told["FACE0_HOME"] == str(home)


def test_the_masters_key_reaches_other_processes_and_no_listing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "c2VjcmV0IG1hc3RlciBrZXkgd2l0aCAzMiBieXRlcyEhISE="
    monkeypatch.setenv("FACE0_VAULT_MASTER", secret)
    settings = load_settings()
    assert settings.vault_secret == secret
    assert environment_with(settings, {})["FACE0_VAULT_MASTER"] == secret
    assert secret not in repr(settings)
    assert all(secret not in origin.value for origin in explain())
