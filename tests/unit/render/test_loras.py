"""LoRAs fused at load: the same weights as diffusers', part of the digest, and nothing of them left out silently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from face0_worker.contract.errors import BadInput, Face0Error, ModelMissing
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.models import LAYOUTS, digest_model
from face0_worker.render.adapters import add_lora
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.convert import convert_model, import_model
from face0_worker.render.guidance import Branch, Rows
from face0_worker.render.loading import read_parts
from face0_worker.render.loras import lora_changes
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.rescue import in_float32
from face0_worker.render.survey import SDXL, Lora, Survey
from face0_worker.render.weight_files import Header, Stored
from tests.adapters import write_lora
from tests.fakes import tiny_embedding, write_tiny_model

SCALE = 0.7
ITEM = RenderItem("sku", "a red thing", seed=7, width=64, height=64, steps=3, guidance=Guidance(w=2.0))
PARTS = ("unet", "text_encoder", "text_encoder_2")
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Tiny models that predict noise, by kind."""
    place = tmp_path_factory.mktemp("bases")
    return {kind: write_tiny_model(place / kind, kind=kind, prediction_type="epsilon") for kind in ("sd1", "sdxl")}


def with_lora(folder: Path, file: Path, out: Path, scale: float = SCALE, **changes: Any) -> Path:
    """Write a model with a LoRA and return its folder."""
    add_lora(folder, file, out, scale=scale, changes=changes)
    return out


def picture(folder: Path, item: RenderItem = ITEM) -> np.ndarray:
    """Render one person in float32."""
    pipeline = Pipeline.load(folder, digest="", device="cpu", precision="float32")
    pictures, _ = make_pictures(pipeline, [RenderRequest(item, tiny_embedding(1))], lambda step, steps: None)
    return np.asarray(pictures[0])


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Load all parts in float32 and return their weights."""
    parts = read_parts(folder, torch.float32, torch.float32)
    return {name: getattr(parts, name).state_dict() for name in PARTS if getattr(parts, name) is not None}


@pytest.mark.parametrize(
    ("form", "alpha"),
    [("kohya", 2.0), ("kohya", None), ("peft", 2.0), ("peft", None), ("diffusers", None)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_fused_lora_is_what_diffusers_fuses(
    folders: Folders, tmp_path: Path, kind: str, form: str, alpha: float | None
) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders[kind], form, alpha=alpha)
    ours = weights(with_lora(folders[kind], file, tmp_path / "out"))
    stock: Any = DiffusionPipeline.from_pretrained(folders[kind], local_files_only=True)
    stock.load_lora_weights(tmp_path, weight_name=file.name)
    stock.fuse_lora(lora_scale=SCALE)
    stock.unload_lora_weights()
    before = weights(folders[kind])
    for part, mine in ours.items():
        theirs = getattr(stock, part).state_dict()
        assert theirs.keys() == mine.keys()
        changed = [name for name, one in mine.items() if not torch.equal(one, before[part][name])]
        assert len(changed) >= 8, "attention and more of every part is changed"
        for name, one in mine.items():
            torch.testing.assert_close(one, theirs[name], atol=1e-5, rtol=0)


# as kohya's trainer names the layers of SDXL's original UNet, and where diffusers has them
SGM = {
    "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "input_blocks_4_1_proj_in": "down_blocks.1.attentions.0.proj_in",
    "input_blocks_4_1_transformer_blocks_0_attn1_to_q": "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "middle_block_1_transformer_blocks_9_attn2_to_k": "mid_block.attentions.0.transformer_blocks.9.attn2.to_k",
    "output_blocks_0_1_transformer_blocks_0_ff_net_2": "up_blocks.0.attentions.0.transformer_blocks.0.ff.net.2",
    "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
    "time_embed_0": "time_embedding.linear_1",
}


def test_kohyas_names_for_the_real_sdxl_find_their_layers() -> None:
    configs = {path.parent.name: json.loads(path.read_text()) for path in (LAYOUTS / "sdxl").glob("*/*.json")}
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(configs["unet"])
    wanted = {name: tuple(one.shape) for name, one in unet.state_dict().items()}
    tensors = {}
    for number, (theirs, ours) in enumerate(SGM.items()):
        out, *rest = wanted[f"{ours}.weight"]
        halves = {"lora_down": (8, *rest), "lora_up": (out, 8, *(1 for _ in rest[1:]))}
        for half, shape in halves.items():
            begin = 2 * number + (half == "lora_up")
            tensors[f"lora_unet_{theirs}.{half}.weight"] = Stored(Path("xl"), "F16", shape, begin, begin + 1)
    lora = Lora(Path("xl"), Header(tensors, {}), 1.0)
    survey = Survey(Path("xl"), SDXL, configs, {}, None, loras=(lora,))
    assert lora_changes(survey, "unet", wanted).keys() == {f"{ours}.weight" for ours in SGM.values()}


def test_a_step_of_a_fused_lora_is_that_of_diffusers(folders: Folders, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders["sd1"], "kohya")
    out = with_lora(folders["sd1"], file, tmp_path / "out")
    ours = Pipeline.load(out, digest="", device="cpu", precision="float32")
    told = ours.condition([ITEM], [tiny_embedding(1)])
    stock: Any = DiffusionPipeline.from_pretrained(folders["sd1"], local_files_only=True)
    stock.load_lora_weights(tmp_path, weight_name=file.name)
    stock.fuse_lora(lora_scale=SCALE)
    timestep, latents = torch.tensor(500.0), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    context = told.context(Rows((0,), (Branch.JOINT,), (1.0,)))
    with torch.inference_mode():
        wanted = stock.unet(latents, timestep, context.tokens).sample
    torch.testing.assert_close(ours.predict(latents, timestep, context), wanted, atol=1e-5, rtol=0)
    assert np.abs(picture(out) - picture(folders["sd1"])).mean() > 0.01


def test_scale_zero_is_the_model_without_the_lora(folders: Folders, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders["sd1"], "peft")
    out = with_lora(folders["sd1"], file, tmp_path / "out", scale=0.0)
    assert np.array_equal(picture(out), picture(folders["sd1"]))


def test_two_loras_add_up_in_either_order(folders: Folders, tmp_path: Path) -> None:
    files = [write_lora(tmp_path / f"{seed}.safetensors", folders["sd1"], "kohya", seed=seed) for seed in (1, 2)]
    made = []
    for number, order in enumerate((files, files[::-1])):
        first = with_lora(folders["sd1"], order[0], tmp_path / f"first{number}")
        made.append(weights(with_lora(first, order[1], tmp_path / f"both{number}"))["unet"])
    alone = weights(with_lora(folders["sd1"], files[0], tmp_path / "alone"))["unet"]
    base = weights(folders["sd1"])["unet"]
    name = next(name for name in base if not torch.equal(base[name], alone[name]))
    torch.testing.assert_close(made[0][name], made[1][name], atol=1e-6, rtol=0)
    assert not torch.allclose(made[0][name], alone[name], atol=1e-3)


def test_file_and_scale_are_in_the_digest_and_the_model_has_its_own_name(folders: Folders, tmp_path: Path) -> None:
    one, other = (write_lora(tmp_path / f"{n}.safetensors", folders["sd1"], "peft", seed=n) for n in (1, 2))
    made = {
        add_lora(folders["sd1"], file, tmp_path / str(number), scale=scale, changes={"name": "x", "steps": 4})
        for number, (file, scale) in enumerate([(one, 1.0), (one, 0.5), (other, 1.0)])
    }
    assert len(made | {digest_model(folders["sd1"])}) == 4
    facts = Pipeline.load(tmp_path / "0", digest="", device="cpu", precision="float32").facts()
    assert (facts["name"], facts["steps"]) == ("x", 4)
    assert facts["licences"] == {"weights": "CC0-1.0", "lora 1": "not stated"}


def test_bars_that_were_set_by_the_base_model_are_not_the_new_models(folders: Folders, tmp_path: Path) -> None:
    base = Path(shutil.copytree(folders["sd1"], tmp_path / "base"))
    card = base / "face0" / "face0.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "gate": {}}))
    file = write_lora(tmp_path / "style.safetensors", base, "kohya")
    out = with_lora(base, file, tmp_path / "out")
    assert "gate" not in json.loads((out / "face0" / "face0.json").read_text())


def test_the_lora_is_added_before_rounding_and_again_in_a_rescue(folders: Folders, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders["sd1"], "kohya", loud=0.01)
    out = with_lora(folders["sd1"], file, tmp_path / "out")
    exact = weights(out)["unet"]
    half = Pipeline.load(out, digest=digest_model(out), device="cpu", precision="bfloat16")
    for name, one in half.unet.state_dict().items():
        assert torch.equal(one, exact[name].to(torch.bfloat16))
    with in_float32(half) as again:
        assert all(torch.equal(one, exact[name]) for name, one in again.unet.state_dict().items())


def test_a_converted_and_an_imported_model_keep_their_lora_once(folders: Folders, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders["sd1"], "kohya")
    out = with_lora(folders["sd1"], file, tmp_path / "out")
    convert_model(out, tmp_path / "converted", "float32")
    import_model(folders["sd1"], out, tmp_path / "imported")
    for other in ("converted", "imported"):
        assert np.array_equal(picture(tmp_path / other), picture(out))


def test_lcm_renders_in_four_steps_and_hyper_sd_keeps_its_guidance(folders: Folders, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "lcm.safetensors", folders["sd1"], "kohya", alpha=8.0, rank=8, loud=0.1)
    out = with_lora(folders["sd1"], file, tmp_path / "out", steps=4)
    for item in (
        RenderItem("lcm", "red", seed=1, width=64, height=64, steps=4, sampler="lcm", guidance=Guidance(w=1.0)),
        RenderItem("hyper", "red", seed=1, width=64, height=64, steps=8, sampler="ddim", guidance=Guidance(w=5.0)),
    ):
        assert picture(out, item).std() > 0.02


Spoil = Callable[[dict[str, torch.Tensor]], None]


def wider(tensors: dict[str, torch.Tensor]) -> None:
    """Make one lower part wider, as of a model with more channels."""
    name = next(name for name in tensors if "to_q" in name and "lora_down" in name)
    tensors[name] = torch.zeros(4, tensors[name].shape[1] + 8)


def renamed(old: str, new: str) -> Spoil:
    """Return a change of all names with `old` in them."""

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if old in name]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return spoil


def dropped(end: str) -> Spoil:
    """Return a change that drops the first tensor of that end."""

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors.pop(next(name for name in tensors if name.endswith(end)))

    return spoil


def added(name: str) -> Spoil:
    """Return a change that adds one tensor."""
    return lambda tensors: tensors.update({name: torch.zeros(1)})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wider, r"to_q\.weight as \(32, 40\), which is \(32, 32\) in this model"),
        (renamed("down_blocks_1", "down_blocks_7"), r"down_blocks\.7\..* which this model does not have"),
        (renamed("lora_te_", "lora_te2_"), r"changes text_encoder_2\.\S+, and this model has no text_encoder_2"),
        (added("lora_unet_conv_in.dora_scale"), "dora_scale; only plain LoRAs"),
        (added("lora_unet_conv_in.hada_w1_a"), "hada_w1_a; only plain LoRAs"),
        (added("something.else"), "something.else; only plain LoRAs"),
        (dropped("lora_up.weight"), "half of a product"),
        (dropped("lora_down.weight"), "half of a product"),
        (renamed(".lora_down.weight", ".lora_down_.weight"), "lora_down_.weight; only plain LoRAs"),
        (renamed("lora_te_", "lora_other_"), "lora_other_.*alpha; only plain LoRAs"),
        (added("lora_unet_conv_in.alpha"), "an alpha without the weights"),
        (lambda tensors: tensors.clear(), "no weights"),
    ],
)
def test_what_does_not_belong_to_the_model_is_refused_and_nothing_is_written(
    folders: Folders, tmp_path: Path, spoil: Spoil, said: str
) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders["sd1"], "kohya")
    tensors = load_file(file)
    spoil(tensors)
    save_file(tensors, file)
    with pytest.raises(BadInput, match=said) as raised:
        with_lora(folders["sd1"], file, tmp_path / "out")
    assert str(file) in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["style.safetensors"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("unet.", "base_model.model.", "belongs to no part of a Stable Diffusion model"),
        ("lora_A", "lora_A.default", "only plain LoRAs"),
        ("to_q.lora_B", "to_q.lora_A_", "only plain LoRAs"),
    ],
)
def test_names_of_other_trainers_are_refused(folders: Folders, tmp_path: Path, old: str, new: str, said: str) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders["sd1"], "peft")
    tensors = load_file(file)
    renamed(old, new)(tensors)
    save_file(tensors, file)
    with pytest.raises(BadInput, match=said):
        with_lora(folders["sd1"], file, tmp_path / "out")


def test_half_a_product_is_refused(folders: Folders, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders["sd1"], "peft")
    tensors = load_file(file)
    dropped("lora_B.weight")(tensors)
    save_file(tensors, file)
    with pytest.raises(BadInput, match="has only one of its two parts"):
        with_lora(folders["sd1"], file, tmp_path / "out")


def test_a_lora_for_sdxl_names_the_first_tensor_that_does_not_fit(folders: Folders, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "xl.safetensors", folders["sdxl"], "peft")
    with pytest.raises(BadInput, match=r"another architecture: it changes text_encoder_2\.\S+, and this model"):
        with_lora(folders["sd1"], file, tmp_path / "out")


def test_a_pickle_and_a_value_that_is_no_number_are_refused(folders: Folders, tmp_path: Path) -> None:
    torch.save({"lora_unet_a.lora_down.weight": torch.zeros(1)}, tmp_path / "old.safetensors")
    with pytest.raises(BadInput, match=r"gone.safetensors does not exist"):
        with_lora(folders["sd1"], tmp_path / "gone.safetensors", tmp_path / "out")
    with pytest.raises(BadInput, match="zip archive"):
        with_lora(folders["sd1"], tmp_path / "old.safetensors", tmp_path / "out")
    file = write_lora(tmp_path / "nan.safetensors", folders["sd1"], "kohya", alpha=float("nan"))
    with pytest.raises(ModelMissing, match="not numbers"):
        with_lora(folders["sd1"], file, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 1}, "need format 2"),
        ({"loras": [{"file": "../style.safetensors", "scale": 1}]}, "only safetensors files in face0/loras"),
        ({"loras": [{"file": "gone.safetensors", "scale": 1}]}, "gone.safetensors is missing"),
        ({"loras": [{"file": "style.safetensors", "scale": "NaN"}]}, "not a finite number"),
        ({"loras": [{"file": "style.safetensors"}]}, "lacks 'scale'"),
    ],
)
def test_a_card_whose_loras_make_no_sense_is_refused(
    folders: Folders, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders["sd1"], "kohya")
    card = with_lora(folders["sd1"], file, tmp_path / "out") / "face0" / "face0.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))
    with pytest.raises(Face0Error, match=said):
        read_parts(tmp_path / "out", torch.float32, torch.float32)


def test_a_lora_in_the_folder_that_was_changed_for_another_models_is_refused_at_load(
    folders: Folders, tmp_path: Path
) -> None:
    file = write_lora(tmp_path / "style.safetensors", folders["sd1"], "kohya")
    out = with_lora(folders["sd1"], file, tmp_path / "out")
    shutil.copyfile(write_lora(tmp_path / "xl.safetensors", folders["sdxl"], "kohya"), out / "face0/loras" / file.name)
    with pytest.raises(BadInput, match=r"another architecture|does not have"):
        read_parts(out, torch.float32, torch.float32)
