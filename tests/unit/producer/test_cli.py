"""The command line: quick, without torch, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest

from face0_worker.contract.errors import BadInput, ConsentRefused, LedgerDown, VerificationFailed
from producer import cli
from producer.show import as_json_option

_IMPORTS = """
import sys
import producer.cli
for where, _ in producer.cli.COMMANDS.values():
    __import__(where.split(":")[0])
print(sorted(name for name in sys.modules if name.split(".")[0] in {forbidden}))
"""
_HELP = """
import sys
import producer.cli
code = producer.cli.run(["--help"])
print(sorted(name for name in sys.modules if name.split(".")[0] in {forbidden}), file=sys.stderr)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_every_command_imports_without_torch_and_without_loading_faces() -> None:
    forbidden = {"torch", "diffusers", "transformers", "insightface", "onnxruntime", "onnx", "cv2", "matplotlib"}
    assert python(_IMPORTS.format(forbidden=forbidden)).stdout.strip() == "[]"


def test_help_imports_nothing_slow() -> None:
    forbidden = {"torch", "sqlalchemy", "redis", "boto3", "numpy", "PIL", "rich", "jinja2", "pydantic"}
    done = python(_HELP.format(forbidden=forbidden))
    assert done.stderr.strip() == "[]"
    assert "Commands:" in done.stdout


def test_every_listed_command_exists_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.COMMANDS:
        assert cli.run([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith("Usage:")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VerificationFailed("one sentence"), 1),
        (BadInput("one sentence"), 2),
        (ConsentRefused("one sentence", "expired"), 3),
        (LedgerDown("one sentence"), 4),
    ],
)
def test_an_error_is_one_sentence_on_stderr_and_its_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, error)
    assert cli.run(["fails"]) == code
    assert capsys.readouterr() == ("", "face0: one sentence\n")


def test_a_defect_is_one_line_and_its_traceback_lies_in_the_home_folder_without_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, RuntimeError("Taro Yamada"))
    assert cli.run(["--home", str(tmp_path), "fails"]) == 1
    out, err = capsys.readouterr()
    (file,) = (tmp_path / "run").glob("error-*.txt")
    assert out == ""
    assert err.splitlines() == [f"face0: unexpected RuntimeError; please report it with {file}"]
    assert "in fails_now" in file.read_text()
    assert "Yamada" not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["submit"]) == 2
    assert cli.run(["nonsense"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FACE0_BATCH", "many")
    assert cli.run(["status"]) == 2
    assert "FACE0_BATCH" in capsys.readouterr().err


def test_without_services_every_command_says_what_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["status"],
        ["consent", "list"],
        ["watch", "j"],
        ["results", "pull", "j", "--to", "d"],
    ):
        assert cli.run(["--home", str(tmp_path), *command]) == 4
        assert "face0 up" in capsys.readouterr().err


def test_with_json_an_error_is_json_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, ConsentRefused("one sentence", "expired"), takes_json=True)
    assert cli.run(["fails", "--json"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {"error": {"type": "ConsentRefused", "sentence": "one sentence", "exit_code": 3}}
    assert cli.run(["status", "--json", "--nonsense"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 2


def test_every_command_that_says_something_about_the_work_speaks_json() -> None:
    # they print shell code or the log itself, or write a page
    silent = {"completion", "gallery", "audit export"}

    def walk(command: click.Command, path: str = "") -> list[str]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            inner = {name: command.get_command(context, name) for name in command.list_commands(context)}
            return [said for name, one in inner.items() if one is not None for said in walk(one, f"{path} {name}")]
        return [] if any(option.name == "as_json" for option in command.params) else [path.strip()]

    assert set(walk(cli.cli)) == silent


def test_a_setting_can_be_given_for_one_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--home", str(tmp_path), "--set", "lease-s=7", "config", "--json"]) == 0
    said = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert (said["lease_s"]["value"], said["lease_s"]["where"]) == ("7.0", "--set lease_s")
    for setting in ("lease_s", "leese_s=7", "lease_s=x"):
        assert cli.run(["--home", str(tmp_path), "--set", setting, "config"]) == 2
        assert setting.partition("=")[0] in capsys.readouterr().err


def test_a_shell_completes_commands_and_options_without_a_ledger(tmp_path: Path) -> None:
    def completes(line: str) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "FACE0_HOME": str(tmp_path),
            "_FACE0_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        command = [sys.executable, "-m", "producer.cli"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""  # it would be written into the line that somebody is typing
        return done.stdout

    assert completes("face0 sub") == "plain,submit\n"
    assert "plain,--consent" in completes("face0 submit --co")
    assert completes("face0 watch j").strip() == ""
    assert "plain,lease_s=" in completes("face0 --set le")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("program", ["face0", "face0-worker"])
def test_the_completion_for_a_shell_is_printed(shell: str, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["completion", shell, "--program", program]) == 0
    assert f"_{program.replace('-', '_').upper()}_COMPLETE={shell}_complete" in capsys.readouterr().out


def fails(monkeypatch: pytest.MonkeyPatch, error: Exception, *, takes_json: bool = False) -> None:
    """Add a command that raises."""

    def fails_now(as_json: bool = False) -> None:
        raise error

    command = click.command()(as_json_option(fails_now) if takes_json else fails_now)
    module = types.ModuleType("face0_failing")
    module.fails_now = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "face0_failing", module)
    monkeypatch.setitem(cli.COMMANDS, "fails", ("face0_failing:fails_now", ""))


@pytest.mark.parametrize("error", [RuntimeError("the transaction is open"), LedgerDown("the ledger does not answer")])
def test_an_interruption_that_became_an_error_on_its_way_out_is_still_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    try:
        try:
            raise KeyboardInterrupt
        finally:
            raise error
    except type(error):
        pass
    fails(monkeypatch, error)
    assert cli.run(["fails"]) == 130
    assert "stopped" in capsys.readouterr().err
