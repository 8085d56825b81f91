"""The encodings that lists come in, one clear sentence for every other, and a file that changes while it is read."""

from __future__ import annotations

import codecs
import os
import tracemalloc
from pathlib import Path

import pytest

from face0_worker.contract.errors import BadInput
from producer.catalogue import read_items
from producer.lists import list_file

JAPANESE = "sku,prompt\n赤いセーター,タートルネック①\nＢ２,ｾｰﾀｰ\n"


def write(folder: Path, data: bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as raised:
        tuple(read_items(path))
    said = str(raised.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (b"", "cp932"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_japanese_is_read_in_every_encoding_that_shops_use(
    tmp_path: Path, mark: bytes, encoding: str, separator: str, end: str
) -> None:
    text = JAPANESE.replace(",", separator).replace("\n", end)
    items = tuple(read_items(write(tmp_path, mark + text.encode(encoding))))
    assert [(item.sku, item.prompt) for item in items] == [("赤いセーター", "タートルネック①"), ("Ｂ２", "ｾｰﾀｰ")]


@pytest.mark.parametrize("encoding", ["utf-8", "cp932", "utf-16"])
def test_a_sign_that_two_reads_cut_in_half_is_read_whole(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_file, "_CHUNK", 1000)
    for shift in range(4):
        text = "sku,prompt\n" + "x" * shift + "\n".join(f"{n},赤い靴{n}" for n in range(1000))
        prompts = [item.prompt for item in read_items(write(tmp_path, text.encode(encoding)))]
        assert prompts == [f"赤い靴{n}" for n in range(1000)]


@pytest.mark.parametrize("line", [2, 3, 150_000])
def test_bytes_in_no_known_encoding_name_their_line(tmp_path: Path, line: int) -> None:
    rows = [b"sku,prompt", *(b"%d,red" % n for n in range(2, line)), b"B2,\xff\xfe\x81", b"C3,blue"]
    said = refusal(write(tmp_path, b"\n".join(rows)))
    assert said == (f"list.csv, line {line}: neither UTF-8 nor Shift_JIS; save the list as CSV UTF-8 and submit that")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (codecs.BOM_UTF8 + b"sku,prompt\nA1,\xff\n", "line 2: is not UTF-8, as its first bytes say"),
        (codecs.BOM_UTF16_LE + "sku,prompt\nA1,red\n".encode("utf-16-le")[:-1], "line 2: is not UTF-16"),
        (codecs.BOM_UTF16_LE + b"s\0\n\0\x00\xd8s\0", "line 2: is not UTF-16"),
        (codecs.BOM_UTF32_LE + "sku,prompt".encode("utf-32-le"), "is UTF-32"),
        ("sku,prompt\n".encode("utf-16-le"), "looks like UTF-16 without the mark"),
        ("sku,prompt\n".encode("utf-16-be"), "looks like UTF-16 without the mark"),
        (JAPANESE.replace("ｾ", "セ").encode("euc_jp", "ignore"), "may be EUC-JP"),
        ("sku,prompt\n1,红色 裙子\n".encode("gbk"), "may be EUC-JP"),
        ("sku,prompt\n1,crème dress\n2,pâle dress\n".encode("cp1252"), "line 2: neither UTF-8 nor Shift_JIS"),
        ("sku,prompt\n1,men’s coat\n".encode("cp1252"), "line 2: neither UTF-8 nor Shift_JIS"),
        ("sku,prompt\n1,Straße\n2,Fußball\n".encode("cp1252"), "line 2: neither UTF-8 nor Shift_JIS"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "neither UTF-8 nor Shift_JIS"),
        (b"PK\x03\x04" + bytes(100), "is an Excel workbook by its bytes; rename it to end in .xlsx"),
        (b"\xd0\xcf\x11\xe0" + bytes(100), "is an Excel workbook"),
        (b"", "holds no products"),
        (codecs.BOM_UTF8, "holds no products"),
        (codecs.BOM_UTF16_BE, "holds no products"),
        (codecs.BOM_UTF16_LE + "sku\tprompt\r\n".encode("utf-16-le"), "holds no products"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_a_list_gets_one_sentence(tmp_path: Path, data: bytes, expected: str) -> None:
    said = refusal(write(tmp_path, data))
    assert expected in said
    assert said.startswith("list.csv")
    assert len(said) < 200


def test_a_workbook_that_is_none_is_told_what_it_is(tmp_path: Path) -> None:
    assert "list.xlsx is damaged, or no Excel workbook" in refusal(write(tmp_path, b"PK\x03\x04", "list.xlsx"))
    assert "list.xlsx is no Excel workbook by its bytes" in refusal(write(tmp_path, b"sku,prompt", "list.xlsx"))
    assert "of the old kind, or has a password" in refusal(write(tmp_path, b"\xd0\xcf\x11\xe0", "list.xlsx"))
    assert "of the old kind, or has a password" in refusal(write(tmp_path, b"\xd0\xcf\x11\xe0", "list.xls"))
    assert "rename it to end in .csv" in refusal(write(tmp_path, b"sku,prompt", "list.xls"))


@pytest.mark.parametrize("text", ["A1,灰白\n", "A1,ｼｬﾂ\n", "A1,赤、白\n", "Ａ1,red\n"])
def test_a_little_japanese_is_enough_to_know_shift_jis(tmp_path: Path, text: str) -> None:
    (item,) = read_items(write(tmp_path, f"sku,prompt\n{text}".encode("cp932")))
    assert f"{item.sku},{item.prompt}\n" == text


def test_a_large_list_is_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_file, "_CHUNK", 32_768)
    lines = "".join(f"{n},a person wearing a red turtleneck\n" for n in range(20_000))
    for encoding in ("utf-8", "utf-16"):
        path = write(tmp_path, f"sku,prompt\n{lines}".encode(encoding))
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_items(path)) == 20_000
            # a few reads and their text; the file is 0.8 or 1.6 MB, its items are some 20 MB
            assert tracemalloc.get_traced_memory()[1] < 500_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("change", ["appended", "other word, same length and time", "shorter", "no UTF-8 any more"])
def test_a_list_that_changes_between_two_readings_is_refused(tmp_path: Path, change: str) -> None:
    path = write(tmp_path, b"sku,prompt\nA1,red\nB2,tan\n")
    items = read_items(path)
    assert len(tuple(items)) == 2
    before = path.stat()
    path.write_bytes(
        {
            "appended": b"sku,prompt\nA1,red\nB2,tan\nC3,blue\n",
            "other word, same length and time": b"sku,prompt\nA1,red\nB2,sky\n",
            "shorter": b"sku,prompt\nA1,red\n",
            "no UTF-8 any more": b"sku,prompt\nA1,red\nB2,\xff\xff\xff\n",
        }[change]
    )
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BadInput, match=r"list\.csv was changed while it was being read; nothing was enqueued"):
        tuple(items)


def test_a_list_that_is_replaced_or_removed_meanwhile_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, b"sku,prompt\nA1,red\nB2,tan\n")
    items = read_items(path)
    write(tmp_path, b"sku,prompt\nA1,red\n", "new.csv").replace(path)
    with pytest.raises(BadInput, match="was changed"):
        tuple(items)
    path.unlink()
    with pytest.raises(BadInput, match="can't be read"):
        tuple(items)
