"""How both programs end: every error is one sentence (or JSON where --json was asked), never a traceback."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from face0_worker.contract.errors import BadInput, Face0Error

INTERRUPTED = 130
EXIT_CODES = "Exit codes: 0 done, 1 some work failed, 2 wrong input, 3 refused (consent, policy), 4 a service is down."


Group = TypeVar("Group", bound=click.Group)


def setting_options(command: Group) -> Group:
    """Give a group the options that choose its settings: --config, --home and --set; kept in `ctx.obj`."""
    options = (
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            envvar="FACE0_CONFIG",
            help="Config file; default: face0.toml in the home folder.",
        ),
        click.Option(
            ["--home"],
            type=click.Path(path_type=Path),
            allow_from_autoenv=False,  # the settings read FACE0_HOME themselves
            help="Home folder; default: ~/.face0.",
        ),
        click.Option(
            ["--set", "settings"],
            multiple=True,
            metavar="NAME=VALUE",
            allow_from_autoenv=False,
            shell_complete=_setting_names,
            help="Set one setting for this call, stronger than its variable; `face0 config` lists them.",
        ),
    )
    command.params.extend(options)
    return command


def chosen_settings(config: Path | None, home: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """Return the arguments for `load_settings`. Raises: BadInput: a --set that is not NAME=VALUE."""
    chosen: dict[str, Any] = {"config": config, "home": home}
    for setting in settings:
        name, sign, value = setting.partition("=")
        name = name.strip().replace("-", "_").lower().removeprefix("face0_")
        if not sign or name == "config":
            raise BadInput(f"--set {setting.partition('=')[0]}: expected NAME=VALUE, as in --set batch=4")
        chosen[name] = value
    return chosen


def run_group(group: click.Group, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command of `group` and return its exit code (design.md, section 6)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # a SKU may be Japanese and the terminal may not
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    chosen: dict[str, Any] = {}
    try:
        code: Any = group.main(args=words, prog_name=program, standalone_mode=False, obj=chosen)
        return code if isinstance(code, int) else 0
    except Face0Error as error:
        if _interrupted(error):
            return _stopped(program, as_json)
        _complain(program, type(error).__name__, str(error), error.exit_code, as_json)
        return error.exit_code
    except click.ClickException as error:
        if as_json:
            _complain(program, "Usage", error.format_message(), 2, as_json)
        else:
            error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return _stopped(program, as_json)
    except SystemExit as ended:  # click's answer to a shell that completes a line
        return int(ended.code or 0)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone, as in `face0 status | head`
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person never sees a traceback
        if _interrupted(error):
            return _stopped(program, as_json)
        sentence = f"unexpected {type(error).__name__}; {_keep_traceback(error, chosen)}"
        _complain(program, type(error).__name__, sentence, 1, as_json)
        return 1


def _stopped(program: str, as_json: bool) -> int:
    _complain(program, "Stopped", "stopped", INTERRUPTED, as_json)
    return INTERRUPTED


def _interrupted(error: BaseException | None) -> bool:
    """Whether an interruption became this error on its way out: psycopg, interrupted, tidies up and fails at it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _complain(program: str, kind: str, sentence: str, code: int, as_json: bool) -> None:
    if as_json:
        about = {"error": {"type": kind, "sentence": sentence, "exit_code": code}}
        click.echo(json.dumps(about, ensure_ascii=False), err=True)
    else:
        click.echo(f"{program}: {sentence}", err=True)


def _keep_traceback(error: Exception, chosen: dict[str, Any]) -> str:
    """Write the traceback where only this user can read it, and say where."""
    from face0_worker.embedded import run_folder
    from face0_worker.settings import load_settings

    try:
        folder = run_folder(load_settings(**chosen).home_dir)
        file = folder / f"error-{datetime.now():%Y%m%d-%H%M%S}.txt"
        file.touch(mode=0o600)
        # frames only: the message and the values could be a person's
        frames = "".join(traceback.format_tb(error.__traceback__))
        file.write_text(f"{frames}{type(error).__name__}\n", encoding="utf-8")
    except (OSError, Face0Error):
        return "its traceback could not be written"
    return f"please report it with {file}"


def _setting_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from face0_worker.settings import Settings

    return [f"{name}=" for name in Settings.model_fields if name.startswith(incomplete)]
