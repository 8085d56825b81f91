"""Calibration: the smallest batch that is as good as the best, on a renderer whose cost is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from face0_worker.bench.calibrate import Trial, calibrate, choose
from face0_worker.calibrate_command import read_size
from face0_worker.calibration import calibration_file, keep, recall
from face0_worker.contract.errors import BadInput, OutOfMemory
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.contract.pace import Pace

ITEM = RenderItem("sku", "a red shirt", width=256, height=256, steps=20, guidance=Guidance(w=5.0))


class Device:
    """A renderer by a clock of its own: a call costs `call_s`, a picture `fixed_s`, an evaluation `row_s`."""

    def __init__(self, *, call_s: float, fixed_s: float, row_s: float, memory: int = 1000) -> None:
        self.now = 0.0
        self.seen: list[int] = []
        self._call_s, self._fixed_s, self._row_s, self._memory = call_s, fixed_s, row_s, memory

    def paint(self, items: Sequence[RenderItem]) -> None:
        if len(items) > self._memory:
            raise OutOfMemory("no memory")
        self.seen.append(len(items))
        steps = items[0].steps
        self.now += len(items) * (self._fixed_s + 2 * steps * self._row_s) + steps * self._call_s

    def pace(self, most: int = 64) -> Pace:
        return calibrate(self.paint, ITEM, most=most, rounds=3, say=lambda line: None, clock=lambda: self.now)


def test_a_device_that_gains_nothing_from_batches_gets_one_picture_at_a_time() -> None:
    device = Device(call_s=0.0, fixed_s=0.3, row_s=0.02)
    pace = device.pace()
    assert pace.batch == 1
    assert (pace.fixed_s, pace.row_s) == pytest.approx((0.3, 0.02))
    assert max(device.seen) == 4, "it went on although nothing was gained"


def test_a_device_that_gains_gets_the_smallest_batch_within_three_percent_of_the_best() -> None:
    # a call costs as much as four evaluations: 16 at a time lose an eighth to it, 32 a sixteenth, 64 a thirty-second
    assert Device(call_s=0.08, fixed_s=0.0, row_s=0.02).pace(most=64).batch == 32
    assert Device(call_s=0.01, fixed_s=0.0, row_s=0.02).pace(most=64).batch == 8


def test_what_does_not_fit_into_memory_is_not_chosen() -> None:
    said: list[str] = []
    device = Device(call_s=1.0, fixed_s=0.0, row_s=0.01, memory=10)
    pace = calibrate(device.paint, ITEM, most=64, rounds=1, say=said.append, clock=lambda: device.now)
    assert pace.batch == 8
    assert "16 does not fit" in said[-1]


def test_a_size_of_which_not_one_picture_fits_is_told() -> None:
    with pytest.raises(BadInput, match="not one picture of 256x256"):
        Device(call_s=0.0, fixed_s=0.0, row_s=0.1, memory=0).pace()


def test_the_choice_is_by_the_time_of_the_evaluations_that_are_asked_for() -> None:
    trials = [Trial(1, fixed_s=0.1, row_s=0.02), Trial(8, fixed_s=0.4, row_s=0.01)]
    assert choose(trials, rows=10).batch == 1
    assert choose(trials, rows=100).batch == 8


def test_what_was_measured_is_kept_size_by_size_for_this_device_only(tmp_path: Path) -> None:
    file = calibration_file(tmp_path, "a" * 64, "float32")
    first, second = Pace(256, 256, 8, 0.1, 0.01), Pace(512, 256, 2, 0.2, 0.04)
    keep(file, "a CPU", [first])
    keep(file, "a CPU", [second])
    keep(file, "a CPU", [again := Pace(256, 256, 4, 0.1, 0.02)])
    assert recall(file, "a CPU") == (again, second)
    assert recall(file, "another GPU") == ()
    keep(file, "another GPU", [first])
    assert recall(file, "another GPU") == (first,)


@pytest.mark.parametrize("broken", ["", "[]", "{", '{"device": "a CPU", "paces": 7}'])
def test_a_damaged_file_counts_as_not_measured(tmp_path: Path, broken: str) -> None:
    (file := tmp_path / "paces.json").write_text(broken)
    assert recall(file, "a CPU") == ()


@pytest.mark.parametrize("text", ["512", "512x", "axb", "512x512x3", "-1x5"])
def test_a_size_that_cannot_be_read_is_told_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="512x768"):
        read_size(text)


def test_sizes_are_read_with_any_cross() -> None:
    assert {read_size(text) for text in ("512x768", "512X768", "512\u00d7768")} == {(512, 768)}
