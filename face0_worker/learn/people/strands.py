"""The hairs on one person: on the head, in the beard, in the brows; rooted, lit and drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from face0_worker.learn.people.body import Body
from face0_worker.learn.people.camera import HEIGHT, Pose, project
from face0_worker.learn.people.hair import POINTS, STYLES, HeadForm, Style, grow, measure_head
from face0_worker.learn.people.light import Lighting
from face0_worker.learn.people.noise import value_noise
from face0_worker.learn.people.person import HAIR_COLOURS, Person
from face0_worker.learn.people.raster import Canvas, draw_strands, vertex_normals
from face0_worker.learn.people.skin import Paint
from face0_worker.learn.people.view import View

HAIR_WRAP = (0.35, 0.35, 0.35)


@dataclass(frozen=True)
class Tuft:
    """Strands (s, POINTS, 3) of one thickness (units of 10 cm), their colour times `tint`."""

    strands: np.ndarray
    thickness: float
    tint: float


@dataclass(frozen=True)
class _Ground:
    """Skin (n, 3) that hairs grow on, with its normals and triangles, and what they must stay outside of."""

    points: np.ndarray
    normals: np.ndarray
    triangles: np.ndarray
    head: HeadForm

    def tuft(
        self, where: np.ndarray, count: int, style: Style, thickness: float, tint: float, seed: int, on_face: bool
    ) -> Tuft:
        """Grow `count` strands where `where` (n,) > 0."""
        corners, shares = _roots(self.points, self.triangles, where, count, seed)
        roots, normals = _at(self.points, corners, shares), _at(self.normals, corners, shares)
        return Tuft(grow(style, self.head, roots, normals, seed, on_face), thickness, tint)


def tufts(
    person: Person, view: View, skin: np.ndarray, body: Body, cover: np.ndarray, paint: Paint, brows: np.ndarray
) -> list[Tuft]:
    """Return everything that grows on the skin (n, 3), the head's hair first unless it is bald.

    `cover`, `brows` (n,): positive where hair grows on the head, near 1 where brows are. A person's hair grows the same
    way in every picture.
    """
    normals = vertex_normals(np.ascontiguousarray(skin, np.float32), body.skin.triangles)
    ground = _Ground(skin, normals, body.skin.triangles, measure_head(skin, paint.ears))
    grown, seed = [], person.seed
    if view.hair_style != "bald":
        style = STYLES[view.hair_style]
        if view.fringe:
            style = replace(style, fringe=0.85)
        grown.append(ground.tuft(cover, style.count, style, 0.024, 1.0, seed, False))
    if person.beard in ("beard", "moustache"):
        length = 0.05 + 0.11 * (seed % 97) / 97
        style = Style(length, length, 0.30, (0.25, -0.8, 0.05), 0.3, wild=0.25)
        mask, count = (paint.beard, 2600) if person.beard == "beard" else (paint.moustache, 700)
        grown.append(ground.tuft(mask - 0.35, count, style, 0.013, 0.8, seed + 1, True))
    style = Style(0.065, 0.065, 0.14, (0.9, 0.3, -0.1), 0.0, wild=0.10)
    tint = 0.8 if person.hair_colour in ("black", "brown") else 0.45
    grown.append(ground.tuft(brows - 0.5, 260, style, 0.010, tint, seed + 3, True))
    return grown


def _roots(
    points: np.ndarray, triangles: np.ndarray, weight: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners and barycentric weights of `count` points spread evenly where weight (n,) > 0."""
    rng = np.random.default_rng(seed)
    inside = triangles[(weight[triangles] > 0).all(axis=1)]
    if not len(inside):
        return np.zeros((0, 3), np.int32), np.zeros((0, 3))
    a, b, c = (points[inside[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = inside[rng.choice(len(inside), count, p=area / area.sum())]
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    return chosen, np.stack([1 - u, u * (1 - v), u * v], 1)


def _at(values: np.ndarray, corners: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return np.asarray((values[corners] * shares[..., None]).sum(axis=1))


def draw_tuft(canvas: Canvas, tuft: Tuft, person: Person, view: View, pose: Pose, lighting: Lighting) -> None:
    """Light strands after Kajiya and Kay, with a volume's normals for shadow and shape, and draw them."""
    strands = tuft.strands
    count = len(strands)
    if not count:
        return
    flat = pose(strands.reshape(-1, 3).astype(float))
    lines = flat.reshape(count, POINTS, 3)
    volume = flat - pose(np.array([[0.0, 0.1, -0.75]]))
    volume /= np.linalg.norm(volume, axis=1, keepdims=True) + 1e-9
    # light changes slowly along a strand: every second point is asked
    asked = lines[:, ::2].reshape(-1, 3)
    facing = volume.reshape(count, POINTS, 3)[:, ::2].reshape(-1, 3)
    light = lighting.on(asked, facing, 0.16, HAIR_WRAP, -0.7).reshape(count, -1, 3).repeat(2, axis=1)[:, :POINTS]
    fibre = np.random.default_rng(person.seed)
    rgb = _colour(strands, lines, light, person, tuft.tint, lighting.key, fibre)
    screen = project(flat, view, len(canvas.depth)).reshape(count, POINTS, 3)
    pixels = tuft.thickness * len(canvas.depth) / HEIGHT
    width = (pixels * np.exp(fibre.normal(0, 0.25, count))).astype(np.float32)
    order = np.argsort(-screen[:, POINTS // 2, 2])  # far ones first, so that soft edges blend over what is behind
    draw_strands(
        np.ascontiguousarray(screen[order]),
        np.ascontiguousarray(rgb[order], np.float32),
        width[order],
        0.9,
        canvas.colour,
        canvas.depth,
        canvas.cover,
    )


def _colour(
    strands: np.ndarray,
    lines: np.ndarray,
    light: np.ndarray,
    person: Person,
    tint: float,
    key: np.ndarray,
    fibre: np.random.Generator,
) -> np.ndarray:
    """Return colours (s, POINTS, 3): each strand its own shade, darker at the root, a highlight across."""
    along = np.gradient(lines, axis=1)
    along /= np.linalg.norm(along, axis=2, keepdims=True) + 1e-9
    half = np.array([0.0, 0.0, 1.0]) + key
    half /= np.linalg.norm(half)
    shine = np.clip(1 - (along @ half) ** 2, 0, 1) ** 18
    each = np.exp(fibre.normal(0, 0.22, (len(strands), 1, 1)))
    reach = np.linspace(0, 1, POINTS)[None, :, None]
    base = np.array(HAIR_COLOURS[person.hair_colour]) * person.hair_shade * tint
    clumps = 1 + 0.25 * value_noise(strands[:, 0].astype(np.float32), 5.0, person.seed % 9973)[:, None, None]
    deep = np.clip(0.55 + 0.6 * reach, 0, 1)
    body = base * each * (1 + 0.12 * reach) * clumps * deep * light
    return np.asarray(body + (0.10 * base + 0.035) * shine[..., None] * light * deep)
