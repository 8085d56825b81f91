"""Light from everywhere: a sphere of directions, of which a lamp makes some brighter, and what each point receives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from face0_worker.learn.people.colours import white_of
from face0_worker.learn.people.raster import depth_maps, gather_light
from face0_worker.learn.people.view import Light

SKY, LAMP, RIM = 18, 6, 2
MAP = 128  # pixels of a depth map, which sees RADIUS around MIDDLE
RADIUS = 2.9
MIDDLE = np.array([0.0, -0.55, -0.7])
SCALE = MAP / (2 * RADIUS)


@dataclass(frozen=True)
class Lighting:
    """Directions with what comes from them, and what stands in their way. `key` (3,) points to the lamp."""

    frames: np.ndarray
    radiance: np.ndarray
    maps: np.ndarray
    key: np.ndarray
    key_radiance: np.ndarray

    def on(
        self,
        points: np.ndarray,
        normals: np.ndarray,
        bias: float,
        wrap: tuple[float, float, float],
        turned: float = -0.25,
    ) -> np.ndarray:
        """Return the light (n, 3) on points with unit normals; `wrap` softens the terminator per channel.

        `turned` as in `gather_light`.
        """
        moved = (points - MIDDLE).astype(np.float32)
        light: np.ndarray = gather_light(
            moved,
            normals.astype(np.float32),
            self.frames,
            self.radiance,
            self.maps,
            SCALE,
            bias,
            np.array(wrap, np.float32),
            turned,
        )
        return light


def set_up(light: Light, ambient: np.ndarray, points: np.ndarray, triangles: np.ndarray) -> Lighting:
    """Return the lighting of a scene whose occluders are `points` (n, 3) and `triangles` (m, 3).

    `ambient` (3,) is the colour of the surroundings. Exposed so that a white card facing the camera receives about 1.
    """
    up, right = np.radians(light.elevation), np.radians(light.azimuth)
    key = np.array([np.sin(right) * np.cos(up), np.sin(up), np.cos(right) * np.cos(up)])
    sky = _sphere(SKY)
    brightness = 0.55 + 0.45 * sky[:, 1] + 0.25 * np.maximum(sky[:, 2], 0)
    around = brightness[:, None] * (0.85 + 0.15 * ambient / max(ambient.mean(), 1e-3))
    lamp = _cone(key, light.softness, LAMP)
    rim_direction = np.array([-np.sign(np.sin(right) or 1) * 0.8, 0.35, -0.55])
    rim = _cone(rim_direction / np.linalg.norm(rim_direction), 0.2, RIM)
    warm = white_of(light.kelvin)
    directions = np.concatenate([sky, lamp, rim] if light.rim else [sky, lamp])
    card = np.array([0.0, 0.15, 1.0]) / np.linalg.norm([0.0, 0.15, 1.0])

    def on_card(some: np.ndarray, colours: np.ndarray) -> float:
        return float((np.maximum(some @ card, 0)[:, None] * colours).mean(axis=1).sum())

    from_sky = around / on_card(sky, around) * (1 - light.strength)
    from_lamp = np.tile(warm, (LAMP, 1))
    # a lamp from the side lights the card at a slant; it is not made stronger for that beyond twice
    from_lamp *= light.strength / max(on_card(lamp, from_lamp), 0.5 * LAMP)
    from_rim = np.tile(white_of(6500), (RIM, 1)) * light.rim * 0.8 / RIM
    radiance = np.concatenate([from_sky, from_lamp, from_rim])[: len(directions)].astype(np.float32)
    frames = np.stack([_frame(direction) for direction in directions]).astype(np.float32)
    maps = depth_maps((points - MIDDLE).astype(np.float32), triangles, frames, SCALE, MAP)
    return Lighting(frames, radiance, maps, key, from_lamp.sum(axis=0))


def _sphere(count: int) -> np.ndarray:
    k = np.arange(count) + 0.5
    y = 1 - 2 * k / count
    turn = np.pi * (1 + 5**0.5) * k
    across = np.sqrt(1 - y * y)
    return np.stack([across * np.cos(turn), y, across * np.sin(turn)], 1)


def _cone(axis: np.ndarray, spread: float, count: int) -> np.ndarray:
    frame = _frame(axis)
    k = np.arange(count) + 0.5
    r, turn = spread * np.sqrt(k / count), np.pi * (1 + 5**0.5) * k
    some = axis + (r * np.cos(turn))[:, None] * frame[0] + (r * np.sin(turn))[:, None] * frame[1]
    return np.asarray(some / np.linalg.norm(some, axis=1, keepdims=True))


def _frame(direction: np.ndarray) -> np.ndarray:
    helper = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(helper, direction)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(direction, right), direction])
