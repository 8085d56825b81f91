"""The command line: quick, without torch, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import click
import pytest

from face0_worker.contract.errors import BadInput, ConsentRefused, LedgerDown, VerificationFailed
from producer import cli

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


def fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Add a command that raises."""

    @click.command()
    def fails_now() -> None:
        raise error

    module = types.ModuleType("face0_failing")
    module.fails_now = fails_now  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "face0_failing", module)
    monkeypatch.setitem(cli.COMMANDS, "fails", ("face0_failing:fails_now", ""))
