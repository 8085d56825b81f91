"""The key layout and the faults of the local folder; tests/integration has the promises that every storage keeps."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face0_worker.contract.errors import BadInput, StorageDown
from face0_worker.records.storage import (
    check_id,
    consent_prefixes,
    face_key,
    manifest_prefix,
    open_storage,
    picture_key,
    receipt_key,
)
from face0_worker.records.storage_local import LocalStorage

SHA = "ab" * 32
HOSTILE = ["", ".", "..", "../x", "a/b", "a\\b", "a b", "a\n", "-a", "_a", "a.b", "é", "田中", "a\0", "%2e", "a" * 129]


def test_keys_have_the_agreed_layout() -> None:
    assert picture_key("c1", "i1", SHA) == f"pictures/c1/i1/{SHA}.png"
    assert receipt_key("c1", "i1") == "receipts/c1/i1.json"
    assert face_key("c1", SHA) == f"faces/c1/{SHA}.enc"
    assert manifest_prefix("j1") == "jobs/j1/manifest/"


def test_every_key_of_a_person_lies_under_one_of_their_prefixes() -> None:
    prefixes = consent_prefixes("c1")
    for key in (picture_key("c1", "i1", SHA), receipt_key("c1", "i1"), face_key("c1", SHA)):
        assert key.startswith(prefixes)
        assert not key.startswith(consent_prefixes("c"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_never_becomes_part_of_a_key_or_of_the_message(text: str) -> None:
    uses: list[tuple[Callable[..., str], tuple[str, ...]]] = [
        (receipt_key, (text, "i1")),
        (receipt_key, ("c1", text)),
        (picture_key, ("c1", "i1", text)),
        (face_key, ("c1", text)),
        (manifest_prefix, (text,)),
    ]
    for make, ids in uses:
        with pytest.raises(BadInput) as refused:
            make(*ids)
        assert len(text) < 3 or text not in str(refused.value)


@given(st.text(max_size=20))
def test_an_accepted_id_is_one_plain_path_segment(text: str) -> None:
    try:
        check_id(text)
    except BadInput:
        return
    assert text == os.path.basename(text) == Path(text).name
    assert text.isascii()
    assert text not in ("", ".", "..")


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a/.b", "a\nb", "a/b.part-" + "0" * 16]
)
def test_a_key_outside_the_form_is_refused_by_every_operation(tmp_path: Path, key: str) -> None:
    storage = LocalStorage(tmp_path / "s")
    for use in (
        lambda: storage.put(key, b""),
        lambda: storage.get(key),
        lambda: storage.exists(key),
        lambda: storage.delete(key),
    ):
        with pytest.raises(BadInput):
            use()
    assert list(tmp_path.rglob("*")) == [tmp_path / "s"]


@pytest.mark.parametrize("prefix", ["", "/", "a", "pictures/c1", "../", "a/../", "a//"])
def test_a_prefix_that_could_reach_further_than_meant_is_not_erased(tmp_path: Path, prefix: str) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("pictures/c10/a", b"1")
    with pytest.raises(BadInput):
        storage.delete_prefix(prefix)
    assert list(storage.list()) == ["pictures/c10/a"]


@pytest.mark.parametrize(
    "url", ["", "storage", "~/storage", "s3://", "s3:///x", "s3://B_", "s3://bucket/../x", "s3://bucket/a b"]
)
def test_a_storage_url_that_is_neither_folder_nor_bucket_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput):
        open_storage(url)


def test_a_folder_is_opened_by_its_absolute_name_and_closed_to_others(tmp_path: Path) -> None:
    open_storage(str(tmp_path / "new" / "storage")).put("a/b", b"1")
    assert (tmp_path / "new" / "storage").stat().st_mode & 0o777 == 0o700


def test_a_folder_gives_no_links_and_says_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"links need S3 storage.*`face0 results pull`"):
        open_storage(str(tmp_path)).link("a/b", 60)


def test_erasing_takes_the_half_written_files_of_a_killed_writer_along(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("pictures/c1/i1/a.png", b"1")
    folder = tmp_path / "pictures" / "c1" / "i1"
    (folder / ("a.png.part-" + "0" * 16)).write_bytes(b"half")
    (folder / ("a.png.part-" + "1" * 16 + "#1")).write_bytes(b"less")
    assert list(storage.list()) == ["pictures/c1/i1/a.png"]
    assert storage.delete_prefix("pictures/c1/") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_write_killed_half_way_leaves_no_object_and_may_be_repeated(tmp_path: Path) -> None:
    # the process dies inside fsync: after the bytes are written, before they have their name
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from face0_worker.records.storage_local import LocalStorage\n"
        "os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)\n"
        "LocalStorage(Path(sys.argv[1])).put('a/b', b'x' * 1000)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, cwd=Path(__file__).parents[3])
    assert ended.returncode == -signal.SIGKILL
    storage = LocalStorage(tmp_path)
    assert list(tmp_path.rglob("b.part-*"))
    assert not storage.exists("a/b")
    assert list(storage.list()) == []
    assert storage.put("a/b", b"x" * 1000)


@contextmanager
def short_files() -> Iterator[None]:
    """Files of this process can't grow past 4 KiB: what a full disk does, on any machine and for any user.

    Not a fixture: pytest's own output may be a file, and it is written before a fixture ends.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_disk_without_room_is_storage_down_with_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "s")
    sentence = "can't write a/b: File too large; make room"
    with short_files(), pytest.raises(StorageDown, match=sentence) as down:
        storage.put("a/b", b"x" * 10_000)
    assert down.value.retryable
    assert list(storage.list()) == []
    assert list((tmp_path / "s").iterdir()) == []


def test_a_read_only_folder_is_storage_down_with_a_sentence() -> None:
    code = (
        "import datetime, os, sys; from pathlib import Path\n"  # a later import may be closed to the other user
        "from face0_worker.contract.errors import StorageDown\n"
        "from face0_worker.records.storage_local import LocalStorage\n"
        "storage = LocalStorage(Path(sys.argv[1]))\n"
        "os.getuid() or os.setuid(65534)\n"  # root may write everywhere
        "for name, *given in (('put', 'c/d', b'x'), ('delete', 'a/b'), ('delete_prefix', 'a/')):\n"
        "    try: getattr(storage, name)(*given)\n"
        "    except StorageDown as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: its parents are closed to other users
        storage = LocalStorage(Path(folder))
        storage.put("a/b", b"1")
        os.chmod(folder, 0o755)
        os.chmod(Path(folder) / "a", 0o555)
        if os.getuid():
            os.chmod(folder, 0o555)
        ran = subprocess.run(
            [sys.executable, "-c", code, folder],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
        )
        os.chmod(folder, 0o755)
        os.chmod(Path(folder) / "a", 0o755)
        lines = ran.stdout.splitlines()
        assert len(lines) == 3, ran
        assert all("Permission denied; make room or correct the folder" in line for line in lines)
        assert storage.get("a/b") == b"1"


def test_a_folder_that_is_a_file_is_storage_down(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(StorageDown, match="can't be opened"):
        LocalStorage(tmp_path / "s")
