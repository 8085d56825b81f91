"""Draw one view of one person: form, hair, cloth, light, camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from face0_worker.learn.people.backdrop import backdrop
from face0_worker.learn.people.body import Body, Part
from face0_worker.learn.people.camera import DISTANCE, Pose, pose_of, project
from face0_worker.learn.people.colours import COLOURS, encoded
from face0_worker.learn.people.face_parts import eyeball, glasses
from face0_worker.learn.people.garment import layers
from face0_worker.learn.people.hair import measure_centre, scalp
from face0_worker.learn.people.light import Lighting, set_up
from face0_worker.learn.people.person import Person, base_points
from face0_worker.learn.people.raster import Canvas, draw_triangles, vertex_normals
from face0_worker.learn.people.skin import Paint, albedo, paint_of
from face0_worker.learn.people.strands import draw_tuft, tufts
from face0_worker.learn.people.view import View

SKIN_WRAP = (0.28, 0.12, 0.08)
CLOTH_WRAP = (0.08, 0.08, 0.08)
NEUTRAL_ROOM = np.array([0.5, 0.5, 0.52])
# part of the body, its colour in linear light
_PARTS = (("teeth", (0.62, 0.58, 0.50)), ("tongue", (0.30, 0.09, 0.08)), ("lashes", (0.012, 0.010, 0.010)))


@dataclass(frozen=True)
class _Form:
    """The shape of a person with an expression, in the head's coordinates: base points (n, 3), fine skin, eyes."""

    points: np.ndarray
    skin: np.ndarray
    eyes: tuple[np.ndarray, np.ndarray]
    eye_radius: float


@dataclass(frozen=True)
class _Scene:
    """Where everything is drawn: how it stands, what light it gets, on which canvas."""

    view: View
    pose: Pose
    lighting: Lighting
    canvas: Canvas

    def draw(self, points: np.ndarray, rgb: np.ndarray, triangles: np.ndarray, keep: np.ndarray | None = None) -> None:
        """Draw posed points (n, 3) with lit colours (n, 3); `keep` as in `draw_triangles`."""
        canvas = self.canvas
        kept = np.ones(len(points), np.float32) if keep is None else keep.astype(np.float32)
        screen = project(points, self.view, len(canvas.depth))
        draw_triangles(screen, rgb.astype(np.float32), kept, triangles, canvas.colour, canvas.depth, canvas.cover)

    def gloss(self, points: np.ndarray, normals: np.ndarray, light: np.ndarray, power: float) -> np.ndarray:
        """Return the lamp's reflection (n, 1) after Blinn and Phong, dimmed where its light does not arrive."""
        to_eye = np.array([0.0, 0.0, DISTANCE]) - points
        to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
        half = to_eye + self.lighting.key
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        shine = np.clip((normals * half).sum(axis=1), 0, 1) ** power * np.clip(light.mean(axis=1), 0, 1.2)
        return np.asarray(shine[:, None])


def render(person: Person, view: View, size: int, body: Body) -> np.ndarray:
    """Return the portrait, uint8 sRGB (size, size, 3); each pixel is the mean of four."""
    form, paint = _form(person, view, body), paint_of(body)
    recede = 0.44 * max(0.0, person.age - 0.35) * (1 - person.femininity)
    cover, brows = scalp(form.skin, paint.ears, recede), paint.brows(person)
    hairs = tufts(person, view, form.skin, body, cover, paint, brows)
    bald = view.hair_style == "bald"
    pose = pose_of(view)
    occluders, solids = _occluders(form.points, body, None if bald else hairs[0].strands, pose)
    lighting = set_up(view.light, COLOURS.get(view.background, NEUTRAL_ROOM), occluders, solids)
    scene = _Scene(view, pose, lighting, Canvas.blank(2 * size))
    _draw_skin(scene, form, person, paint, brows, cover, body)
    _draw_eyes(scene, form, person)
    for name, colour in _PARTS:
        _draw_part(scene, getattr(body, name), form.points, np.array(colour))
    _draw_cloth(scene, form.points, body)
    if view.glasses:
        _draw_glasses(scene, form, person)
    for tuft in hairs:
        draw_tuft(scene.canvas, tuft, person, view, pose, lighting)
    behind = backdrop(view.background, 2 * size, np.random.default_rng(view.seed))
    covered = scene.canvas.cover[..., None]
    return _develop(scene.canvas.colour * covered + behind * (1 - covered), size)


def _form(person: Person, view: View, body: Body) -> _Form:
    points = base_points(person, body, view.units)
    eyes = [points[indices] for indices in body.eyes]
    left, right = ((eye.min(axis=0) + eye.max(axis=0)) / 2 for eye in eyes)
    origin = (left + right) / 2
    radius = float((eyes[0][:, 1].max() - eyes[0][:, 1].min()) / 2)
    moved = points - origin
    return _Form(moved, body.skin.smooth @ moved, (left - origin, right - origin), radius)


def _occluders(points: np.ndarray, body: Body, strands: np.ndarray | None, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Return points and triangles of what casts shadows: coarse skin and cloth, every twelfth strand as a ribbon."""
    clouds, triangles, total = [], [], 0
    for part in (body.coarse_skin, body.coarse_cloth):
        cloud = part.smooth @ points
        clouds.append(cloud)
        triangles.append(part.triangles + total)
        total += len(cloud)
    if strands is not None:
        some = strands[::12, ::2].astype(float)
        side = np.cross(np.gradient(some, axis=1), some - measure_centre())
        side /= np.linalg.norm(side, axis=2, keepdims=True) + 1e-9
        ribbon = np.stack([some - 0.038 * side, some + 0.038 * side], 2)  # (s, k, 2, 3)
        s, k = ribbon.shape[:2]
        at = np.arange(s * k * 2).reshape(s, k, 2)
        first = np.stack([at[:, :-1, 0], at[:, :-1, 1], at[:, 1:, 1]], -1).reshape(-1, 3)
        second = np.stack([at[:, :-1, 0], at[:, 1:, 1], at[:, 1:, 0]], -1).reshape(-1, 3)
        clouds.append(ribbon.reshape(-1, 3))
        triangles.append(np.concatenate([first, second]) + total)
    return pose(np.concatenate(clouds)), np.ascontiguousarray(np.concatenate(triangles), np.int32)


def _draw_skin(
    scene: _Scene, form: _Form, person: Person, paint: Paint, brows: np.ndarray, cover: np.ndarray, body: Body
) -> None:
    at = scene.pose(form.skin)
    normals = vertex_normals(np.ascontiguousarray(at, np.float32), body.skin.triangles)
    hair = np.clip(cover / 0.10, 0, 1) * (0.75 if scene.view.hair_style == "buzz cut" else 0.92)
    colour = albedo(person, paint, brows, hair, scene.view.hair_style == "bald")
    light = scene.lighting.on(at, normals, 0.07, SKIN_WRAP)
    shine = (0.05 + 0.10 * np.clip(paint.lips, 0, 1) + 0.03 * paint.nose) * (1 - 0.8 * hair)
    lit = colour * light + scene.gloss(at, normals, light, 28.0) * shine[:, None]
    scene.draw(at, lit, body.skin.triangles)


def _draw_eyes(scene: _Scene, form: _Form, person: Person) -> None:
    for centre in form.eyes:
        mesh = eyeball(person, centre, form.eye_radius, scene.view.gaze)
        at = scene.pose(mesh.points)
        normals = at - scene.pose(mesh.centre[None])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        light = scene.lighting.on(at, normals, 0.05, (0.3, 0.3, 0.3))
        scene.draw(at, 0.9 * mesh.colour * light + 1.1 * scene.gloss(at, normals, light, 260.0), mesh.triangles)


def _draw_part(scene: _Scene, part: Part, points: np.ndarray, colour: np.ndarray) -> None:
    at = scene.pose(part.smooth @ points)
    normals = vertex_normals(np.ascontiguousarray(at, np.float32), part.triangles)
    scene.draw(at, colour * scene.lighting.on(at, normals, 0.05, (0.4, 0.3, 0.3)), part.triangles)


def _draw_cloth(scene: _Scene, points: np.ndarray, body: Body) -> None:
    view, triangles = scene.view, body.cloth.triangles
    cloth = body.cloth.smooth @ points
    out = vertex_normals(np.ascontiguousarray(cloth, np.float32), triangles)
    for layer in layers(view.garment, view.garment_colour, body, view.seed):
        at = scene.pose(cloth + layer.thickness[:, None] * out)
        normals = vertex_normals(np.ascontiguousarray(at, np.float32), triangles)
        scene.draw(at, layer.colour * scene.lighting.on(at, normals, 0.16, CLOTH_WRAP), triangles, layer.keep)


def _draw_glasses(scene: _Scene, form: _Form, person: Person) -> None:
    mesh = glasses(person.glasses, form.eyes[0], form.eyes[1], form.skin)
    at = scene.pose(mesh.points)
    normals = vertex_normals(np.ascontiguousarray(at, np.float32), mesh.triangles)
    light = scene.lighting.on(at, normals, 0.08, CLOTH_WRAP)
    scene.draw(at, mesh.colour * light + 0.5 * scene.gloss(at, normals, light, 40.0), mesh.triangles)


def _develop(picture: np.ndarray, size: int) -> np.ndarray:
    """Average four samples a pixel, roll off highlights as film does, and encode as sRGB."""
    small = picture.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))
    soft = np.where(small > 0.75, 0.75 + 0.25 * np.tanh((small - 0.75) / 0.25 * 0.8), small)
    return (encoded(np.clip(soft, 0, 1)) * 255 + 0.5).astype(np.uint8)
