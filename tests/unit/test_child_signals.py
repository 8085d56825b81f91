"""A render child that is told to stop, however often, stops; one whose supervisor is dead ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

# signals come faster than a handler ends, so that handlers interrupt handlers
STORM = """
import signal, sys, time
from pathlib import Path
from unittest.mock import Mock
from face0_worker.child import Heartbeat
from face0_worker.tasks import RenderWorker

beating, worker, times = Heartbeat(Path(sys.argv[1])), RenderWorker(Mock(), Mock()), 0

def handler(*_):
    global times
    times += 1
    beating.stop()
    worker.stop()

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 5e-5, 5e-5)
while times < 20_000:
    time.sleep(0)
signal.setitimer(signal.ITIMER_REAL, 0)
print("stopped")
"""

# a supervisor that starts a child whose work never ends, and dies
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os._exit(0)
"""
CHILD = """
import signal, sys, time
from face0_worker.child import die_with_parent, end_orphan
signal.signal(signal.SIGTERM, lambda *_: None)
die_with_parent(int(sys.argv[1]))
end_orphan(int(sys.argv[1]), 0.2)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_signal_that_interrupts_the_handler_of_another_stops_no_child_from_stopping(tmp_path: Path) -> None:
    ran = _python(STORM, str(tmp_path / "beat"))
    assert ran.stdout == "stopped\n", ran.stderr


def test_a_child_that_does_not_end_with_its_supervisor_ends_after_the_grace() -> None:
    ran = _python(PARENT, CHILD)
    pid = int(ran.stdout)
    until = time.monotonic() + 30
    while _runs(pid):
        assert time.monotonic() < until, "the orphan goes on"
        time.sleep(0.05)


def _python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    except subprocess.TimeoutExpired:
        pytest.fail("it hangs")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
