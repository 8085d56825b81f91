"""Every night by itself: a line for cron, two units for systemd, or an entry for Celery beat, as texts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from face0_worker.contract.errors import BadInput
from face0_worker.records.storage import check_id

KINDS = ("cron", "systemd", "celery-beat")
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
# words that need no quoting in a unit file; $ and % are doubled, the rest is quoted
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@+=:,./-]+")


@dataclass(frozen=True)
class Schedule:
    """A command that is run every day at a time of the machine's clock. `command` has absolute paths."""

    catalogue: str
    hour: int
    minute: int
    command: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """The name of units and entries."""
        return f"face0-nightly-{self.catalogue}"


def schedule(catalogue: str, at: str, command: Sequence[str], folder: Path) -> Schedule:
    """Return the schedule of a command for `at` ("01:00"), to be run in `folder`.

    Raises: BadInput: no time of day, or a word holds a line break.
    """
    hour, minute = clock_time(at)
    if any("\n" in word or "\r" in word for word in (*command, str(folder))):
        raise BadInput("a path or option holds a line break, which no schedule can hold")
    return Schedule(check_id(catalogue), hour, minute, tuple(command), folder)


def clock_time(text: str) -> tuple[int, int]:
    """Read a time of day, "06:00", as (hour, minute). Raises: BadInput."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise BadInput(f"{text!r} is not a time of day; expected hours and minutes from 00:00 to 23:59, as in 06:00")
    return int(found[1]), int(found[2])


def next_time(text: str, now: datetime) -> datetime:
    """Return when the clock next shows "06:00" after `now`, in the machine's time zone. Raises: BadInput."""
    hour, minute = clock_time(text)
    local = now.astimezone()
    # as a time on the wall, so that a night on which the clock is changed ends at the right moment
    on_the_wall = local.replace(hour=hour, minute=minute, second=0, microsecond=0, tzinfo=None)
    if on_the_wall.astimezone() <= local:
        on_the_wall += timedelta(days=1)
    return on_the_wall.astimezone()


def files(kind: str, one: Schedule) -> dict[str, str]:
    """Return what is to be installed, as texts by the names of their files."""
    if kind == "cron":
        return {f"{one.name}.cron": _cron(one)}
    if kind == "systemd":
        return {f"{one.name}.service": _service(one), f"{one.name}.timer": _timer(one)}
    return {f"{one.name.replace('-', '_')}.py": _beat(one)}


def next_step(kind: str, one: Schedule, folder: Path | None) -> str:
    """Return the sentence that says what to type next; `folder`: where the files were written, None: nowhere."""
    if kind == "cron":
        load = "add it with `crontab -e`"
        if folder is not None:
            path = shlex.quote(str(folder / f"{one.name}.cron"))
            load = f"add it with `(crontab -l; cat {path}) | crontab -`"
        return f"Next: {load}; its times are the machine's clock."
    if kind == "systemd":
        if folder is None:
            return "Next: the same command with --write puts both files into ~/.config/systemd/user."
        return (
            f"Next: `systemctl --user daemon-reload && systemctl --user enable --now {one.name}.timer`; so that it "
            "runs while you are not logged in, `loginctl enable-linger`."
        )
    module = one.name.replace("-", "_")
    return (
        f"Next: put {module}.py where your Celery app finds it, call `{module}.install(app)` where the app is made, "
        "and run `celery beat` and a worker of yours as ever (not face0's: they only render)."
    )


def _cron(one: Schedule) -> str:
    # in a crontab % is a line break unless a backslash is before it
    line = f"cd {shlex.quote(str(one.folder))} && {shlex.join(one.command)}".replace("%", r"\%")
    return f"# face0: catalogue {one.catalogue}, every night\n{one.minute} {one.hour} * * * {line}\n"


def _service(one: Schedule) -> str:
    return f"""[Unit]
Description=face0: render what changed of catalogue {one.catalogue}
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory={_escaped(str(one.folder))}
ExecStart={" ".join(map(_unit_word, one.command))}
# a night that was cut short goes on; one that ended with a refusal or failed items has said so
Restart=on-failure
RestartPreventExitStatus=1 2 3
RestartSec=60
"""


def _timer(one: Schedule) -> str:
    return f"""[Unit]
Description=face0: catalogue {one.catalogue} every night

[Timer]
OnCalendar=*-*-* {one.hour:02}:{one.minute:02}:00
# a machine that was off at that time runs it when it is on again
Persistent=true

[Install]
WantedBy=timers.target
"""


def _unit_word(word: str) -> str:
    """Return one word of a unit's command line (systemd.service(5), "Command lines")."""
    quoted = word.replace("\\", "\\\\").replace('"', '\\"')
    quoted = _escaped(quoted).replace("$", "$$")
    return quoted if _PLAIN_WORD.fullmatch(quoted) else f'"{quoted}"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _beat(one: Schedule) -> str:
    command = "".join(f"    {word!r},\n" for word in one.command)
    return f'''"""Celery beat: face0's catalogue {one.catalogue}, every night, by the command that one would type."""

import subprocess

from celery import Celery
from celery.schedules import crontab

TASK = {one.name!r}
FOLDER = {str(one.folder)!r}
COMMAND = [
{command}]


def run() -> int:
    """Run the night; return face0's exit code (0: all done). What it says goes to the worker's log."""
    return subprocess.run(COMMAND, cwd=FOLDER, check=False).returncode


def install(app: Celery) -> None:
    """Add the task and its beat entry to a Celery app. The time is that of the app's `timezone`."""
    # on receipt, and no second time: a night that was cut short goes on with the next one, or when it is typed
    app.task(run, name=TASK, acks_late=False, ignore_result=True)
    entry = {{"task": TASK, "schedule": crontab(hour={one.hour}, minute={one.minute})}}
    app.conf.beat_schedule = {{**(app.conf.beat_schedule or {{}}), TASK: entry}}
'''
