"""Packs by folder: insightface's own layouts, nested or not, with and without a manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from skimage import data

from face0_worker.contract.errors import ModelMissing
from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import FacePack, digest_folder, load_pack

# detector and recogniser as insightface names them, and the models of a pack that are not needed here
LAYOUTS = {
    "buffalo_l": ("det_10g.onnx", "w600k_r50.onnx", ("1k3d68.onnx", "2d106det.onnx", "genderage.onnx")),
    "antelopev2": ("scrfd_10g_bnkps.onnx", "glintr100.onnx", ("1k3d68.onnx", "2d106det.onnx", "genderage.onnx")),
}


def recogniser(path: Path, dimension: int) -> None:
    """Write a recogniser of ArcFace's shape, (n, 3, 112, 112) -> (n, dimension), with weights by chance."""
    weights = np.random.default_rng(0).standard_normal((3 * 7 * 7, dimension)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["small"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["683"]),
    ]
    graph = helper.make_graph(
        nodes,
        "arcface",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["None", 3, 112, 112])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, dimension])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_pack(folder: Path, layout: str, pack: FacePack, dimension: int = 512) -> Path:
    """Write a pack in one of insightface's layouts; its detector is face0_lite's."""
    detector, recognition, others = LAYOUTS[layout]
    folder.mkdir(parents=True)
    shutil.copy(pack.folder / "det_centerface.onnx", folder / detector)
    recogniser(folder / recognition, dimension)
    for name in others:
        shutil.copy(folder / recognition, folder / name)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("nested", [False, True])
def test_insightfaces_own_layouts_load_by_folder(tmp_path: Path, pack: FacePack, layout: str, nested: bool) -> None:
    # their zips unzip into a folder of the same name inside
    write_pack(tmp_path / layout / layout if nested else tmp_path / layout, layout, pack)
    loaded = load_pack(tmp_path / layout)
    assert (loaded.name, loaded.dimension) == (layout, 512)
    assert "non-commercial" in loaded.licence
    assert loaded.digest == digest_folder(loaded.folder)
    (face,) = Embedder.open(loaded).find(Image.fromarray(data.astronaut()))
    assert face.embedding.shape == (512,)


def test_a_pack_one_folder_too_deep_is_found_under_any_name_and_two_are_not_guessed(
    tmp_path: Path, pack: FacePack
) -> None:
    write_pack(tmp_path / "mine" / "antelopev2", "antelopev2", pack)
    assert load_pack(tmp_path / "mine").name == "antelopev2"
    write_pack(tmp_path / "mine" / "buffalo_l", "buffalo_l", pack)
    with pytest.raises(ModelMissing, match="no ONNX file"):
        load_pack(tmp_path / "mine")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{not json", "makes no sense"),
        ("[]", "makes no sense"),
        ('{"dimension": "many"}', "makes no sense"),
        ('{"dimension": null}', "makes no sense"),
        ('{"files": ["det.onnx"]}', "makes no sense"),
        ('{"mean": "zero"}', "makes no sense"),
        ('{"mean": [0.5, 0.5]}', r"shape \(2,\), 512 finite numbers"),
        (f'{{"mean": {[float("nan")] * 512}}}'.replace("nan", "NaN"), "512 finite numbers"),
        ('{"files": {"w600k_r50.onnx": "0000"}}', r"damaged \(w600k_r50.onnx\)"),
        ('{"files": {"gone.onnx": "0000"}}', r"damaged \(gone.onnx\)"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_one_sentence(
    tmp_path: Path, pack: FacePack, written: str, said: str
) -> None:
    folder = write_pack(tmp_path / "p", "buffalo_l", pack)
    (folder / "pack.json").write_text(written)
    with pytest.raises(ModelMissing, match=said):
        load_pack(folder)


def test_a_manifest_tells_licence_dimension_and_mean(tmp_path: Path, pack: FacePack) -> None:
    folder = write_pack(tmp_path / "ours", "buffalo_l", pack, dimension=64)
    about = {"name": "ours", "licence": "ours alone", "dimension": 64, "mean": [0.5] * 64}
    (folder / "pack.json").write_text(json.dumps(about))
    loaded = load_pack(folder)
    assert (loaded.name, loaded.licence, loaded.dimension, loaded.mean.tolist()) == (
        "ours",
        "ours alone",
        64,
        [0.5] * 64,
    )
    assert Embedder.open(loaded).pack is loaded


def test_a_recogniser_that_does_not_fit_the_manifest_is_refused_with_both_numbers(
    tmp_path: Path, pack: FacePack
) -> None:
    folder = write_pack(tmp_path / "p", "buffalo_l", pack, dimension=64)
    with pytest.raises(ModelMissing, match="gives 64 numbers a face, its manifest says 512"):
        Embedder.open(load_pack(folder))


def test_another_pack_is_another_digest(tmp_path: Path, pack: FacePack) -> None:
    one = load_pack(write_pack(tmp_path / "one", "buffalo_l", pack))
    other = load_pack(write_pack(tmp_path / "two", "buffalo_l", pack, dimension=256))
    assert one.digest != other.digest
    moved = shutil.copytree(one.folder, tmp_path / "moved")
    assert load_pack(moved).digest == one.digest


@pytest.mark.parametrize("crop", ["square", 3])
def test_an_unknown_crop_in_a_manifest_is_refused(tmp_path: Path, pack: FacePack, crop: object) -> None:
    folder = write_pack(tmp_path / "p", "buffalo_l", pack)
    (folder / "pack.json").write_text(json.dumps({"crop": crop}))
    with pytest.raises(ModelMissing, match="aligned and paper are known"):
        load_pack(folder)


def test_a_folder_without_a_detector_or_any_model_says_so(tmp_path: Path, pack: FacePack) -> None:
    with pytest.raises(ModelMissing, match="no ONNX file"):
        load_pack(tmp_path / "none")
    (tmp_path / "half").mkdir()
    recogniser(tmp_path / "half" / "w600k_r50.onnx", 512)
    with pytest.raises(ModelMissing, match="can't be loaded"):
        Embedder.open(load_pack(tmp_path / "half"))
