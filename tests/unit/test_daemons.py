"""The tests' own servers end with the tests, however these end."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_a_killed_test_process_leaves_no_daemon(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; import psutil; from tests.daemons import Daemons\n"
        "Daemons(Path(sys.argv[1])).start('sleeper', ['sleep', '300'])\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "sys.stdin.readline()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        daemon = psutil.Process(int(process.stdout.readline()))
        pause = threading.Event()
        for _ in range(300):  # setpriv becomes the daemon
            if daemon.name() == "sleep":
                break
            pause.wait(0.1)
        assert daemon.name() == "sleep"
        process.communicate("now\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    gone, alive = psutil.wait_procs([daemon], timeout=120)
    # a container's first process may leave the dead unburied
    assert gone or alive[0].status() == psutil.STATUS_ZOMBIE
