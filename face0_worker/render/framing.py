"""From the rendered size to the exact size that was asked for: never stretched, never through the face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from face0_worker.contract.errors import Face0Error
from face0_worker.contract.job import PAD, RenderItem

if TYPE_CHECKING:
    from face0_worker.render.batch import Rendered

# (a picture) -> the five landmarks (5, 2) of its largest face in pixels: eyes, nose, corners of the mouth; or None
FindLandmarks = Callable[[Image.Image], np.ndarray | None]
Box = tuple[float, float, float, float]  # left, top, right, bottom
# of the distance from eyes to mouth, above the eyes and below the mouth: hair and chin; and to the sides
_ABOVE, _BELOW, _BESIDE = 2.2, 1.0, 1.0


def frame_all(
    results: Sequence[Rendered], items: Sequence[RenderItem], find_landmarks: FindLandmarks
) -> list[Rendered]:
    """Return the results with each picture at the output size of its item; those without one stay as they are."""
    return [_framed(result, item, find_landmarks) for result, item in zip(results, items, strict=True)]


def _framed(result: Rendered, item: RenderItem, find_landmarks: FindLandmarks) -> Rendered:
    if result.pixels is None or not item.output_width:
        return result
    try:
        landmarks = find_landmarks(Image.fromarray(result.pixels))
    except Face0Error as error:
        return replace(result, pixels=None, verdict=None, error=error)
    face = None if landmarks is None else face_box(landmarks)
    return replace(result, pixels=frame(result.pixels, (item.output_width, item.output_height), item.fit, face))


def face_box(landmarks: np.ndarray) -> Box:
    """Return the box of the whole head, hair and chin, around five landmarks (5, 2)."""
    left, top = landmarks.min(axis=0)
    right, bottom = landmarks.max(axis=0)
    unit = float(bottom - top)
    across, down = (left - _BESIDE * unit, right + _BESIDE * unit), (top - _ABOVE * unit, bottom + _BELOW * unit)
    return float(across[0]), float(down[0]), float(across[1]), float(down[1])


def frame(pixels: np.ndarray, size: tuple[int, int], fit: str, face: Box | None) -> np.ndarray:
    """Return pixels uint8 (h, w, 3) as uint8 (size[1], size[0], 3), scaled alike in both directions.

    "crop" cuts what is too much, as little as can be, and moves the cut so that the `face` stays in; where the face
    does not fit, as much of the picture is taken as it needs, with bars beside it. "pad" takes the whole picture.
    Bars have the colour that `fit` names, or the one of the edge they touch.
    """
    height, width = pixels.shape[:2]
    aspect = size[0] / size[1]
    window = (width, height)
    if not fit.startswith(PAD):
        window = _grown(_largest(width, height, aspect), face, (width, height))
    left, top = _placed(window, face, (width, height))
    scale = min(size[0] / window[0], size[1] / window[1])
    inner = min(size[0], max(1, round(window[0] * scale))), min(size[1], max(1, round(window[1] * scale)))
    image = Image.fromarray(pixels)
    # lanczos, with the window as floats: no rounding moves or stretches what is in it
    scaled = image.resize(inner, Image.Resampling.LANCZOS, (left, top, left + window[0], top + window[1]))
    if inner == size:
        return np.asarray(scaled)
    canvas = Image.new("RGB", size, _colour(np.asarray(scaled), fit, beside=inner[0] < size[0]))
    canvas.paste(scaled, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return np.asarray(canvas)


def _largest(width: int, height: int, aspect: float) -> tuple[float, float]:
    """Return the largest window of this aspect in the picture."""
    return (width, width / aspect) if width / height < aspect else (height * aspect, float(height))


def _grown(window: tuple[float, float], face: Box | None, whole: tuple[int, int]) -> tuple[float, float]:
    """Return the window, grown beyond the output's aspect on the side where it would cut the face."""
    if face is None:
        return window
    left, top, right, bottom = _inside(face, whole)
    return min(float(whole[0]), max(window[0], right - left)), min(float(whole[1]), max(window[1], bottom - top))


def _placed(window: tuple[float, float], face: Box | None, whole: tuple[int, int]) -> tuple[float, float]:
    """Return where the window begins: the face as far across it, and as far down, as it is in the whole picture."""
    if face is None:
        # a portrait's head is in its upper part
        return (whole[0] - window[0]) / 2, (whole[1] - window[1]) / 4
    left, top, right, bottom = _inside(face, whole)
    return _along(left, right, window[0], whole[0]), _along(top, bottom, window[1], whole[1])


def _along(begin: float, end: float, window: float, whole: float) -> float:
    middle = (begin + end) / 2
    wished = middle * (1 - window / whole)
    # all of the face, and nothing outside the picture
    return min(max(wished, end - window, 0.0), begin, whole - window)


def _inside(face: Box, whole: tuple[int, int]) -> Box:
    left, top, right, bottom = face
    return max(0.0, left), max(0.0, top), min(float(whole[0]), right), min(float(whole[1]), bottom)


def _colour(scaled: np.ndarray, fit: str, *, beside: bool) -> tuple[int, int, int]:
    """Return the bars' colour: the named one, or the median of the strips beside them (above, not below: a garment)."""
    _, _, named = fit.partition("#")
    if named:
        return int(named[0:2], 16), int(named[2:4], 16), int(named[4:6], 16)
    # a strip, since a model's outermost pixels are often off
    strip = max(1, max(scaled.shape) // 25)
    edge = np.concatenate([scaled[:, :strip], scaled[:, -strip:]], axis=1) if beside else scaled[:strip]
    red, green, blue = np.median(edge.reshape(-1, 3), axis=0)
    return int(red), int(green), int(blue)
