"""`face0 init`, `up`, `down`, `demo` and `doctor`: the machine itself."""

from __future__ import annotations

from pathlib import Path

import click

from producer import demo as demo_room
from producer import doctor as doctor_room
from producer import init as init_room
from producer import stack
from producer.commands.setting import any_path, settings_of
from producer.show import as_json_option, print_json, print_table, say


@click.command()
@click.pass_context
def init(ctx: click.Context) -> None:
    """Create config, keys, vault, storage folder, face pack and ledger tables. What exists is left as it is."""
    for step in init_room.init(settings_of(ctx)):
        say(f"{'made ' if step.made else 'found'}  {step.what}: {step.found}")
    say("Ready. Next: `face0 up` starts the services and a worker.")


@click.command()
@click.pass_context
def up(ctx: click.Context) -> None:
    """Start the embedded broker, the embedded ledger and one worker, and wait until the worker is ready.

    Parts that have a URL (FACE0_BROKER_URL, FACE0_LEDGER_URL) are used where they are and not started.
    """
    settings = settings_of(ctx)
    for step in init_room.init(settings):
        if step.made:
            say(f"made  {step.what}: {step.found}")
    stack.up(settings, say)
    say("Up. Next: `face0 consent grant`, then `face0 submit`; `face0 down` stops everything.")


@click.command()
@click.pass_context
def down(ctx: click.Context) -> None:
    """Stop the worker, the embedded ledger and the embedded broker. Nothing is lost: `face0 up` goes on."""
    stack.down(settings_of(ctx), say)


@click.command()
@click.option("--out", type=any_path, default=Path("out"), show_default=True, help="Folder for the results.")
@click.pass_context
def demo(ctx: click.Context, out: Path) -> int:
    """Render the sample list with a sample person who does not exist, verify every picture, and show where they are.

    Everything runs in a fresh folder with services of its own, which are stopped and removed at the end.
    """
    return demo_room.run_demo(out)


@click.command()
@as_json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Check keys, broker, ledger, storage, model, face pack and disk; exit code 4 when something is wrong."""
    checks = list(doctor_room.examine(settings_of(ctx)))
    if as_json:
        print_json({"ok": all(check.ok for check in checks), "checks": checks})
    else:
        print_table(("part", "", "found"), [(c.part, "ok" if c.ok else "problem", c.found) for c in checks])
        for check in checks:
            if not check.ok:
                say(f"{check.part}: {check.mend}")
    return 0 if all(check.ok for check in checks) else 4
