"""The shipped model, whole: a list's frames become pictures of the exact size, with the face in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from face0_worker.renderer import Renderer, load_renderer
from face0_worker.settings import Settings
from producer.catalogue import ItemDefaults, read_items
from producer.demo import PERSON


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return load_renderer(Settings(device="cpu", precision="float32"))


def test_a_story_and_a_banner_come_out_to_the_pixel_with_the_face_in_them(renderer: Renderer, tmp_path: Path) -> None:
    prompt = "a portrait of a person with short black hair wearing a red t-shirt, white background"
    rows = "".join(f'A1,"{prompt}",{frame},6\n' for frame in ("story", "banner"))
    (tmp_path / "list.csv").write_text(f"sku,prompt,frame,steps\n{rows}")
    facts = {**renderer.pipeline.facts(), "item_form": 2}
    items = tuple(read_items(tmp_path / "list.csv", None, ItemDefaults.of_model(facts)))
    face = renderer.embedder.embed_photo(PERSON.read_bytes()).embedding
    results = renderer([(item, face) for item in items], lambda step, steps: None)
    for result, size in zip(results, [(1080, 1920), (1200, 628)], strict=True):
        assert result.error is None
        assert isinstance(result.pixels, np.ndarray)
        image = Image.fromarray(result.pixels)
        assert image.size == size
        (found,) = renderer.embedder.find(image, thorough=True)[:1]
        left, top, right, bottom = found.box
        assert min(left, top) >= 0
        assert right <= size[0]
        assert bottom <= size[1]
