"""IP-Adapter-FaceID: diffusers' own picture for one person, and everybody's own picture in a batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from face0_worker.contract.errors import BadInput, Face0Error, Refused
from face0_worker.contract.job import Guidance, RenderItem
from face0_worker.contract.licence import require_licences
from face0_worker.faces.packs import FacePack
from face0_worker.models import LAYOUTS, model_licences
from face0_worker.render.adapters import add_lora, face_id_shape, import_adapter
from face0_worker.render.batch import RenderRequest, make_pictures
from face0_worker.render.card import FaceAdapter
from face0_worker.render.convert import convert_model, import_model
from face0_worker.render.describe import describe
from face0_worker.render.face_adapter import attach, attention_weights, lora_weights
from face0_worker.render.guidance import Branch, Rows
from face0_worker.render.loading import read_parts
from face0_worker.render.pipeline import Pipeline
from face0_worker.render.sampler import initial_noise
from face0_worker.render.weight_files import Stored
from tests.adapters import face_id_tensors, face_pack, flattened, with_face_id, write_face_id, write_lora
from tests.fakes import tiny_embedding, write_tiny_model

W, SIZE = 2.0, 64
ITEM = RenderItem("sku", "a red thing", "blue", seed=7, width=SIZE, height=SIZE, steps=3, guidance=Guidance(w=W))
KINDS = ("sd1", "sdxl")
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Tiny models, by kind, each with a random IP-Adapter-FaceID; beside it the base and the checkpoint."""
    made: Folders = {}
    for kind in KINDS:
        place = tmp_path_factory.mktemp(kind)
        base = write_tiny_model(place / "base", kind=kind, prediction_type="epsilon", tokens=0)
        with_face_id(base, place, scale=0.8)
        made[kind] = place
    return made


@pytest.fixture(scope="module")
def ours(folders: Folders) -> dict[str, Pipeline]:
    """The models with the adapter, loaded in float32."""
    return {kind: load(folders[kind] / "model") for kind in KINDS}


@pytest.fixture(scope="module")
def stock(folders: Folders) -> dict[str, Any]:
    """diffusers' own pipelines with the same checkpoint."""
    made = {}
    for kind in KINDS:
        pipeline: Any = DiffusionPipeline.from_pretrained(folders[kind] / "base", local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.load_ip_adapter(
            folders[kind], subfolder="", weight_name="ip-adapter-faceid.safetensors", image_encoder_folder=None
        )
        pipeline.set_ip_adapter_scale(0.8)
        pipeline.fuse_lora()
        made[kind] = pipeline
    return made


def load(folder: Path) -> Pipeline:
    """Load on the CPU in float32."""
    return Pipeline.load(folder, digest="", device="cpu", precision="float32")


def face(person: int) -> np.ndarray:
    """Return a person's normalised embedding."""
    return tiny_embedding(person, 512)


def render(pipeline: Pipeline, items: list[RenderItem], faces: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return the pictures of a batch as floats (n, h, w, 3)."""
    requests = [RenderRequest(*pair) for pair in zip(items, faces, strict=True)]
    return make_pictures(pipeline, requests, lambda step, steps: None)[0]


def import_both(base: Path, file: Path, place: Path) -> None:
    """Make a face folder of a checkpoint, and a model of both."""
    import_adapter(file, place / "face", face_pack())
    import_model(base, place / "face", place / "model")


def shown(faces: Sequence[np.ndarray | None]) -> torch.Tensor:
    """Return the embeddings as diffusers takes them, (n, 512): of unit length, zeros for no face."""
    units = [np.zeros(512) if one is None else one / np.linalg.norm(one) for one in faces]
    return torch.from_numpy(np.stack(units).astype(np.float32))


def by_diffusers(
    pipeline: Any, items: list[RenderItem], faces: Sequence[np.ndarray | None], *, apart: bool = False
) -> np.ndarray:
    """Render as diffusers' documentation of FaceID says: embeddings of unit length, zeros for the negative.

    They are given as one prompt's faces, or `apart`, as a batch of faces: neither is one face for each prompt.
    """
    embeds = shown(faces).unsqueeze(1 if apart else 0)
    noise = initial_noise([item.seed for item in items], (4, SIZE // 8, SIZE // 8))
    made = pipeline(
        prompt=[item.prompt for item in items],
        negative_prompt=[item.negative_prompt for item in items],
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(embeds), embeds])],
        latents=noise.first,
        num_inference_steps=items[0].steps,
        guidance_scale=W,
        height=SIZE,
        width=SIZE,
        output_type="np",
    )
    return np.asarray(made.images)


@pytest.mark.parametrize("person", [1, None], ids=["a face", "no face"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_person_is_painted_as_by_diffusers(
    ours: dict[str, Pipeline], stock: dict[str, Any], kind: str, person: int | None
) -> None:
    assert isinstance(stock[kind].scheduler, DDIMScheduler)
    faces = [None if person is None else face(person)]
    context = ours[kind].condition([ITEM], faces).context(Rows((0,), (Branch.JOINT,), (1.0,)))
    added = {"image_embeds": [shown(faces).unsqueeze(0)], "text_embeds": context.pooled, "time_ids": context.sizes}
    latents = initial_noise([7], (4, 8, 8)).first
    with torch.inference_mode():
        (wanted,) = stock[kind].unet(latents, 500, context.tokens[:, :77], added_cond_kwargs=added, return_dict=False)
    step = ours[kind].predict(latents, torch.tensor(500.0), context)
    torch.testing.assert_close(step, wanted, atol=1e-5, rtol=0)
    picture = by_diffusers(stock[kind], [ITEM], faces)
    # the rounding of three steps and of decoding on top
    np.testing.assert_allclose(render(ours[kind], [ITEM], faces), picture, atol=1e-4)
    assert np.abs(picture - render(ours[kind], [ITEM], [face(2)])).mean() > 0.01


@pytest.mark.parametrize("apart", [False, True], ids=["faces of a prompt", "batch of faces"])
def test_diffusers_mixes_two_people_in_a_batch_and_this_engine_does_not(
    ours: dict[str, Pipeline], stock: dict[str, Any], apart: bool
) -> None:
    # diffusers issue 9813, as of 0.42: every picture of a batch listens to all faces that it was given
    faces = [face(1), face(2)]
    alone = np.concatenate([by_diffusers(stock["sd1"], [ITEM], [one]) for one in faces])
    mixed = by_diffusers(stock["sd1"], [ITEM, ITEM], faces, apart=apart)
    assert np.abs(mixed[0] - mixed[1]).max() < 1e-4, "diffusers: two people asked for, one mixture painted twice"
    assert min(np.abs(mixed[0] - one).mean() for one in alone) > 0.01, "and it is neither of them"
    together = render(ours["sd1"], [ITEM, ITEM], faces)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.abs(together[0] - together[1]).mean() > 0.01


def test_each_branch_hears_its_own_text_and_its_own_face(ours: dict[str, Pipeline]) -> None:
    pipeline = ours["sd1"]
    items = [ITEM, replace(ITEM, prompt="blue"), ITEM]
    told = pipeline.condition(items, [face(1), face(2), None])
    with torch.inference_mode():
        unit = torch.from_numpy(np.stack([face(1), face(2)]))
        people, nobody = pipeline.mapper(unit), pipeline.mapper.no_face()[0]  # type: ignore[operator]
    assert nobody.abs().max() > 0, "no face is what the adapter makes of zeros, not zeros"
    rows = Rows(tuple(item for item in range(3) for _ in Branch), tuple(Branch) * 3, (1.0,) * 12)
    tokens = told.context(rows).tokens.unflatten(0, (3, 4))
    assert tokens.shape[2] == 77 + 4, "the face takes no room from the text"
    for item, mine in enumerate([people[0], people[1], nobody]):
        for branch, wanted in zip(Branch, (mine, mine, nobody, nobody), strict=True):
            torch.testing.assert_close(tokens[item, branch, -4:], wanted, atol=1e-6, rtol=0)
    texts, row_of = pipeline.encode_prompts(["", "blue", ITEM.prompt])
    for branch, said in zip(Branch, ("blue", "", "blue", ITEM.negative_prompt), strict=True):
        if said in row_of:
            assert torch.equal(tokens[1, branch, :-4], texts.tokens[row_of[said]])


def test_an_embedding_of_any_length_is_the_same_person(ours: dict[str, Pipeline]) -> None:
    one, other = (render(ours["sd1"], [ITEM], [face(1) * np.float32(scale)]) for scale in (1.0, 0.1))
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("layout", "crosses", "attentions"), [("sd15", 16, 32), ("sdxl", 70, 140)])
def test_the_real_checkpoints_shapes_find_their_layers(layout: str, crosses: int, attentions: int) -> None:
    config = json.loads((LAYOUTS / layout / "unet" / "config.json").read_text())
    width = config["cross_attention_dim"]
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(config)
    with torch.device("meta"):
        tensors = flattened(face_id_tensors(unet, width=1024, rank=128))
    stored = {
        name: Stored(Path("bin"), "F16", tuple(one.shape), number, number + 1)
        for number, (name, one) in enumerate(tensors.items())
    }
    assert face_id_shape(stored, Path("bin")) == (512, 4, width)
    assert stored["image_proj.proj.2.weight"].shape == ((3072, 1024) if layout == "sd15" else (8192, 1024))
    attach(unet, FaceAdapter(4), width)
    wanted = {name: tuple(one.shape) for name, one in unet.state_dict().items()}
    found = attention_weights(unet, stored, "the adapter")
    assert len(found) == 2 * crosses
    assert all(wanted[name] == one.shape for name, one in found.items())
    assert len(lora_weights(unet, stored, 1.0, "the adapter", wanted)) == 4 * attentions


def multiplications(unet: Any, tokens: int) -> int:
    """Return the floating-point operations of one row of 512 x 512 pixels, without computing them."""
    with torch.device("meta"):
        asked = torch.empty(1, 4, 64, 64), torch.empty(()), torch.empty(1, tokens, unet.config.cross_attention_dim)
    with FlopCounterMode(display=False) as counted:
        unet.to("meta")(*asked)
    return int(counted.get_total_flops())


def test_a_face_adapter_makes_a_step_of_sd15_at_most_three_percent_longer() -> None:
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(json.loads((LAYOUTS / "sd15" / "unet" / "config.json").read_text()))
    without = multiplications(unet, 77)
    attach(unet, FaceAdapter(4), 768)
    # of the mapper's, a row costs what a row without a face costs: its tokens take the place of the text's
    assert without < multiplications(unet, 77 + 4) <= 1.03 * without


def test_the_lora_of_the_adapter_and_one_of_the_users_add_up(folders: Folders, tmp_path: Path) -> None:
    place = folders["sd1"]
    file = write_lora(tmp_path / "style.safetensors", place / "base", "kohya")
    add_lora(place / "model", file, tmp_path / "both", changes={})
    add_lora(place / "base", file, tmp_path / "style", changes={})
    base, adapted, styled, both = (
        read_parts(one, torch.float32, torch.float32).unet.state_dict()
        for one in (place / "base", place / "model", tmp_path / "style", tmp_path / "both")
    )
    name = next(name for name in base if name.endswith("attn1.to_q.weight"))
    assert not torch.equal(adapted[name], base[name])
    torch.testing.assert_close(both[name], adapted[name] + styled[name] - base[name], atol=1e-6, rtol=0)


def test_a_pickled_checkpoint_becomes_the_same_folder(folders: Folders, tmp_path: Path) -> None:
    pickled = write_face_id(tmp_path / "ip-adapter-faceid.bin", folders["sd1"] / "base")
    card = import_adapter(pickled, tmp_path / "face", face_pack(), scale=0.8)
    assert sorted(path.name for path in (tmp_path / "face").iterdir()) == ["face0.json", "ip_adapter.safetensors"]
    mine, theirs = (load_file(one / "ip_adapter.safetensors") for one in (tmp_path / "face", folders["sd1"] / "face"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert card["embedder"] == {"name": "buffalo_l", "digest": "b" * 64, "dimension": 512}
    assert card["licences"]["face adapter"].startswith("non-commercial")


def test_inspect_and_convert_know_the_adapter(folders: Folders, tmp_path: Path) -> None:
    facts = describe(folders["sd1"] / "model", "")
    assert facts["problem"] is None
    assert facts["components"]["adapter"]["class"] == "IP-Adapter-FaceID"
    assert facts["components"]["adapter"]["in"] == 512
    with pytest.raises(Refused, match="licence of face adapter of model ip-adapter-faceid forbids commercial use"):
        require_licences("commercial", model_licences(folders["sd1"] / "model"))
    convert_model(folders["sd1"] / "model", tmp_path / "out", "float32")
    one, other = (render(load(place), [ITEM], [face(1)]) for place in (folders["sd1"] / "model", tmp_path / "out"))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("pack", "said"),
    [
        (
            face_pack(dimension=128, mean=np.zeros(128, np.float32), name="face0_lite"),
            r"of 512 numbers, .* face0_lite gives 128",
        ),
        (face_pack(mean=np.ones(512, np.float32)), "moves them by a mean"),
    ],
)
def test_a_pack_of_other_embeddings_is_refused(folders: Folders, tmp_path: Path, pack: FacePack, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        import_adapter(folders["sd1"] / "ip-adapter-faceid.safetensors", tmp_path / "face", pack)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("image_proj.norm.weight", None, "is no IP-Adapter-FaceID"),
        ("image_proj.proj.0.bias", None, "proj.0.bias is missing"),
        ("image_proj.proj.0.weight", "image_proj.perceiver_resampler.proj_in.weight", "FaceID Plus"),
        ("ip_adapter.1.to_k_ip.weight", None, "to_k_ip.weight is missing"),
        ("ip_adapter.1.to_v_ip.weight", "ip_adapter.0.to_v_ip.weight", "does not listen to the text"),
        ("ip_adapter.0.to_q_lora.up.weight", None, "is not whole"),
        ("ip_adapter.3.to_v_ip.weight", "ip_adapter.999.to_v_ip.weight", "no place in this model"),
        ("ip_adapter.3.to_v_ip.weight", "ip_adapter.3.to_x_ip.weight", "no place in this model"),
    ],
)
def test_a_checkpoint_that_is_not_whole_or_of_another_kind_is_refused(
    folders: Folders, tmp_path: Path, old: str, new: str | None, said: str
) -> None:
    tensors = load_file(folders["sd1"] / "ip-adapter-faceid.safetensors")
    gone = tensors.pop(old)
    if new is not None:
        tensors[new] = gone
    save_file(tensors, tmp_path / "spoiled.safetensors")
    with pytest.raises(Face0Error, match=said):
        import_both(folders["sd1"] / "base", tmp_path / "spoiled.safetensors", tmp_path)
    assert not (tmp_path / "model").exists()


def test_an_adapter_of_another_family_names_both_widths(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"face adapter's output is \d+, 4 face tokens by the text's width"):
        import_model(folders["sd1"] / "base", folders["sdxl"] / "face", tmp_path / "model")
