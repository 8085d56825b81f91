"""Eyes and glasses: the parts of a face that are not skin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from face0_worker.learn.people.person import IRIS, Person

EYE_RINGS, EYE_SPOKES = 40, 56


@dataclass(frozen=True)
class Mesh:
    """Triangles (m, 3) over points (n, 3) with colours (n, 3) in linear light, around `centre` (3,)."""

    points: np.ndarray
    triangles: np.ndarray
    colour: np.ndarray
    centre: np.ndarray


def _grid(rows: int, columns: int, closed: bool) -> np.ndarray:
    wide = columns if closed else columns - 1
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(wide), indexing="ij")
    a, b = r * columns + c, r * columns + (c + 1) % columns
    first = np.stack([a, b, b + columns], -1)
    second = np.stack([a, b + columns, a + columns], -1)
    return np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)]).astype(np.int32)


def eyeball(person: Person, centre: np.ndarray, radius: float, gaze: tuple[float, float]) -> Mesh:
    """Return one eye looking `gaze` degrees to the left and up of straight ahead."""
    angle = np.linspace(0.0, np.radians(100), EYE_RINGS)
    turn = np.linspace(0, 2 * np.pi, EYE_SPOKES, endpoint=False)
    a, t = np.meshgrid(angle, turn, indexing="ij")
    sphere = np.stack([np.sin(a) * np.cos(t), np.sin(a) * np.sin(t), np.cos(a)], -1).reshape(-1, 3)
    degrees = np.degrees(a).ravel()
    iris = np.array(IRIS[person.iris])
    streaks = 1 + 0.25 * np.sin(7 * t.ravel() + person.seed % 7) * np.sin(13 * t.ravel() + 2)
    pupil, edge = 11.0, 27.0
    colour = np.tile(np.array([0.66, 0.63, 0.60]), (len(degrees), 1))
    redness = np.clip((degrees - 38) / 40, 0, 1)[:, None]
    colour = colour * (1 - 0.3 * redness * np.array([0.2, 1, 1]))
    inside = degrees < edge
    rim = np.clip((degrees - 20) / (edge - 20), 0, 1) ** 2
    colour[inside] = (iris * streaks[:, None] * (1 - 0.75 * rim[:, None]))[inside]
    colour[degrees < pupil] = 0.006
    yaw, pitch = np.radians(gaze[0]), np.radians(gaze[1])
    around_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    points = centre + radius * (sphere @ (around_y @ around_x).T)
    return Mesh(points, _grid(EYE_RINGS, EYE_SPOKES, True), colour, centre)


FRAMES = (
    # half width, half height, squareness, thickness, colour
    (0.225, 0.20, 2.0, 0.013, (0.02, 0.02, 0.022)),
    (0.235, 0.165, 3.6, 0.020, (0.015, 0.013, 0.013)),
    (0.225, 0.17, 2.8, 0.011, (0.30, 0.22, 0.08)),
    (0.24, 0.18, 4.0, 0.023, (0.09, 0.035, 0.015)),
    (0.21, 0.205, 2.0, 0.011, (0.35, 0.35, 0.36)),
    (0.235, 0.16, 3.2, 0.017, (0.10, 0.012, 0.015)),
)


def glasses(kind: int, left: np.ndarray, right: np.ndarray, skin: np.ndarray) -> Mesh:
    """Return glasses before the eyes at `left` and `right` (3,), in front of the skin (n, 3) of this face."""
    wide, high, power, thick, colour = FRAMES[kind]
    near = skin[(np.abs(skin[:, 0]) < 0.5) & (np.abs(skin[:, 1] + 0.03) < 0.14)]
    bridge = skin[(np.abs(skin[:, 0]) < 0.05) & (np.abs(skin[:, 1] - 0.02) < 0.06)]
    z = max(float(np.quantile(near[:, 2], 0.97)), float(bridge[:, 2].max()) - 0.03) + 0.05
    head = skin[(np.abs(skin[:, 1]) < 0.12) & (skin[:, 2] < -0.35) & (skin[:, 2] > -0.7)]
    temple = float(np.abs(head[:, 0]).max()) + 0.03 if len(head) else 0.9
    tubes = []
    turn = np.linspace(0, 2 * np.pi, 49)
    for eye, side in ((left, 1.0), (right, -1.0)):
        cx = eye[0] + 0.01 * side
        c, s = np.cos(turn), np.sin(turn)
        x = cx + wide * np.sign(c) * np.abs(c) ** (2 / power)
        y = eye[1] - 0.035 + high * np.sign(s) * np.abs(s) ** (2 / power)
        bend = z - 0.10 * ((x - cx) * side / wide + 0.4).clip(0, None) ** 2
        tubes.append((np.stack([x, y, bend], 1), thick))
        outer = np.array([cx + side * (wide + 0.01), eye[1] + 0.05, z - 0.18])
        arm = np.stack([outer, [side * (temple - 0.02), eye[1] + 0.05, -0.25], [side * temple, eye[1] + 0.04, -0.85]])
        t = np.linspace(0, 2, 15)
        tubes.append((np.stack([np.interp(t, [0, 1, 2], arm[:, k]) for k in range(3)], 1), thick))
    a, b = left[0] - wide + 0.01, right[0] + wide - 0.01
    x = np.linspace(a, b, 9)
    y = (left[1] + right[1]) / 2 + 0.02 + 0.035 * (1 - ((x - (a + b) / 2) / ((a - b) / 2)) ** 2)
    tubes.append((np.stack([x, y, np.full_like(x, z)], 1), thick))
    points, triangles, total = [], [], 0
    for path, radius in tubes:
        ring = _tube(path, radius)
        points.append(ring.reshape(-1, 3))
        triangles.append(_grid(len(path), 7, True) + total)
        total += len(path) * 7
    cloud = np.concatenate(points)
    return Mesh(cloud, np.concatenate(triangles), np.tile(np.array(colour), (len(cloud), 1)), cloud.mean(axis=0))


def _tube(path: np.ndarray, radius: float) -> np.ndarray:
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    helper = np.where(np.abs(along[:, 2:3]) < 0.9, [[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]])
    u = np.cross(along, helper)
    u /= np.linalg.norm(u, axis=1, keepdims=True) + 1e-9
    v = np.cross(along, u)
    turn = np.linspace(0, 2 * np.pi, 7, endpoint=False)
    around = np.cos(turn)[None, :, None] * u[:, None] + np.sin(turn)[None, :, None] * v[:, None]
    return np.asarray(path[:, None] + radius * around)
