"""What runs a night by itself, as texts: read back by the parsers that will read them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from face0_worker.contract.errors import BadInput
from producer import cli
from producer.nights.schedule import files, next_time, schedule

COMMAND = ("/opt/python 3/bin/python", "-m", "producer.cli", "nightly", "run", '100%"$HOME\\', "it's.csv")
ONE = schedule("autumn", "1:05", COMMAND, Path("/srv/shop folder"))


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("tokyo")
@pytest.mark.parametrize(
    ("now", "then"),
    [
        ("2026-11-27T16:00", "2026-11-27T21:00"),  # one at night in Tokyo
        ("2026-11-27T20:59:59", "2026-11-27T21:00"),
        ("2026-11-27T21:00", "2026-11-28T21:00"),
    ],
)
def test_a_deadline_is_when_the_machines_clock_next_shows_it(now: str, then: str) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert next_time("06:00", at) == datetime.fromisoformat(then).replace(tzinfo=UTC)


@pytest.mark.usefixtures("berlin")
def test_a_night_on_which_the_clock_is_put_back_is_an_hour_longer() -> None:
    evening = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)  # 22:00 there
    assert next_time("06:00", evening) == datetime(2026, 10, 25, 5, 0, tzinfo=UTC)


@pytest.mark.parametrize("text", ["24:00", "6", "06:60", "6 Uhr", "", "06:00:00"])
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="time of day"):
        next_time(text, datetime.now(UTC))


def test_a_crontab_line_holds_the_very_words_of_the_command() -> None:
    (text,) = files("cron", ONE).values()
    comment, line = text.splitlines()
    assert comment.startswith("#")
    fields = line.split(" ", 5)
    assert fields[:5] == ["5", "1", "*", "*", "*"]
    # as cron does it: a % that no backslash protects ends the command
    assert "%" not in fields[5].replace(r"\%", "")
    change, _, command = fields[5].replace(r"\%", "%").partition(" && ")
    assert shlex.split(change) == ["cd", "/srv/shop folder"]
    assert tuple(shlex.split(command)) == COMMAND


def test_units_are_what_systemd_accepts(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    one = schedule("autumn", "01:05", (sys.executable, *COMMAND[1:]), tmp_path)
    for name, text in files("systemd", one).items():
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in files("systemd", one)]
    done = subprocess.run([verify, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    at = subprocess.run([verify, "calendar", "*-*-* 01:05:00"], capture_output=True, text=True, check=False)
    assert "OnCalendar" in files("systemd", one)["face0-nightly-autumn.timer"]
    assert at.returncode == 0


def test_a_unit_doubles_what_systemd_would_expand() -> None:
    service = files("systemd", ONE)["face0-nightly-autumn.service"]
    assert (
        'ExecStart="/opt/python 3/bin/python" -m producer.cli nightly run "100%%\\"$$HOME\\\\" "it\'s.csv"' in service
    )


def test_a_beat_entry_runs_the_command_at_its_time(tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = (sys.executable, "-c", f"open({str(said)!r}, 'w').write('ran'); raise SystemExit(3)")
    ((name, text),) = files("celery-beat", schedule("autumn", "23:30", command, tmp_path)).items()
    assert name == "face0_nightly_autumn.py"
    module: dict[str, Any] = {}
    exec(compile(text, name, "exec"), module)
    app = Celery("shop", set_as_current=False)
    app.conf.beat_schedule = {"other": {"task": "other", "schedule": 60}}
    module["install"](app)
    assert set(app.conf.beat_schedule) == {"other", "face0-nightly-autumn"}
    entry = app.conf.beat_schedule["face0-nightly-autumn"]
    assert (entry["schedule"].hour, entry["schedule"].minute) == ({23}, {30})
    assert app.tasks[entry["task"]].apply().get() == 3
    assert said.read_text() == "ran"


class TestInstall:
    """`face0 nightly install`, which needs no services."""

    @pytest.fixture(autouse=True)
    def at_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FACE0_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)

    def test_prints_a_line_that_a_shell_runs_and_writes_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--catalogue", "autumn", "--at", "01:00", "cron", "my list.csv", "--consent", "c1", "--until", "06:00"]
        assert cli.run(["nightly", "install", *words]) == 0
        out = capsys.readouterr().out
        (line,) = (line for line in out.splitlines() if line.startswith("0 1 * * *"))
        said = shlex.split(line.partition(" && ")[2])
        assert said[said.index("nightly") :] == [
            *("nightly", "run", "--catalogue", "autumn", "--consent", "c1", "--until", "06:00"),
            *("--", str(tmp_path / "my list.csv")),
        ]
        assert said[said.index("--home") + 1] == str(tmp_path / "home")
        help_ = subprocess.run([*said[: said.index("nightly")], "nightly", "run", "--help"], check=False)
        assert help_.returncode == 0
        assert list(tmp_path.iterdir()) == []

    def test_writes_units_where_systemd_looks_only_when_told_to(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["nightly", "install", "--catalogue", "autumn", "--at", "01:00", "systemd", "a.csv", "--consent", "c1"]
        assert cli.run(words) == 0
        assert list(tmp_path.iterdir()) == []
        assert cli.run([*words, "--write"]) == 0
        folder = tmp_path / ".config" / "systemd" / "user"
        assert {path.name for path in folder.iterdir()} == {
            "face0-nightly-autumn.service",
            "face0-nightly-autumn.timer",
        }
        assert "systemctl --user enable --now" not in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--at", "25:00", "a.csv", "--consent", "c1"], "time of day"),
            (["--at", "01:00", "a.csv"], "--consent ID or --people FILE"),
        ],
    )
    def test_says_what_is_missing(self, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["nightly", "install", "--catalogue", "autumn", *words]) == 2
        assert sentence in capsys.readouterr().err

    def test_warns_of_settings_that_only_this_shell_has(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("FACE0_BROKER_URL", "redis://somewhere")
        cli.run(["nightly", "install", "--catalogue", "autumn", "--at", "01:00", "a.csv", "--consent", "c1"])
        assert "FACE0_BROKER_URL will not be set" in capsys.readouterr().err
