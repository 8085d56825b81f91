"""A shelf keeps what is whole on it, whatever happens to whoever writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from face0_worker.contract.errors import BadInput
from face0_worker.learn.shelf import Shelf

DIGESTS = [character * 64 for character in "abcd"]


def _arrays(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None].expand(-1, 2, 3)


def test_arrays_are_found_by_their_digests_in_whatever_order_and_by_another_process(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, (2, 3))
    shelf.put(DIGESTS[:2], _arrays(1, 2))
    shelf.put(DIGESTS[2:3], _arrays(3))
    for one in (shelf, Shelf(tmp_path, (2, 3))):
        assert [digest in one for digest in DIGESTS] == [True, True, True, False]
        assert one.tensor()[one.rows([DIGESTS[2], DIGESTS[0]])][:, 0, 0].tolist() == [3, 1]


@pytest.mark.parametrize("lost", ["digest", "half a digest", "value"])
def test_what_was_half_written_is_forgotten_and_written_again(tmp_path: Path, lost: str) -> None:
    shelf = Shelf(tmp_path, (2, 3))
    shelf.put(DIGESTS[:2], _arrays(1, 2))
    file, kept = {
        "digest": ("digests.txt", 65),
        "half a digest": ("digests.txt", 65 + 30),
        "value": ("values.bin", 12 + 5),
    }[lost]
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:kept])
    again = Shelf(tmp_path, (2, 3))
    assert [digest in again for digest in DIGESTS[:2]] == [True, False]
    again.put(DIGESTS[2:3], _arrays(7))
    assert again.tensor()[again.rows([DIGESTS[0], DIGESTS[2]])][:, 1, 2].tolist() == [1, 7]
    assert (tmp_path / "values.bin").stat().st_size == 24


def test_a_shelf_of_another_shape_is_refused(tmp_path: Path) -> None:
    Shelf(tmp_path, (2, 3))
    with pytest.raises(BadInput, match=r"holds arrays of \[2, 3\], not \[3, 3\]"):
        Shelf(tmp_path, (3, 3))
