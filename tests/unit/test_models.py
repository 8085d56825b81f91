"""Which models a worker may load: by digest, by a list or a file, and nothing by accident."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from face0_worker import child, renderer
from face0_worker.contract.errors import BadInput, ModelMissing, Refused
from face0_worker.models import SHIPPED, allowed_digests, digest_model, model_folder, require_allowed
from face0_worker.render.limits import BatchLimits
from face0_worker.render.pipeline import Pipeline
from face0_worker.renderer import load_renderer
from face0_worker.settings import Settings

ONE, OTHER = "a" * 64, "b" * 64


def test_without_the_setting_any_local_model_is_allowed() -> None:
    assert allowed_digests(" ") is None
    require_allowed(SHIPPED, ONE, "")


def test_a_model_that_the_list_does_not_name_is_refused_with_its_digest() -> None:
    require_allowed(SHIPPED, ONE, f"{OTHER}, {ONE.upper()}")
    with pytest.raises(Refused, match=f"{ONE}, which allowed_models does not name") as raised:
        require_allowed(SHIPPED, ONE, OTHER)
    assert raised.value.exit_code == 3


def test_a_file_lists_one_digest_a_line_and_an_empty_one_allows_nothing(tmp_path: Path) -> None:
    listed = tmp_path / "models.allow"
    listed.write_text(f"# checked in May\n{ONE}  portraits, Ms Sato\n\n{OTHER} # old\n")
    assert allowed_digests(str(listed)) == frozenset({ONE, OTHER})
    listed.write_text("# none yet\n")
    with pytest.raises(Refused):
        require_allowed(SHIPPED, ONE, str(listed))


@pytest.mark.parametrize("setting", ["abc", ONE[:-1], f"{ONE},{OTHER[:12]}", "/nowhere/models.allow"])
def test_a_setting_of_another_form_allows_nothing_silently(setting: str) -> None:
    with pytest.raises(BadInput, match="64 hexadecimal"):
        allowed_digests(setting)


def test_a_short_digest_in_the_file_is_named_by_its_line(tmp_path: Path) -> None:
    listed = tmp_path / "models.allow"
    listed.write_text(f"{ONE}\n{OTHER[:12]}\n")
    with pytest.raises(BadInput, match="line 2"):
        allowed_digests(str(listed))


def test_a_model_is_a_folder_or_one_safetensors_file(tmp_path: Path) -> None:
    assert model_folder(None) == SHIPPED
    file = tmp_path / "portrait.safetensors"
    file.write_bytes(b"weights")
    assert model_folder(file) == file
    for other in (tmp_path, tmp_path / "portrait.ckpt", tmp_path / "none.safetensors"):
        with pytest.raises(ModelMissing, match="FACE0_MODEL"):
            model_folder(other)


def test_the_shipped_models_digest_is_its_folders() -> None:
    from face0_worker.faces.packs import digest_folder

    assert digest_model(SHIPPED) == digest_folder(SHIPPED)


def test_a_worker_refuses_to_start_with_a_model_that_is_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(Pipeline, "load", lambda *args, **more: loaded.append(args))
    with pytest.raises(Refused, match=digest_model(SHIPPED)):
        load_renderer(Settings(home=tmp_path, allowed_models=ONE))
    assert not loaded


def test_a_worker_logs_how_much_fits_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(child, "log", lambda event, **facts: said.append((str(event), facts)))
    limits = BatchLimits()
    child.log_limits(limits, "worker")
    limits.did_not_fit((512, 768), 6)
    limits.did_not_fit((512, 768), 6)
    assert said == [("batch.limited", {"worker": "worker", "width": 512, "height": 768, "rows": 6})]


def test_a_model_of_another_face_pack_is_not_rendered_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = SimpleNamespace(card=SimpleNamespace(name="other", embedder_digest=OTHER))
    monkeypatch.setattr(Pipeline, "load", lambda *args, **more: pipeline)
    monkeypatch.setattr(renderer, "load_pack", lambda folder: SimpleNamespace(digest=ONE, name="pack", licences=()))
    with pytest.raises(ModelMissing, match="another face pack"):
        load_renderer(Settings(home=tmp_path, allowed_models=digest_model(SHIPPED)))
