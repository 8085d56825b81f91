"""The camera and the pose: from the head's coordinates to the screen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from face0_worker.learn.people.view import View

DISTANCE = 11.0  # of the camera, units of 10 cm: a portrait lens
HEIGHT = 4.15  # of what the picture shows at the face
MIDDLE_Y = -0.42

Pose = Callable[[np.ndarray], np.ndarray]


def pose_of(view: View) -> Pose:
    """Return what turns the body by `yaw`, and the head by `turn`, `pitch` and `roll` more, about the neck."""
    whole = _rotation(view.yaw, 0, 0)
    more = (view.turn, view.pitch, view.roll)
    pivot = np.array([0.0, -1.25, -0.85])

    def move(points: np.ndarray) -> np.ndarray:
        share = np.clip((points[:, 1] + 1.75) / 0.75, 0, 1)
        share = share * share * (3 - 2 * share)
        head = (points - pivot) @ _rotation(*more).T + pivot
        return np.asarray((points * (1 - share[:, None]) + head * share[:, None]) @ whole.T)

    return move


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z)


def project(points: np.ndarray, view: View, pixels: int) -> np.ndarray:
    """Return where points are on the screen (n, 3) float32: x, y in pixels and the distance from the camera."""
    away = DISTANCE - points[:, 2]
    scale = pixels / HEIGHT * DISTANCE * view.zoom
    x = pixels / 2 + scale * (points[:, 0] + view.shift[0]) / away
    y = pixels / 2 - scale * (points[:, 1] - MIDDLE_Y + view.shift[1]) / away
    return np.stack([x, y, away], 1).astype(np.float32)
