"""The renderer of one process: the model that the settings name, its face pack, and the way from items to pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from face0_worker.calibration import calibration_file, recall
from face0_worker.contract.errors import ModelMissing
from face0_worker.contract.job import RenderItem
from face0_worker.contract.licence import require_licences
from face0_worker.contract.pace import Pace
from face0_worker.faces.embed import Embedder
from face0_worker.faces.packs import load_pack
from face0_worker.models import digest_model, model_folder, model_licences, require_allowed
from face0_worker.settings import Settings
from face0_worker.telemetry import Event, log

if TYPE_CHECKING:
    from face0_worker.render.batch import Rendered
    from face0_worker.render.pipeline import Pipeline


@dataclass(frozen=True)
class Renderer:
    """One loaded pipeline and the pack that it was trained with."""

    pipeline: Pipeline
    embedder: Embedder

    def __call__(
        self, asked: Sequence[tuple[RenderItem, np.ndarray]], on_step: Callable[[int, int], None]
    ) -> Sequence[Rendered]:
        """Render items with their people's raw embeddings; one outcome per item, in order, at its output size."""
        from face0_worker.render.batch import RenderRequest, render_batch
        from face0_worker.render.framing import frame_all
        from face0_worker.render.quality import gate

        requests = [RenderRequest(item, self.embedder.normalise(face)) for item, face in asked]
        rendered = render_batch(self.pipeline, requests, judge=gate(self.embedder), on_step=on_step)
        return frame_all(rendered, [item for item, _ in asked], self.embedder.landmarks)


def load_renderer(settings: Settings) -> Renderer:
    """Load what the settings name. What is missing is said before torch is imported, which takes seconds.

    Raises: ModelMissing: model, pack or device is not there, or they don't belong together. BadInput, Refused.
    """
    folder = model_folder(settings.model)
    digest = digest_model(folder)
    require_allowed(folder, digest, settings.allowed_models)
    pack = load_pack(settings.pack)
    for sentence in require_licences(settings.licence_profile, (*model_licences(folder), *pack.licences)):
        log(Event.LICENCE_RESEARCH, level=logging.WARNING, reason=sentence)
    from face0_worker.render.compiling import compile_as_asked
    from face0_worker.render.pipeline import Pipeline

    pipeline = Pipeline.load(folder, digest=digest, device=settings.device, precision=settings.precision)
    if pipeline.card.embedder_digest != pack.digest:
        raise ModelMissing(
            f"model {pipeline.card.name} was trained with another face pack than {pack.name} "
            f"({pipeline.card.embedder_digest[:12]}, not {pack.digest[:12]}); set FACE0_PACK or FACE0_MODEL"
        )
    compile_as_asked(pipeline, settings.compile, settings.home_dir / "cache" / "compiled")
    return Renderer(pipeline, Embedder.open(pack))


def paces_of(settings: Settings, pipeline: Pipeline) -> tuple[Pace, ...]:
    """Return what `face0-worker bench --calibrate` has measured of this model on this very device."""
    from face0_worker.bench.hardware import device_name

    file = calibration_file(settings.home_dir, pipeline.digest, pipeline.precision)
    return recall(file, device_name(pipeline.device))
