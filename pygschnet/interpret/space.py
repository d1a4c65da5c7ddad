"""Where fields around molecules are evaluated: grids, isosurfaces and planes; and cube files, which viewers read."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.io.cube import write_cube as write_ase_cube
from jaxtyping import Float, Int

from pygschnet.errors import InputError
from pygschnet.files import replacing


class Grid(NamedTuple):
    """Points on a regular grid.

    Attributes:
        origin: the first point, in Å.
        steps: from one point to the next along each direction, in rows, in Å.
        shape: how many points along each direction.
    """

    origin: Float[np.ndarray, "3"]
    steps: Float[np.ndarray, "3 3"]
    shape: tuple[int, int, int]

    @property
    def points(self) -> Float[np.ndarray, "nx ny nz 3"]:
        """All of them, in Å."""
        return self.origin + np.moveaxis(np.indices(self.shape), 0, -1) @ self.steps


class Surface(NamedTuple):
    """A closed surface of triangles.

    Attributes:
        vertices: in Å.
        faces: three vertices each, anticlockwise as seen from outside.
    """

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]


class Plane(NamedTuple):
    """Points on a plane, r = origin + x axes₁ + y axes₂.

    Attributes:
        points: in Å.
        x: of the columns, in Å.
        y: of the rows, in Å.
        origin: in Å.
        axes: the directions of x, of y, and the normal; orthonormal and right-handed.
    """

    points: Float[np.ndarray, "rows columns 3"]
    x: Float[np.ndarray, "columns"]
    y: Float[np.ndarray, "rows"]
    origin: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]

    def coordinates(self, positions: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "atoms 3"]:
        """x, y and the height over the plane, in Å, of atoms to be drawn with it."""
        return (positions - self.origin) @ self.axes.T


def grid_around(positions: Float[np.ndarray, "atoms 3"], spacing: float = 0.2, margin: float = 3.5) -> Grid:
    """A grid of cubes with a molecule in its middle.

    Args:
        positions: of the atoms, in Å.
        spacing: of the points, in Å.
        margin: how far it goes beyond the atoms at least, in Å.

    Raises:
        InputError: for no atoms, positions that are not finite, or a spacing that is not above 0.
    """
    _check(positions, spacing, margin)
    x, y, z = (_ticks(column.min() - margin, column.max() + margin, spacing) for column in positions.T)
    return Grid(np.array([x[0], y[0], z[0]]), spacing * np.eye(3), (len(x), len(y), len(z)))


def isosurface(positions: Float[np.ndarray, "atoms 3"], level: float = 3.8, spacing: float = 0.2) -> Surface:
    """The surface s(r) = Σ_i ‖r − r_i‖⁻² = level, on which the DTNN paper shows local chemical potentials.

    Each of n atoms adds less than level beyond √(n/level) from all of them, so the surface ends there.

    Args:
        positions: of the atoms, in Å.
        level: in Å⁻²; 3.8 in the DTNN paper, 3.7 in SchNet's journal paper.
        spacing: about the size of the triangles, in Å; the vertices are on the surface whatever it is.

    Raises:
        InputError: without scikit-image, or for a level that is not above 0, and as `grid_around`.

    Source: arXiv:1609.08259; arXiv:1806.10349.
    """
    try:
        from skimage.measure import marching_cubes
    except ImportError:
        raise InputError("surfaces need scikit-image: pip install scikit-image") from None
    if not level > 0:
        raise InputError(f"the level must be above 0 Å⁻², got {level}")
    _check(positions, spacing, 0.0)
    grid = grid_around(positions, spacing, math.sqrt(len(positions) / level) + spacing)
    field = _reciprocal_sum(grid, positions)  # 1/s, which is smooth at the nuclei, where s is infinite
    # "descent" is what turns faces of a field that ascends outwards to the outside
    vertices, faces, _, _ = marching_cubes(field, 1 / level, gradient_direction="descent")
    vertices = grid.origin + vertices.astype(np.float64) @ grid.steps
    for _ in range(10):  # four do, but not where two parts of the surface all but touch
        vertices = vertices + _newton_step(vertices, positions, level, longest=spacing / 4)
    return Surface(vertices, faces.astype(np.int64))


def plane(
    positions: Float[np.ndarray, "atoms 3"],
    atoms: list[int] | None = None,
    height: float = 0.0,
    spacing: float = 0.1,
    margin: float = 3.0,
) -> Plane:
    """The plane that comes closest to some atoms, or one above it.

    x points along their longest extent, or, if they are as wide as long, as a regular ring is, to the first of them.
    The largest component of such an axis is positive, and so is that of the normal.

    Args:
        positions: of all atoms, in Å.
        atoms: which of them, such as those of a ring; all if not given.
        height: along the normal, in Å.
        spacing: of the points, in Å.
        margin: how far it goes beyond these atoms, in Å.

    Raises:
        InputError: for atoms that are not there, and as `grid_around`.
    """
    _check(positions, spacing, margin)
    chosen = np.arange(len(positions)) if atoms is None else np.array(atoms, dtype=int)
    if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= len(positions):
        raise InputError(f"a plane through atoms {chosen.tolist()}, of {len(positions)}, which count from 0")
    centre = positions[chosen].mean(0)
    axes = _axes(positions[chosen] - centre)
    origin = centre + height * axes[2]
    flat = (positions[chosen] - centre) @ axes[:2].T
    x, y = (_ticks(column.min() - margin, column.max() + margin, spacing) for column in flat.T)
    return Plane(origin + x[None, :, None] * axes[0] + y[:, None, None] * axes[1], x, y, origin, axes)


def write_cube(
    path: str | Path,
    atoms: Atoms,
    grid: Grid,
    values: Float[np.ndarray, "nx ny nz"],
    quantity: str = "local chemical potential in eV",
) -> None:
    """Write values on a grid as a Gaussian cube file, for VMD and others, whole or not at all.

    Args:
        path: of the file.
        atoms: the molecule; positions in Å, which a cube file holds in Bohr.
        grid: where the values belong.
        values: seven digits of them are kept.
        quantity: what they are, with the unit, for the first line of the file.

    Raises:
        InputError: if values and grid have different shapes.
    """
    if values.shape != grid.shape:
        raise InputError(f"values of shape {list(values.shape)} on a grid of {list(grid.shape)} points")
    scene = Atoms(atoms.numbers, atoms.positions, cell=grid.steps * np.array(grid.shape)[:, None])
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        write_ase_cube(file, scene, values, grid.origin, f"{quantity}; lengths in Bohr")


def _check(positions: np.ndarray, spacing: float, margin: float) -> None:
    if len(positions) == 0 or not np.isfinite(positions).all():
        raise InputError("a region around atoms needs some atoms, at finite positions in Å")
    if not spacing > 0 or not margin >= 0:
        raise InputError(f"need a spacing above 0 Å and a margin of at least 0 Å, got {spacing} and {margin}")


def _reciprocal_sum(grid: Grid, positions: np.ndarray) -> np.ndarray:
    """1 / Σ_i ‖r − r_i‖⁻² on the grid, 0 at the nuclei."""
    points, s = grid.points, np.zeros(grid.shape)
    with np.errstate(divide="ignore"):
        for position in positions:
            s += 1 / np.square(points - position).sum(-1)
    return 1 / s


def _newton_step(points: np.ndarray, positions: np.ndarray, level: float, longest: float) -> np.ndarray:
    """(1/level − 1/s) ∇(1/s) / ‖∇(1/s)‖², which leads to s = level, no longer than given."""
    s, gradient = np.zeros(len(points)), np.zeros_like(points)
    for position in positions:
        apart = points - position
        square = np.square(apart).sum(-1)
        s += 1 / square
        gradient += 2 * apart / np.square(square)[:, None]  # −∇s = s² ∇(1/s)
    steepness = np.square(gradient).sum(-1)
    step = ((s / level - 1) * s / steepness)[:, None] * gradient
    return step * np.minimum(1, longest / np.maximum(np.linalg.norm(step, axis=1), 1e-300))[:, None]


def _axes(centred: np.ndarray) -> np.ndarray:
    """x, y and the normal, right-handed; what atoms on a line, or one atom, leave open is taken from the frame."""
    _, extents, directions = np.linalg.svd(np.vstack([centred, np.zeros((3, 3))]), full_matrices=False)
    tolerance = 1e-3 * max(extents[0], 1e-3)
    x, normal = _signed(directions[0]), directions[2]
    if extents[1] <= tolerance:
        x = x if extents[0] > tolerance else np.array([1.0, 0.0, 0.0])
        normal = np.cross(x, np.eye(3)[np.abs(x).argmin()])
    elif extents[0] - extents[1] <= tolerance:
        flat = centred - np.outer(centred @ normal, normal)
        x = next(one for one in flat if np.linalg.norm(one) > tolerance)
    x, normal = x / np.linalg.norm(x), _signed(normal / np.linalg.norm(normal))
    return np.stack([x, np.cross(normal, x), normal])


def _signed(axis: np.ndarray) -> np.ndarray:
    """With its largest component, the first of equal ones, positive."""
    size = np.abs(axis)
    return axis * np.sign(axis[np.argmax(size > size.max() - 1e-6)])


def _ticks(low: float, high: float, spacing: float) -> Float[np.ndarray, "ticks"]:
    """Equally spaced numbers that cover an interval, with its middle as theirs."""
    cells = math.ceil((high - low) / spacing - 1e-9)
    return (low + high) / 2 + (np.arange(cells + 1) - cells / 2) * spacing
