"""Whoever learns from people's pictures needs a right to, judges too."""

from __future__ import annotations

from pathlib import Path

import pytest

from face0_worker import cli


def test_judges_learn_only_from_data_with_a_stated_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("face0_worker.learn.truth.read_pictures", lambda folder: [])
    data, judges = tmp_path / "data", tmp_path / "judges"
    data.mkdir()
    with pytest.raises(SystemExit) as ended:
        cli.main(["--home", str(tmp_path), "evaluate", "--data", str(data), "--judges", str(judges), "--train-judges"])
    assert ended.value.code == 2
    assert "card.json" in capsys.readouterr().err
    assert not judges.exists()
