"""What a supervisor tells the ledger of a child that has ended, and in which order."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from face0_worker.outages import Outages
from face0_worker.records import attempts, jobs
from face0_worker.supervisor import Child, Round, Supervisor, Watch


def _telling(told: list[str], name: str) -> Callable[..., int]:
    def call(*words: object, **said: object) -> int:
        told.append(name)
        return 1

    return call


@pytest.mark.parametrize("crashed", [True, False])
def test_a_model_is_offered_no_more_before_its_items_wait_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crashed: bool
) -> None:
    told: list[str] = []
    for room, name in ((jobs, "withdraw_offers"), (attempts, "release"), (attempts, "hand_back")):
        monkeypatch.setattr(room, name, _telling(told, name))
    monkeypatch.setattr(subprocess, "Popen", Mock())
    watch = Watch(tmp_path, {}, crash_limit=3, hang_s=60.0, poll_s=0.1, grace_s=0.0)
    one = Supervisor(Mock(), watch, Round, Outages())
    one._bury(Child(tmp_path, {}), crashed=crashed)
    assert told == ["withdraw_offers", "release" if crashed else "hand_back"]
    assert list(tmp_path.iterdir()) == []  # nothing of it is left
