"""The free pack does what its sources do: dlib's own numbers, and faces where people are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import dlib
import insightface
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from face0_worker.contract.errors import ModelMissing
from face0_worker.faces.embed import Embedder
from face0_worker.faces.lite_pack import _CHIP, RECOGNISER_FILE, build_lite_pack, read_dlib_tensors
from face0_worker.faces.packs import FacePack, build_lite, load_pack

SIX = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"


def _dlib_weights() -> Path:
    spec = importlib.util.find_spec("face_recognition_models")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat"


def test_the_onnx_recogniser_gives_dlibs_own_embedding(pack: FacePack) -> None:
    original = dlib.face_recognition_model_v1(str(_dlib_weights()))
    session = onnxruntime.InferenceSession(str(pack.folder / RECOGNISER_FILE), providers=["CPUExecutionProvider"])
    top, bottom, left, right = _CHIP
    with Image.open(SIX) as photo:
        for x, y in ((40, 250), (720, 330), (300, 200)):
            chip = photo.convert("RGB").crop((x, y, x + 150, y + 150))
            # the window that the graph cuts, filled so that its resize gives this very chip back
            crop = Image.new("RGB", (256, 256))
            crop.paste(chip.resize((right - left, bottom - top), Image.Resampling.BILINEAR), (left, top))
            blob = (np.asarray(crop, np.float32) - 127.5) / 127.5
            ours = session.run(None, {"data": blob.transpose(2, 0, 1)[None]})[0][0]
            seen = np.asarray(crop.crop((left, top, right, bottom)).resize((150, 150), Image.Resampling.BILINEAR))
            theirs = np.array(original.compute_face_descriptor(np.ascontiguousarray(seen)))
            cosine = float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
            assert cosine >= 0.999


def test_six_people_are_found_in_the_sample_photo_and_told_apart(embedder: Embedder) -> None:
    with Image.open(SIX) as photo:
        faces = embedder.find(photo)
    assert len(faces) == 6
    distances = [float(np.linalg.norm(a.embedding - b.embedding)) for i, a in enumerate(faces) for b in faces[i + 1 :]]
    # dlib's own bar for one person is 0.6; two of the six come close to it
    assert np.median(distances) > 0.7
    assert min(distances) > 0.5


def test_a_built_pack_has_a_digest_of_what_it_is_made_of(pack: FacePack) -> None:
    assert pack.digest == load_pack(build_lite()).digest
    assert pack.dimension == 128 == len(pack.mean)
    assert "CC0" in pack.licence


def test_a_damaged_pack_is_refused(pack: FacePack, tmp_path: Path) -> None:
    for file in pack.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damaged = bytearray((tmp_path / RECOGNISER_FILE).read_bytes())
    damaged[1000] ^= 1
    (tmp_path / RECOGNISER_FILE).write_bytes(damaged)
    with pytest.raises(ModelMissing, match="damaged"):
        load_pack(tmp_path)


def test_an_empty_folder_is_no_pack(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="no ONNX file"):
        load_pack(tmp_path)


def test_a_missing_source_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"centerface\.onnx"):
        build_lite_pack(tmp_path / "centerface.onnx", _dlib_weights(), tmp_path / "out")


def test_a_file_that_is_not_dlibs_is_refused() -> None:
    with pytest.raises(ModelMissing, match="tensor is missing"):
        list(read_dlib_tensors(b"\x01\x02" + bytes(200), iter([4736])))
