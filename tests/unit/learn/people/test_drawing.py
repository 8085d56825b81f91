"""The rasteriser and what it stands on: subdivision, light and shadow, against hand-made scenes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from face0_worker.learn.people.body import _catmull_clark
from face0_worker.learn.people.colours import encoded, linear
from face0_worker.learn.people.hair import STYLES, HeadForm, grow, measure_centre
from face0_worker.learn.people.light import set_up
from face0_worker.learn.people.noise import value_noise
from face0_worker.learn.people.raster import Canvas, draw_strands, draw_triangles, vertex_normals
from face0_worker.learn.people.view import Light


def drawn(
    screen: list[list[float]], rgb: list[list[float]], triangles: list[list[int]], keep: list[float] | None = None
) -> Canvas:
    canvas = Canvas.blank(20)
    draw_triangles(
        np.array(screen, np.float32),
        np.array(rgb, np.float32),
        np.array(keep or [1.0] * len(screen), np.float32),
        np.array(triangles, np.int32),
        canvas.colour,
        canvas.depth,
        canvas.cover,
    )
    return canvas


SQUARE = [[2.0, 2.0, 5.0], [18.0, 2.0, 5.0], [18.0, 18.0, 5.0], [2.0, 18.0, 5.0]]


def test_two_triangles_cover_a_square_without_a_seam() -> None:
    canvas = drawn(SQUARE, [[1.0, 0, 0]] * 4, [[0, 1, 2], [0, 2, 3]])
    assert canvas.cover.sum() == 16 * 16
    assert (canvas.colour[2:18, 2:18] == [1, 0, 0]).all()
    assert canvas.cover[:2].sum() == canvas.cover[18:].sum() == 0


def test_the_nearer_surface_hides_the_farther_in_either_order() -> None:
    near = [[5.0, 5.0, 2.0], [15.0, 5.0, 2.0], [15.0, 15.0, 2.0], [5.0, 15.0, 2.0]]
    far_red, near_blue = [[0, 1, 2], [0, 2, 3]], [[4, 5, 6], [4, 6, 7]]
    colours = [[1.0, 0, 0]] * 4 + [[0.0, 0, 1]] * 4
    for order in (far_red + near_blue, near_blue + far_red):
        canvas = drawn(SQUARE + near, colours, order)
        assert (canvas.colour[10, 10] == [0, 0, 1]).all()
        assert (canvas.colour[3, 3] == [1, 0, 0]).all()


def test_a_cut_runs_through_triangles_where_its_value_crosses_zero() -> None:
    canvas = drawn(SQUARE, [[1.0, 1, 1]] * 4, [[0, 1, 2], [0, 2, 3]], keep=[-1.0, 1.0, 1.0, -1.0])
    assert canvas.cover[10, :10].sum() == 0
    assert canvas.cover[10, 10:18].sum() == 8


def test_colours_are_interpolated_between_corners() -> None:
    canvas = drawn(SQUARE, [[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]], [[0, 1, 2], [0, 2, 3]])
    assert canvas.colour[10, 2:18, 0] == pytest.approx(np.linspace(0.5 / 16, 15.5 / 16, 16), abs=1e-5)


def test_strands_are_as_wide_as_said_and_hidden_behind_what_is_nearer() -> None:
    canvas = Canvas.blank(20)
    line = np.array([[[10.0, 1.0, 5.0], [10.0, 19.0, 5.0]]], np.float32)
    draw_strands(
        line,
        np.ones((1, 2, 3), np.float32),
        np.array([4.0], np.float32),
        1.0,
        canvas.colour,
        canvas.depth,
        canvas.cover,
    )
    assert canvas.cover[2].sum() == 4
    behind = Canvas.blank(20)
    behind.depth[:] = 3.0
    draw_strands(
        line,
        np.ones((1, 2, 3), np.float32),
        np.array([4.0], np.float32),
        1.0,
        behind.colour,
        behind.depth,
        behind.cover,
    )
    assert behind.cover.sum() == 0


def test_subdivision_keeps_flat_things_flat_and_weights_sum_to_one() -> None:
    x, y = np.meshgrid(np.arange(4.0), np.arange(3.0), indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), np.full(12, 2.0)], 1)
    cells = np.array(
        [[i * 3 + j, (i + 1) * 3 + j, (i + 1) * 3 + j + 1, i * 3 + j + 1] for i in range(3) for j in range(2)]
    )
    matrix, finer = _catmull_clark(12, cells)
    assert sparse.issparse(matrix)
    assert np.asarray(matrix.sum(axis=1)).ravel() == pytest.approx(1.0)
    new = matrix @ points
    assert new[:, 2] == pytest.approx(2.0)
    assert len(finer) == 4 * len(cells)
    corners = new[finer]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    assert (normal[:, 2] > 0).all()
    # inner points of a regular grid stay where they are
    assert new[4] == pytest.approx(points[4])


def test_normals_point_out_of_a_sphere() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    from scipy.spatial import ConvexHull

    triangles = ConvexHull(points).simplices
    a, b, c = (points[triangles[:, k]] for k in range(3))
    inward = (np.cross(b - a, c - a) * a).sum(axis=1) < 0
    triangles[inward] = triangles[inward][:, ::-1]
    normals = vertex_normals(points.astype(np.float32), triangles.astype(np.int32))
    assert (normals * points).sum(axis=1).min() > 0.9


LAMP = Light(azimuth=0.0, elevation=80.0, strength=0.9, kelvin=5500.0, softness=0.05, rim=0.0)


def test_what_lies_in_shadow_gets_less_light_and_red_reaches_further_round() -> None:
    sheet = np.array([[-1, 0.8, -1.5], [1, 0.8, -1.5], [1, 0.8, 0.5], [-1, 0.8, 0.5]], float)
    lighting = set_up(LAMP, np.ones(3), sheet, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    up = np.array([[0.0, 1.0, 0.0]])
    below, beside = np.array([[0.0, 0.0, -0.7]]), np.array([[2.0, 0.0, -0.7]])
    covered = lighting.on(below, up, 0.05, (0.0, 0.0, 0.0))
    free = lighting.on(beside, up, 0.05, (0.0, 0.0, 0.0))
    assert covered.mean() < 0.35 * free.mean()
    side = np.array([[1.0, 0.0, 0.0]])
    soft = lighting.on(beside, side, 0.05, (0.4, 0.1, 0.1))[0]
    assert soft[0] > soft[1]


def test_points_that_look_away_from_the_camera_are_not_lit() -> None:
    sheet = np.array([[-9, -9, -9], [-9, -9, -8.9], [-9, -8.9, -9]], float)
    lighting = set_up(LAMP, np.ones(3), sheet, np.array([[0, 1, 2]], np.int32))
    away = np.array([[0.0, 0.3, -0.95]])
    assert lighting.on(np.zeros((1, 3)), away, 0.05, (0.1, 0.1, 0.1)).sum() == 0
    assert lighting.on(np.zeros((1, 3)), away, 0.05, (0.1, 0.1, 0.1), turned=-1.0).sum() > 0


@pytest.mark.parametrize("style", sorted(STYLES))
def test_hair_stays_outside_the_head(style: str) -> None:
    radius = 1.0
    head = HeadForm(measure_centre(), np.full((64, 128), radius, np.float32), np.full((64, 64), -99.0, np.float32))
    rng = np.random.default_rng(1)
    normals = rng.normal(size=(300, 3))
    normals[:, 1] = np.abs(normals[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    strands = grow(STYLES[style], head, measure_centre() + radius * normals, normals, 3)
    if style == "bun":
        strands = strands[:, :8]  # then they wind around in a ball, which the head's back may take a part of
    away = np.linalg.norm(strands - measure_centre(), axis=2)
    high = strands[..., 1] > -0.8  # below, the neck takes over from the head
    # curls may touch, nothing goes deep
    assert away[high].min() > radius - 2.2 * max(STYLES[style].curl, 0.02)
    assert np.isfinite(strands).all()


def test_noise_is_smooth_bounded_and_of_its_seed() -> None:
    points = np.random.default_rng(0).uniform(-3, 3, (500, 3)).astype(np.float32)
    one = value_noise(points, 4.0, 1)
    assert np.abs(one).max() <= 1
    assert one.std() > 0.2
    assert np.array_equal(one, value_noise(points, 4.0, 1))
    assert not np.array_equal(one, value_noise(points, 4.0, 2))
    assert np.abs(value_noise(points + np.float32(1e-4), 4.0, 1) - one).max() < 0.01


def test_srgb_and_linear_light_are_each_other_s_inverse() -> None:
    values = np.linspace(0, 1, 256)
    assert encoded(linear(values)) == pytest.approx(values, abs=1e-9)
