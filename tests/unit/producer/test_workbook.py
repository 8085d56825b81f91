"""Lists as Excel saves them: what a shop sees in a cell is what is read, and what can't be read is told by its cell."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook
from openpyxl.worksheet.worksheet import Worksheet

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import RenderItem
from producer.catalogue import ListOptions, read_items
from producer.lists import workbook


def book(*rows: Sequence[Any], title: str = "Autumn") -> tuple[Workbook, Worksheet]:
    made = Workbook()
    sheet = made.active
    assert isinstance(sheet, Worksheet)
    sheet.title = title
    for row in rows:
        sheet.append(list(row))
    return made, sheet


def saved(made: Workbook, folder: Path, name: str = "list.xlsx") -> Path:
    made.save(folder / name)
    return folder / name


def items(path: Path, template: str | None = None, sheet: str = "") -> tuple[RenderItem, ...]:
    return tuple(read_items(path, template, options=ListOptions(sheet=sheet)))


def refusal(path: Path, template: str | None = None, sheet: str = "") -> str:
    with pytest.raises(BadInput) as raised:
        items(path, template, sheet)
    return str(raised.value)


def with_cell(path: Path, old: str, new: str) -> Path:
    """Rewrite one cell of the first sheet as another program would."""
    with zipfile.ZipFile(path) as packed:
        parts = {part: packed.read(part) for part in packed.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    parts[sheet], count = re.subn(old.encode(), new.encode(), parts[sheet])
    assert count == 1
    with zipfile.ZipFile(path, "w") as packed:
        for part, data in parts.items():
            packed.writestr(part, data)
    return path


def test_a_workbook_gives_the_same_items_as_csv(tmp_path: Path) -> None:
    made, _ = book(
        ("ＳＫＵ", "prompt", "seed", "guidance"), ("A1", " 赤い ", 7, 5.5), (None,) * 4, ("B2", "blue", None, 4)
    )
    text = "sku,prompt,seed,guidance\nA1,赤い,7,5.5\nB2,blue,,4\n"
    (tmp_path / "list.csv").write_text(text, "utf-8")
    assert items(saved(made, tmp_path)) == items(tmp_path / "list.csv")


def test_problems_are_told_with_file_sheet_row_and_column(tmp_path: Path) -> None:
    made, _ = book(("sku", "prompt", "seed"), ("A1", "red", 1), (None,) * 3, ("B2", None, "x"))
    assert refusal(saved(made, tmp_path)).splitlines() == [
        "list.xlsx, sheet Autumn: 2 problems; nothing was enqueued",
        "  line 4, column prompt: is empty; expected what the picture shows",
        "  line 4, column seed: 'x' is not a whole number from 0 to 9223372036854775807",
    ]


def test_numbers_and_dates_are_read_as_the_cell_shows_them(tmp_path: Path) -> None:
    made, sheet = book(("sku", "jan", "price", "off", "from", "at", "new", "noise"))
    when = datetime.datetime(2027, 1, 15)
    sheet.append([123, 4901234567894, 1980.5, 0.15, when, when.replace(hour=9, minute=30), True, 0.1 + 0.2])
    sheet["A2"].number_format = "00000"
    sheet["D2"].number_format = "0%"
    path = with_cell(saved(made, tmp_path), "<v>0.3(0+4)?</v>", "<v>0.30000000000000004</v>")
    (item,) = items(path, "{jan}|{price}|{off}|{from}|{at}|{new}|{noise}")
    assert item.sku == "00123"
    assert item.prompt == "4901234567894|1980.5|15%|2027-01-15|2027-01-15 09:30|TRUE|0.3"


def test_a_number_that_excel_has_shortened_is_refused(tmp_path: Path) -> None:
    made, _ = book(("sku", "prompt"), (1234567890123456, "red"))
    assert "line 2, column sku: has more than 15 digits" in refusal(saved(made, tmp_path))


def test_a_sku_that_excel_has_made_a_date_of_is_refused(tmp_path: Path) -> None:
    made, _ = book(("prompt", "sku"), ("red", datetime.datetime(2027, 2, 1)), ("blue", datetime.time(4, 5)))
    said = refusal(saved(made, tmp_path))
    assert "line 2, column sku: Excel has made a date of it; format the column as text" in said
    assert "line 3, column sku: Excel has made a date of it" in said


def test_a_merged_cell_counts_for_all_its_places(tmp_path: Path) -> None:
    made, sheet = book(
        ("sku", "place", "garment"), ("A1", "beach", "coat"), ("A2", None, "shirt"), ("A3", "park", "hat")
    )
    sheet.merge_cells("B2:B3")
    found = items(saved(made, tmp_path), "{garment} {place}")
    assert [item.prompt for item in found] == ["coat beach", "shirt beach", "hat park"]


def test_a_title_above_the_columns_is_not_a_column(tmp_path: Path) -> None:
    made, sheet = book(("秋の新作",), (), ("sku", "prompt"), ("A1", "red"))
    sheet.merge_cells("A1:D1")
    assert [item.sku for item in items(saved(made, tmp_path))] == ["A1"]


def test_a_formula_counts_with_the_result_that_excel_saved(tmp_path: Path) -> None:
    made, sheet = book(("sku", "prompt"), ("A1", "red"))
    sheet["B2"] = '="red "&"coat"'
    path = saved(made, tmp_path)  # openpyxl saves no result, as programs that fill in templates do
    assert "line 2, column prompt: holds a formula whose result was never saved" in refusal(path)
    with_cell(path, '<c r="B2">(<f>.*?</f>)<v ?/?>(</v>)?</c>', r'<c r="B2" t="str">\1<v>red coat</v></c>')
    assert [item.prompt for item in items(path)] == ["red coat"]


def test_an_error_of_excel_is_told(tmp_path: Path) -> None:
    made, sheet = book(("sku", "prompt"), ("A1", "red"))
    sheet["B2"] = "#REF!"
    assert "line 2, column prompt: holds Excel's error #REF!" in refusal(saved(made, tmp_path))


def test_the_first_sheet_that_is_shown_is_read_or_the_one_that_is_named(tmp_path: Path) -> None:
    made, sheet = book(("sku", "prompt"), ("old", "red"), title="Old")
    sheet.sheet_state = "hidden"
    for title in ("Autumn", "冬"):
        made.create_sheet(title).append(["sku", "prompt"])
        made[title].append([title, "red"])
    made.active = 1
    path = saved(made, tmp_path)
    assert [item.sku for item in items(path)] == ["Autumn"]
    assert [item.sku for item in items(path, sheet="冬")] == ["冬"]
    assert "has no sheet 'Spring'; its sheets are Autumn, 冬" in refusal(path, sheet="Spring")
    (tmp_path / "list.csv").write_text("sku,prompt\n")
    assert "leave --sheet out" in refusal(tmp_path / "list.csv", sheet="冬")


def test_cells_beside_the_named_columns_are_told(tmp_path: Path) -> None:
    made, _ = book(("sku", "prompt"), ("A1", "red", None, "a note"))
    assert "line 2: has cells beyond the 2 columns that have names" in refusal(saved(made, tmp_path))


def test_a_wrong_dimension_leaves_no_row_out(tmp_path: Path) -> None:
    made, _ = book(("sku", "prompt"), ("A1", "red"), ("A2", "blue"))
    path = with_cell(saved(made, tmp_path), '<dimension ref="[^"]*"', '<dimension ref="A1"')
    assert [item.sku for item in items(path)] == ["A1", "A2"]


def test_a_workbook_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    made, sheet = book(("sku", "prompt"), ("A1", "red"))
    listed = read_items(saved(made, tmp_path))
    assert len(tuple(listed)) == 1
    sheet.append(["A2", "blue"])
    saved(made, tmp_path)
    with pytest.raises(BadInput, match=r"list\.xlsx was changed while it was being read"):
        tuple(listed)


def test_a_damaged_workbook_gets_one_sentence(tmp_path: Path) -> None:
    made, _ = book(("sku", "prompt"), ("A1", "red"))
    path = saved(made, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged, or no Excel workbook" in refusal(path)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("other.txt", "no sheet in here")
    assert "is damaged, or no Excel workbook" in refusal(path)
    path.write_bytes(whole)
    for name, part in (("xl/worksheets/sheet1.xml", "sheet"), ("xl/styles.xml", "styles")):
        with_part = tmp_path / f"{part}.xlsx"
        with zipfile.ZipFile(path) as packed, zipfile.ZipFile(with_part, "w") as broken:
            for one in packed.namelist():
                broken.writestr(one, b"<broken" if one == name else packed.read(one))
        assert "\n" not in refusal(with_part)


def test_a_small_file_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = book(("sku", "prompt"), ("A1", "red"))
    path = saved(made, tmp_path)
    monkeypatch.setattr(workbook, "_LARGEST", 1000)
    assert "unpacks to more than 1 GiB" in refusal(path)
