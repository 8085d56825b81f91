"""A small rasteriser: lit triangles and strands into one picture, and depth maps that tell what light reaches.

Everything is lit per vertex before it comes here, at about one vertex a pixel, so drawing only interpolates colours.
Compiled by numba; no GPU, no windows, no noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

FAR = np.float32(1e9)


@dataclass
class Canvas:
    """What is drawn on: colour (s, s, 3) linear light, depth (s, s), and how much is covered (s, s) in [0, 1]."""

    colour: np.ndarray
    depth: np.ndarray
    cover: np.ndarray

    @classmethod
    def blank(cls, size: int) -> Canvas:
        """Return an empty canvas of `size` pixels a side."""
        return cls(
            np.zeros((size, size, 3), np.float32),
            np.full((size, size), FAR, np.float32),
            np.zeros((size, size), np.float32),
        )


@numba.njit(cache=True, fastmath=True)
def draw_triangles(
    screen: np.ndarray,
    rgb: np.ndarray,
    keep: np.ndarray,
    triangles: np.ndarray,
    colour: np.ndarray,
    depth: np.ndarray,
    cover: np.ndarray,
) -> None:
    """Draw triangles with interpolated colour and depth test.

    screen (n, 3): x right and y down in pixels, z distance; rgb (n, 3); keep (n,): a pixel is left out where its
    interpolated value is negative, which cuts clean edges into coarse meshes; triangles (m, 3).
    """
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        if keep[a] < 0 and keep[b] < 0 and keep[c] < 0:
            continue
        ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        x0, x1 = max(0, math.ceil(min(ax, bx, cx) - 0.5)), min(width - 1, math.floor(max(ax, bx, cx) - 0.5))
        y0, y1 = max(0, math.ceil(min(ay, by, cy) - 0.5)), min(height - 1, math.floor(max(ay, by, cy) - 0.5))
        if x0 > x1 or y0 > y1:
            continue
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        for y in range(y0, y1 + 1):
            py = y + 0.5
            for x in range(x0, x1 + 1):
                px = x + 0.5
                u = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
                v = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
                w = 1.0 - u - v
                if u < -1e-6 or v < -1e-6 or w < -1e-6:
                    continue
                z = u * screen[a, 2] + v * screen[b, 2] + w * screen[c, 2]
                if z >= depth[y, x] or u * keep[a] + v * keep[b] + w * keep[c] < 0:
                    continue
                depth[y, x] = z
                cover[y, x] = 1.0
                for k in range(3):
                    colour[y, x, k] = u * rgb[a, k] + v * rgb[b, k] + w * rgb[c, k]


@numba.njit(cache=True, fastmath=True)
def draw_strands(
    screen: np.ndarray,
    rgb: np.ndarray,
    width_px: np.ndarray,
    opacity: float,
    colour: np.ndarray,
    depth: np.ndarray,
    cover: np.ndarray,
) -> None:
    """Draw strands as tapering lines that follow the eye.

    screen (s, k, 3) and rgb (s, k, 3) along each strand; width_px (s,) in pixels at the root, thinner towards the tip.
    Where a line is thinner than a pixel it is blended by its width times `opacity`.
    """
    height, width = depth.shape
    points = screen.shape[1]
    for s in range(screen.shape[0]):
        for k in range(points - 1):
            x0, y0, z0 = screen[s, k, 0], screen[s, k, 1], screen[s, k, 2]
            x1, y1, z1 = screen[s, k + 1, 0], screen[s, k + 1, 1], screen[s, k + 1, 2]
            dx, dy = x1 - x0, y1 - y0
            steps = int(max(abs(dx), abs(dy))) + 1
            taper = 1.0 - 0.75 * (k / (points - 1)) ** 2
            wide = width_px[s] * taper
            along_x = abs(dx) > abs(dy)
            for i in range(steps):
                f = (i + 0.5) / steps
                x, y, z = x0 + f * dx, y0 + f * dy, z0 + f * (z1 - z0)
                centre = y if along_x else x
                first, last = math.floor(centre - wide / 2 + 0.5), math.floor(centre + wide / 2 - 0.5)
                share = opacity
                if last < first:
                    first = last = math.floor(centre)
                    share = opacity * wide
                for j in range(first, last + 1):
                    px = math.floor(x) if along_x else j
                    py = j if along_x else math.floor(y)
                    if px < 0 or py < 0 or px >= width or py >= height or z > depth[py, px]:
                        continue
                    if share > 0.6:
                        depth[py, px] = z
                    before = cover[py, px]
                    cover[py, px] = before + (1 - before) * share
                    for q in range(3):
                        value = rgb[s, k, q] + f * (rgb[s, k + 1, q] - rgb[s, k, q])
                        colour[py, px, q] += share * (value - colour[py, px, q])


@numba.njit(cache=True, fastmath=True)
def depth_maps(points: np.ndarray, triangles: np.ndarray, frames: np.ndarray, scale: float, size: int) -> np.ndarray:
    """Return how far the nearest surface is, seen along each direction: (d, size, size), far where there is none.

    points (n, 3) around the origin; frames (d, 3, 3): rows right, up and the direction towards the light; `scale`
    pixels a unit.
    """
    count = frames.shape[0]
    maps = np.full((count, size, size), FAR, np.float32)
    screen = np.empty((points.shape[0], 3), np.float32)
    half = size / 2
    for d in range(count):
        f = frames[d]
        for n in range(points.shape[0]):
            x, y, z = points[n, 0], points[n, 1], points[n, 2]
            screen[n, 0] = (f[0, 0] * x + f[0, 1] * y + f[0, 2] * z) * scale + half
            screen[n, 1] = (f[1, 0] * x + f[1, 1] * y + f[1, 2] * z) * scale + half
            screen[n, 2] = -(f[2, 0] * x + f[2, 1] * y + f[2, 2] * z)
        for t in range(triangles.shape[0]):
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
            area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            x0, x1 = max(0, math.ceil(min(ax, bx, cx) - 0.5)), min(size - 1, math.floor(max(ax, bx, cx) - 0.5))
            y0, y1 = max(0, math.ceil(min(ay, by, cy) - 0.5)), min(size - 1, math.floor(max(ay, by, cy) - 0.5))
            if abs(area) < 1e-9 or x0 > x1 or y0 > y1:
                continue
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    u = ((bx - x - 0.5) * (cy - y - 0.5) - (by - y - 0.5) * (cx - x - 0.5)) / area
                    v = ((cx - x - 0.5) * (ay - y - 0.5) - (cy - y - 0.5) * (ax - x - 0.5)) / area
                    w = 1.0 - u - v
                    if u < 0 or v < 0 or w < 0:
                        continue
                    z = u * screen[a, 2] + v * screen[b, 2] + w * screen[c, 2]
                    if z < maps[d, y, x]:
                        maps[d, y, x] = z
    return maps


@numba.njit(cache=True, fastmath=True)
def gather_light(
    points: np.ndarray,
    normals: np.ndarray,
    frames: np.ndarray,
    radiance: np.ndarray,
    maps: np.ndarray,
    scale: float,
    bias: float,
    wrap: np.ndarray,
    turned: float,
) -> np.ndarray:
    """Return the light (n, 3) that reaches each point: sum over directions of radiance, visibility and wrapped cosine.

    `wrap` (3,): how far red, green and blue reach around the terminator, as light does that travels under skin.
    radiance (d, 3); maps, frames, scale as in `depth_maps`; `bias` keeps a surface from shading itself. Points whose
    normal looks away from the camera, z < `turned`, are not seen and stay dark.
    """
    count, size = maps.shape[0], maps.shape[1]
    light = np.zeros((points.shape[0], 3), np.float32)
    half = size / 2
    reach = -max(wrap[0], wrap[1], wrap[2])
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        nx, ny, nz = normals[n, 0], normals[n, 1], normals[n, 2]
        if nz < turned:
            continue
        for d in range(count):
            f = frames[d]
            cosine = f[2, 0] * nx + f[2, 1] * ny + f[2, 2] * nz
            if cosine <= reach:
                continue
            # moved along the normal, then towards the light: no shadow of its own facet
            ox, oy, oz = x + 0.5 * bias * nx, y + 0.5 * bias * ny, z + 0.5 * bias * nz
            mx = (f[0, 0] * ox + f[0, 1] * oy + f[0, 2] * oz) * scale + half - 0.5
            my = (f[1, 0] * ox + f[1, 1] * oy + f[1, 2] * oz) * scale + half - 0.5
            mz = -(f[2, 0] * ox + f[2, 1] * oy + f[2, 2] * oz)
            seen = 1.0
            ix, iy = math.floor(mx), math.floor(my)
            if 0 <= ix < size - 1 and 0 <= iy < size - 1:
                fx, fy = mx - ix, my - iy
                seen = 0.0
                limit = mz - bias
                seen += (1 - fx) * (1 - fy) * (1.0 if maps[d, iy, ix] > limit else 0.0)
                seen += fx * (1 - fy) * (1.0 if maps[d, iy, ix + 1] > limit else 0.0)
                seen += (1 - fx) * fy * (1.0 if maps[d, iy + 1, ix] > limit else 0.0)
                seen += fx * fy * (1.0 if maps[d, iy + 1, ix + 1] > limit else 0.0)
            if seen == 0.0:
                continue
            for k in range(3):
                soft = (cosine + wrap[k]) / (1 + wrap[k])
                if soft > 0:
                    light[n, k] += radiance[d, k] * seen * soft / (1 + wrap[k])
    return light


@numba.njit(cache=True, fastmath=True)
def vertex_normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return unit normals (n, 3), averaged over the triangles at each point by their area."""
    normals = np.zeros_like(points)
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for n in (a, b, c):
            normals[n, 0] += nx
            normals[n, 1] += ny
            normals[n, 2] += nz
    for n in range(points.shape[0]):
        length = math.sqrt(normals[n, 0] ** 2 + normals[n, 1] ** 2 + normals[n, 2] ** 2) + 1e-12
        for k in range(3):
            normals[n, k] /= length
    return normals
