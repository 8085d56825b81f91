"""`face0 init`, `up`, `down`, `demo` and `doctor`: the machine itself."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from producer import demo as demo_room
from producer import doctor as doctor_room
from producer import init as init_room
from producer import stack
from producer.commands.setting import any_path, explained, settings_of, weak_store_option
from producer.show import as_json_option, print_json, print_table, quiet, say


@click.command()
@weak_store_option
@as_json_option
@click.pass_context
def init(ctx: click.Context, as_json: bool, allow_weak_store: bool | None) -> None:
    """Create config, keys, vault, storage folder, face pack and ledger tables. What exists is left as it is."""
    steps = []
    for step in init_room.init(settings_of(ctx, allow_weak_store=allow_weak_store)):
        steps.append(step)
        if not as_json:
            say(f"{'made ' if step.made else 'found'}  {step.what}: {step.found}")
    if as_json:
        print_json({"steps": steps})
    else:
        say("Ready. Next: `face0 up` starts the services and a worker.")


@click.command()
@weak_store_option
@as_json_option
@click.pass_context
def up(ctx: click.Context, as_json: bool, allow_weak_store: bool | None) -> None:
    """Start the embedded broker, the embedded ledger and one worker, and wait until the worker is ready.

    Parts that have a URL (FACE0_BROKER_URL, FACE0_LEDGER_URL) are used where they are and not started.
    """
    settings = settings_of(ctx, allow_weak_store=allow_weak_store)
    tell = quiet if as_json else say
    made = [step for step in init_room.init(settings) if step.made]
    for step in made:
        tell(f"made  {step.what}: {step.found}")
    offer = stack.up(settings, tell)
    if as_json:
        print_json({"made": made, "model": offer})
    else:
        say("Up. Next: `face0 consent grant`, then `face0 submit`; `face0 down` stops everything.")


@click.command()
@as_json_option
@click.pass_context
def down(ctx: click.Context, as_json: bool) -> None:
    """Stop the worker, the embedded ledger and the embedded broker. Nothing is lost: `face0 up` goes on."""
    stopped = stack.down(settings_of(ctx), quiet if as_json else say)
    if as_json:
        print_json({"stopped": stopped})


@click.command()
@click.option("--out", type=any_path, default=Path("out"), show_default=True, help="Folder for the results.")
@as_json_option
def demo(out: Path, as_json: bool) -> int:
    """Render the sample list with a sample person who does not exist, verify every picture, and show where they are.

    Everything runs in a fresh folder with services of its own, which are stopped and removed at the end.
    """
    if not as_json:
        return demo_room.run_demo(out)
    with contextlib.redirect_stdout(sys.stderr):
        code = demo_room.run_demo(out)
    say((out / "report.json").read_text(encoding="utf-8").strip())
    return code


@click.command()
@as_json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Check every part of the installation and say how to mend what is wrong; exit code 4 when something is."""
    checks = list(doctor_room.examine(settings_of(ctx), _variables_of_options(ctx)))
    if as_json:
        print_json({"ok": all(check.ok for check in checks), "checks": checks})
    else:
        print_table(("part", "", "found"), [(c.part, "ok" if c.ok else "problem", c.found) for c in checks])
        for check in checks:
            if not check.ok:
                say(f"{check.part}: {check.mend}")
    return 0 if all(check.ok for check in checks) else 4


def _variables_of_options(ctx: click.Context) -> frozenset[str]:
    """Return the variables that stand for the options of the commands, as FACE0_SUBMIT_MODEL for submit --model."""
    found = set()

    def walk(command: click.Command, within: click.Context) -> None:
        here = click.Context(command, parent=within, info_name=command.name)
        for option in command.params:
            if isinstance(option, click.Option) and option.allow_from_autoenv and option.name:
                found.add(f"{here.auto_envvar_prefix}_{option.name.upper()}")
        if isinstance(command, click.Group):
            for name in command.list_commands(here):
                one = command.get_command(here, name)
                if one is not None:
                    walk(one, here)

    root = ctx.find_root()
    if isinstance(root.command, click.Group):
        for name in root.command.list_commands(root):
            command = root.command.get_command(root, name)
            if command is not None:
                walk(command, root)
    return frozenset(found)


@click.command()
@as_json_option
@click.pass_context
def config(ctx: click.Context, as_json: bool) -> None:
    """Show every setting in force and where it was said: face0.toml, a FACE0_* variable or --set, the last strongest.

    Passwords in URLs are hidden.
    """
    settings = list(explained(ctx))
    if as_json:
        print_json(settings)
    else:
        print_table(
            ("setting", "value", "said by", "meaning"), [(s.name, s.value, s.where, s.meaning) for s in settings]
        )
