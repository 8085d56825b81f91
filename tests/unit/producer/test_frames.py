"""Frames: exact pixels by name, rendered at the nearest size that the model was made for."""

from __future__ import annotations

from pathlib import Path

import pytest

from face0_worker.contract.errors import BadInput
from face0_worker.contract.job import RenderItem
from producer.catalogue import ItemDefaults, ListOptions, read_items
from producer.lists.frames import PRESETS, Frame, render_size


def items(folder: Path, text: str, frames: str | None = None, native: int = 512) -> tuple[RenderItem, ...]:
    (folder / "list.csv").write_text(text, "utf-8")
    file = folder / "frames.yaml"
    if frames is not None:
        file.write_text(frames, "utf-8")
    options = ListOptions(frames=file if frames is not None else None)
    return tuple(read_items(folder / "list.csv", None, ItemDefaults(native, native), options))


def refusal(folder: Path, text: str, frames: str | None = None) -> str:
    with pytest.raises(BadInput) as raised:
        items(folder, text, frames)
    return str(raised.value)


@pytest.mark.parametrize(
    ("frame", "output"),
    [
        ("square", (1080, 1080)),
        ("portrait", (1080, 1350)),
        ("4:5", (1080, 1350)),
        ("９：１６", (1080, 1920)),
        ("story", (1080, 1920)),
        ("wide", (1920, 1080)),
        ("banner", (1200, 628)),
        ("thumbnail", (400, 400)),
    ],
)
def test_a_frame_says_the_exact_pixels(tmp_path: Path, frame: str, output: tuple[int, int]) -> None:
    (item,) = items(tmp_path, f"sku,prompt,frame\nA1,red,{frame}\n")
    assert (item.output_width, item.output_height) == output
    assert item.fit == "crop"


@pytest.mark.parametrize("native", [64, 256, 512, 768, 1024])
@pytest.mark.parametrize("frame", PRESETS.values(), ids=PRESETS)
def test_what_is_rendered_is_near_the_models_own_area_and_the_outputs_shape(native: int, frame: Frame) -> None:
    size = frame.width, frame.height
    width, height = render_size(*size, native, 2.0)
    assert render_size(*size, native, 1.0) == (native, native)
    assert render_size(*size, 200, 1.0) == (200, 200)  # also where its sides are no multiple of the steps
    assert width % 8 == height % 8 == 0
    assert native < 512 or width % 64 == height % 64 == 0
    assert 0.8 < width * height / native**2 < 1.25
    assert 0.87 < (width / height) / (size[0] / size[1]) < 1.15


def test_a_shape_beyond_what_the_model_was_trained_on_is_rendered_at_its_longest() -> None:
    for width, height in (render_size(728, 90, 512, 1.5), reversed(render_size(90, 728, 512, 1.5))):
        assert 1.3 < width / height <= 1.5


def test_a_model_says_how_long_its_pictures_may_be(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("sku,prompt,frame\nA1,red,story\n")
    for aspect, size in ((None, (1024, 1024)), (1.8, (768, 1344))):
        defaults = ItemDefaults.of_model({"size": 1024, "aspect": aspect, "item_form": 2})
        (item,) = read_items(tmp_path / "list.csv", None, defaults)
        assert (item.width, item.height) == size


def test_a_line_may_say_its_own_pixels_and_what_is_rendered(tmp_path: Path) -> None:
    text = 'sku,prompt,output_width,output_height,fit,width,height\nA1,red,1000,500,"pad #FFffff",512,256\n'
    (item,) = items(tmp_path, text)
    assert (item.output_width, item.output_height, item.fit) == (1000, 500, "pad #FFffff")
    assert (item.width, item.height) == (512, 256)


def test_a_file_of_frames_adds_to_the_built_in_ones_and_wins(tmp_path: Path) -> None:
    text = "sku,prompt,frame\nA1,red,mail\nA2,red,square\nA3,red,story\n"
    found = items(tmp_path, text, "mail: {width: 600, height: 300, fit: pad}\nsquare: {width: 500, height: 500}\n")
    assert [(one.output_width, one.output_height, one.fit) for one in found] == [
        (600, 300, "pad"),
        (500, 500, "crop"),
        (1080, 1920, "crop"),
    ]


def test_pictures_of_one_product_for_several_frames_are_told_apart_by_their_variant(tmp_path: Path) -> None:
    found = items(tmp_path, "sku,prompt,frame\nA1,red,square\nA1,red,story\nA1,red,\n")
    assert [item.variant for item in found] == ["square", "story", ""]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("frame,fit\nA1,red,tv,", "column frame: 'tv' is not known; expected one of square"),
        ("output_width,fit\nA1,red,500,", "column output_width: and output_height go together"),
        ("frame,fit\nA1,red,,pad", "column fit: says how a picture gets to its output size"),
        ("frame,fit\nA1,red,square,squeeze", "column fit: 'squeeze' is not known; expected crop, pad"),
        ("output_width,output_height\nA1,red,9000,90", "is not a whole number from 16 to 8192"),
    ],
)
def test_what_is_wrong_with_a_size_is_said(tmp_path: Path, row: str, expected: str) -> None:
    assert expected in refusal(tmp_path, f"sku,prompt,{row}\n")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("mail: 600x300", "frame mail: expected width, height and perhaps fit"),
        ("mail: {width: 600}", "frame mail: expected width, height and perhaps fit"),
        ("mail: {width: 600, height: 5}", "frame mail: width and height are whole pixels from 16 to 8192"),
        ("mail: {width: 600, height: 300, fit: squeeze}", "frame mail: fit is 'squeeze'"),
    ],
)
def test_what_is_wrong_with_a_file_of_frames_is_said(tmp_path: Path, said: str, expected: str) -> None:
    assert expected in refusal(tmp_path, "sku,prompt\nA1,red\n", said)


def test_a_worker_too_old_for_output_sizes_is_told_before_anything_is_enqueued(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("sku,prompt,frame\nA1,red,square\n")
    with pytest.raises(BadInput, match="too old to make output sizes"):
        tuple(read_items(tmp_path / "list.csv", None, ItemDefaults.of_model({"size": 512})))
    assert (
        len(tuple(read_items(tmp_path / "list.csv", None, ItemDefaults.of_model({"size": 512, "item_form": 2})))) == 1
    )
