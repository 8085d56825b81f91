"""`face0-worker model inspect | import | convert | with-lora | import-adapter`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from face0_worker.cli import main
from face0_worker.contract.job import RenderItem
from face0_worker.models import SHIPPED, digest_model
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.pipeline import Pipeline
from tests.adapters import write_face_id, write_lora
from tests.fakes import tiny_embedding, write_tiny_model
from tests.originals import with_clip_words, write_single_file

ITEM = RenderItem("sku", "a red hat", seed=7, width=64, height=64, steps=2)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run a command and return (exit code, what it printed, what it complained)."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()  # what writing the test's own models said
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(tmp_path / "home"), *(str(word) for word in words)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def picture(place: Path) -> np.ndarray:
    """Render one picture of one person in float32."""
    pipeline = Pipeline.load(place, digest="", device="cpu", precision="float32")
    return make_pictures(pipeline, [RenderRequest(ITEM, tiny_embedding(1))], lambda step, steps: None)[0]


def test_inspect_prints_what_the_shipped_model_is_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from face0_worker.commandline import run_group; from face0_worker.cli import commands\n"
        "run_group(commands, 'face0-worker', ['model', 'inspect', '--json']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert facts["digest"] == digest_model(SHIPPED)
    assert facts["name"] == "face0_small"
    assert facts["licences"]["weights"] == "Apache-2.0"
    assert facts["components"]["unet"]["parameters"] == 13_526_344
    assert facts["components"]["unet"]["dtypes"] == ["F16"]
    assert facts["components"]["mapper"] == {
        "class": "FaceMapper",
        "parameters": 985_344,
        "dtypes": ["F16"],
        "bytes": 1_970_688,
        "in": 128,
        "out": 768,
    }
    assert facts["scheduler"]["prediction"] == "v_prediction"
    assert facts["problem"] is None
    assert facts["allowed"] is True


def test_inspect_says_why_a_model_would_not_load_and_whether_it_is_allowed(run: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    card = folder / "face0" / "face0.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "tokens": 4}))
    code, out, _ = run("--set", f"allowed_models={'a' * 64}", "model", "inspect", folder)
    assert code == 0
    assert "no: model" in out
    assert "mapper's output is 96" in out
    assert "allowed_models does not name this digest" in out
    card.write_text(json.dumps({**json.loads(card.read_text()), "tokens": 3, "sampler": "lcm", "steps": 60}))
    code, out, _ = run("model", "inspect", folder, "--json")
    assert "steps is 60; 1 to 50 can be made" in json.loads(out)["problem"]
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "num_train_timesteps": "many"}))
    code, out, _ = run("model", "inspect", folder, "--json")
    assert "the scheduler's config makes no sense" in json.loads(out)["problem"]
    shutil.rmtree(folder / "face0")
    code, out, _ = run("model", "inspect", folder, "--json")
    assert "no face mapper" in json.loads(out)["problem"]
    (folder / "unet" / "more.bin").write_bytes(b"")
    code, _, err = run("model", "inspect", folder)
    assert code == 2
    assert "pickled" in err


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_an_imported_single_file_paints_what_its_folder_paints(run: Any, tmp_path: Path, kind: str) -> None:
    folder = with_clip_words(write_tiny_model(tmp_path / "folder", kind=kind))
    file = write_single_file(folder, tmp_path / "portrait.safetensors")
    layout = tmp_path / "portrait.face0" / "layout"
    out = tmp_path / "imported"
    code, said, err = run("model", "import", file, "--face0", folder, "--layout", layout, "--out", out)
    assert (code, err) == (0, "")
    assert digest_model(out) in said
    assert np.array_equal(picture(out), picture(folder))
    made_of = json.loads((out / "face0" / "face0.json").read_text())["imported_from"]
    assert made_of == {"digest": digest_model(file), "layout": "layout"}
    assert str(tmp_path) not in "".join(path.read_text() for path in out.rglob("*.json"))
    code, said, _ = run("model", "inspect", out)
    assert code == 0
    assert "yes" in said


def test_an_imported_model_is_an_ordinary_diffusers_folder(run: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "folder")
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    shutil.rmtree(plain / "face0")
    assert run("model", "import", plain, "--face0", folder / "face0", "--out", tmp_path / "out")[0] == 0
    assert np.array_equal(picture(tmp_path / "out"), picture(folder))
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    assert torch.equal(
        stock.unet.conv_in.weight, load_file(folder / "unet/diffusion_pytorch_model.safetensors")["conv_in.weight"]
    )


def test_a_mapper_that_does_not_fit_leaves_no_half_written_folder(run: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "folder")
    other = write_tiny_model(tmp_path / "other", kind="sdxl")
    code, _, err = run("model", "import", folder, "--face0", other, "--out", tmp_path / "made" / "out")
    assert code == 2
    assert "mapper's output is 240" in err
    assert not (tmp_path / "made").exists()


def test_a_conversion_that_breaks_half_way_leaves_nothing_behind(run: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "folder")
    text = folder / "text_encoder" / "model.safetensors"
    text.write_bytes(text.read_bytes()[:-4] + b"\xff\xff\xff\xff")  # the last weight is no number
    code, _, err = run("model", "convert", folder, "--precision", "bfloat16", "--out", tmp_path / "made" / "half")
    assert code == 4
    assert "text_encoder" in err
    assert list((tmp_path / "made").iterdir()) == []


def test_an_import_without_a_mapper_never_makes_one_up(run: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "folder")
    (tmp_path / "empty").mkdir()
    code, _, err = run("model", "import", folder, "--face0", tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 4
    assert "face0.json is missing" in err
    assert run("model", "import", folder, "--out", tmp_path / "out")[0] == 2
    assert not (tmp_path / "out").exists()


def test_convert_rounds_the_weights_and_keeps_the_mapper(run: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "folder")
    out = tmp_path / "half"
    code, said, err = run("model", "convert", folder, "--precision", "bfloat16", "--out", out)
    assert (code, err) == (0, "")
    assert digest_model(out) in said
    assert digest_model(out) != digest_model(folder)
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        was, is_now = (load_file(place / f"{name}.safetensors") for place in (folder, out))
        assert was.keys() == is_now.keys()
        assert all(torch.equal(is_now[key], was[key].to(torch.bfloat16)) for key in was)
    mapper = "face0/mapper.safetensors"
    assert (out / mapper).read_bytes() == (folder / mapper).read_bytes()
    assert np.abs(picture(out) - picture(folder)).mean() < 0.05


def test_convert_refuses_a_folder_that_stands_already_and_leaves_it_alone(run: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "folder")
    before = digest_model(folder)
    code, _, err = run("model", "convert", folder, "--precision", "float16", "--out", folder)
    assert code == 2
    assert "exists already" in err
    assert digest_model(folder) == before


def test_a_model_with_a_lora_is_another_model_with_its_own_name(run: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "folder")
    file = write_lora(tmp_path / "few.safetensors", folder, "kohya")
    words = ["model", "with-lora", folder, "--lora", file, "--scale", "0.5", "--steps", "4", "--guidance", "1.5"]
    words += ["--sampler", "lcm"]
    code, said, err = run(*words, "--licence", "OpenRAIL", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert digest_model(tmp_path / "out") in said
    facts = json.loads(run("model", "inspect", tmp_path / "out", "--json")[1])
    assert (facts["name"], facts["steps"], facts["sampler"], facts["problem"]) == ("tiny+few", 4, "lcm", None)
    assert facts["guidance"]["w"] == 1.5
    assert facts["loras"] == [{"file": "few.safetensors", "scale": 0.5}]
    assert facts["licences"]["lora few"] == "OpenRAIL"
    assert np.abs(picture(tmp_path / "out") - picture(folder)).mean() > 0.01
    assert run(*words, "--out", tmp_path / "out")[0] == 2
    single = write_single_file(with_clip_words(folder), tmp_path / "portrait.safetensors")
    code, _, err = run("model", "with-lora", single, "--lora", file, "--out", tmp_path / "single")
    assert code == 2
    assert "is a single file; `face0-worker model import` writes a folder from it first" in err
    assert run("model", "with-lora", folder, "--lora", file, "--scale", "nan", "--out", tmp_path / "nan")[0] == 2


def test_a_face_adapter_is_imported_for_a_pack_and_joined_with_a_model(run: Any, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "folder")
    file = write_face_id(tmp_path / "ip-adapter-faceid_sd15.safetensors", folder)
    code, _, err = run("model", "import-adapter", file, "--out", tmp_path / "face")
    assert code == 2
    assert "takes face embeddings of 512 numbers, and the pack face0_lite gives 128" in err
    pack = tmp_path / "buffalo_l"
    pack.mkdir()
    (pack / "w600k_r50.onnx").write_bytes(b"a recogniser")
    words = ["model", "import-adapter", file, "--pack", pack, "--scale", "0.7", "--out", tmp_path / "face"]
    code, said, err = run(*words)
    assert (code, err) == (0, "")
    assert "licence of the face adapter: non-commercial" in said
    assert run("model", "import", folder, "--face0", tmp_path / "face", "--out", tmp_path / "out")[0] == 0
    facts = json.loads(run("model", "inspect", tmp_path / "out", "--json")[1])
    assert facts["problem"] is None
    assert facts["embedder"]["digest"] == digest_model(pack)
    assert facts["adapter"] == {"kind": "ip-adapter-faceid", "tokens": 4, "scale": 0.7, "lora_scale": 1.0}
