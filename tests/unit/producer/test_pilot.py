"""What a pilot says of small samples: intervals, bars, and the sheet of marks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.errors import BadInput
from producer.pilot.measures import Bar, Judgement, Measure, exactly, mean_over_people, read_bars, share
from producer.pilot.report import read_marks


@given(st.integers(1, 500), st.data())
def test_a_share_lies_within_its_interval_which_lies_within_nought_and_one(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    found = share("acceptance", hits, n)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high, "a sample is never certain"


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    found = share("acceptance", 81, 263)  # Newcombe 1998, table I
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_a_bar_is_decided_only_when_the_whole_interval_is_on_one_side() -> None:
    bar = Bar("acceptance", 0.9)
    assert bar.judge(share("acceptance", 200, 200)) is Judgement.PASSED
    assert bar.judge(share("acceptance", 19, 20)) is Judgement.OPEN
    assert bar.judge(share("acceptance", 100, 200)) is Judgement.FAILED
    assert bar.judge(share("acceptance", 0, 0)) is Judgement.OPEN
    dear = Bar("cost", 0.02, least=False)
    assert dear.judge(exactly("cost", 0.01, 9)) is Judgement.PASSED
    assert dear.judge(exactly("cost", 0.02, 9)) is Judgement.PASSED
    assert dear.judge(exactly("cost", 0.03, 9)) is Judgement.FAILED


def test_the_interval_of_a_mean_is_over_people_not_over_pictures() -> None:
    alike = mean_over_people("identity", {"one": [0.2] * 50, "two": [0.8] * 50})
    assert alike.n == 100
    assert (alike.low, alike.value, alike.high) == pytest.approx((0.2, 0.5, 0.8)), "two people are two samples"
    assert mean_over_people("identity", {"one": []}) == Measure("identity", None, None, None, 0)


def test_bars_that_are_said_replace_the_usual_ones() -> None:
    bars = {bar.measure: bar for bar in read_bars(["acceptance=0.5", "cost=0.1", "rank-1=0.3"])}
    assert (bars["acceptance"].limit, bars["product"].limit) == (0.5, 0.9)
    assert not bars["cost"].least
    assert bars["rank_1"].least


@pytest.mark.parametrize("word", ["acceptance", "acceptance=", "acceptance=nan", "=1", "speed=1"])
def test_a_bar_that_cannot_be_meant_is_told(word: str) -> None:
    with pytest.raises(BadInput, match="--bar"):
        read_bars([word])


def test_marks_are_read_in_the_words_that_people_use(tmp_path: Path) -> None:
    (sheet := tmp_path / "marks.csv").write_text(
        "person,sku,file,likeness,product\na,1,one.png,○,1\na,2,two.png,no,\na,3,three.png,,はい\n",
        encoding="utf-8-sig",
    )
    assert read_marks(sheet) == {
        "one.png": {"likeness": True, "product": True},
        "two.png": {"likeness": False},
        "three.png": {"product": True},
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("person,sku,file,likeness,product\na,1,one.png,maybe,1\n", "line 2, column likeness: 'maybe'"),
        ("person,sku,likeness,product\na,1,1,1\n", "no column file"),
    ],
)
def test_a_damaged_sheet_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (sheet := tmp_path / "marks.csv").write_text(text)
    with pytest.raises(BadInput, match=says):
        read_marks(sheet)
