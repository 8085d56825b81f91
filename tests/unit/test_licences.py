"""The licence profile: what forbids commercial use is refused by name under `commercial`, and told under `research`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from face0_worker.contract.errors import Refused
from face0_worker.contract.licence import COMMERCIAL, RESEARCH, Licence, require_licences
from face0_worker.faces.packs import build_lite, load_pack
from face0_worker.models import SHIPPED, model_licences
from face0_worker.render.pipeline import Pipeline
from face0_worker.renderer import load_renderer
from face0_worker.settings import Settings
from producer.services import Services
from tests.fakes import write_tiny_model

FREE = (
    *("MIT (CenterFace), CC0-1.0 (dlib ResNet)", "Apache-2.0", "CC-BY-4.0", "CreativeML OpenRAIL-M", "", "research"),
    *("商用利用可", "営利・非営利を問わず利用できます", "commercial use is permitted"),
)
FORBIDDING = (
    "non-commercial research only",
    "Non Commercial",
    "noncommercial",
    "CC-BY-NC-4.0",
    "CC BY-NC-SA 4.0",
    "FLUX.1 [dev] Non-Commercial License",
    "for research purposes only",
    "academic use only",
    "not for commercial use",
    "Commercial use is prohibited.",
    "commercial use not permitted",
    "非商用ライセンス",
    "商用利用は禁止",
    "商用での使用不可",
    "研究目的での利用に限る",
)


@pytest.mark.parametrize("text", FREE)
def test_a_licence_that_leaves_commercial_use_open_passes_without_a_word(text: str) -> None:
    assert require_licences(COMMERCIAL, [Licence("weights", text, "a card")]) == ()


@pytest.mark.parametrize("text", FORBIDDING)
def test_a_licence_that_forbids_it_is_refused_with_its_text_and_place(text: str) -> None:
    licence = Licence("weights of model portrait", text, "/models/portrait/face0/face0.json")
    with pytest.raises(Refused) as refused:
        require_licences(COMMERCIAL, [licence])
    for part in (licence.what, text, licence.where, "FACE0_LICENCE_PROFILE"):
        assert part in str(refused.value)
    assert refused.value.exit_code == 3
    (warning,) = require_licences(RESEARCH, [licence])
    assert text in warning


@pytest.fixture(scope="module")
def research_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """face0_lite as a folder of somebody's own whose manifest forbids commercial use."""
    folder = tmp_path_factory.mktemp("packs") / "buffalo_like"
    shutil.copytree(build_lite(), folder)
    manifest = json.loads((folder / "pack.json").read_text())
    manifest |= {"name": "buffalo_like", "licence": "non-commercial research only"}
    (folder / "pack.json").write_text(json.dumps(manifest))
    return folder


def test_a_pack_for_research_is_refused_by_default_and_told_under_research(
    research_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Services(Settings(home=tmp_path, pack=research_pack)) as services,
        pytest.raises(Refused, match=r"face pack buffalo_like forbids commercial use.*pack\.json"),
    ):
        _ = services.pack
    with Services(Settings(home=tmp_path, pack=research_pack, licence_profile=RESEARCH)) as services:
        assert services.pack.name == "buffalo_like"
    assert "may be used for research only" in capsys.readouterr().err


def test_a_pack_that_states_no_licence_counts_as_insightfaces_own(research_pack: Path, tmp_path: Path) -> None:
    shutil.copytree(research_pack, tmp_path / "bare")
    manifest = json.loads((tmp_path / "bare" / "pack.json").read_text())
    del manifest["licence"]
    (tmp_path / "bare" / "pack.json").write_text(json.dumps(manifest))
    with pytest.raises(Refused, match="non-commercial research only"):
        require_licences(COMMERCIAL, load_pack(tmp_path / "bare").licences)


def test_a_worker_refuses_a_model_whose_card_forbids_it_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_model(tmp_path / "model", name="portrait", embedder_digest=load_pack(None).digest)
    file = folder / "face0" / "face0.json"
    card = json.loads(file.read_text())
    file.write_text(json.dumps({**card, "licences": {"weights": "CC-BY-NC-4.0"}}))
    loaded: list[object] = []
    monkeypatch.setattr(Pipeline, "load", lambda *args, **more: loaded.append(args))
    with pytest.raises(Refused, match=r"model portrait forbids commercial use: 'CC-BY-NC-4\.0'.*face0\.json"):
        load_renderer(Settings(home=tmp_path, model=folder))
    assert not loaded
    (stated,) = model_licences(folder)
    assert require_licences(RESEARCH, [stated])


def test_what_ships_passes_the_commercial_profile() -> None:
    assert require_licences(COMMERCIAL, (*model_licences(SHIPPED), *load_pack(None).licences)) == ()
    assert model_licences(SHIPPED)


def test_a_profile_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="commercial or research"):
        Settings(licence_profile="private")
