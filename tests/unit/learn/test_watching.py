"""A training shows itself: a bar on a terminal, lines elsewhere, curves and samples in TensorBoard's files."""

from __future__ import annotations

import importlib.util
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from face0_worker.contract.errors import ModelMissing
from face0_worker.learn.watching import Lines, Watch, events_in, screen_on


def test_elsewhere_everything_is_a_plain_line() -> None:
    told: list[str] = []
    with screen_on(Console(file=StringIO(), force_terminal=False), told.append) as screen:
        screen.say("first")
        screen.at(1, 100)
        screen.told("step 1 of 100 loss 0.5")
    assert told == ["first", "step 1 of 100 loss 0.5"]


def test_on_a_terminal_there_is_a_bar_with_the_numbers_and_sentences_pass_above_it() -> None:
    out = StringIO()
    with screen_on(Console(file=out, force_terminal=True, width=100), pytest.fail) as screen:
        screen.say("wrote [x] at step 50")
        screen.at(50, 200)
        screen.told("step 50 of 200 loss 0.1234 rate 1.0e-04 9 s")
    shown = out.getvalue()
    assert "wrote [x] at step 50\n" in shown
    assert "50/200" in shown
    assert "loss 0.1234" in shown


def test_numbers_and_samples_are_events_that_tensorboard_reads(tmp_path: Path) -> None:
    events = events_in(tmp_path, None)
    told: list[str] = []
    watch = Watch(Lines(told.append), events)
    watch.told("step 50", 50, {"loss": 0.5, "gradient_norm": 2.0})
    watch.told("step 100", 100, {"loss": 0.25, "gradient_norm": 1.0})
    watch.picture(100, Image.new("RGB", (8, 4), (255, 0, 0)))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("train/loss")] == [(50, 0.5), (100, 0.25)]
    assert [one.value for one in read.Scalars("train/gradient_norm")] == [2.0, 1.0]
    (picture,) = read.Images("samples")
    assert (picture.width, picture.height, picture.step) == (8, 4, 100)
    assert told == ["step 50", "step 100"]


def test_events_are_left_out_where_nobody_can_or_will_see_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert events_in(tmp_path, False) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert events_in(tmp_path, None) is None
    with pytest.raises(ModelMissing, match=r"pip install 'face0\[learn\]'"):
        events_in(tmp_path, True)
    assert not list(tmp_path.iterdir())
