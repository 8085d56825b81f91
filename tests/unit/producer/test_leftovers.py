"""The search for what is left of a person, where the disk changes under it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from producer import leftovers


def test_a_folder_that_went_away_holds_nothing_and_one_that_is_closed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(root: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        onerror(FileNotFoundError(2, "gone", str(root / "gone")))
        onerror(PermissionError(13, "closed", str(root / "closed")))
        yield from ()

    monkeypatch.setattr(os, "walk", walk)
    hunt = leftovers._Hunt([])
    leftovers._disk(tmp_path, hunt)
    assert hunt.unread == [str(tmp_path / "closed")]
