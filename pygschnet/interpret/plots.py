"""Pictures of what a model says of molecules. They draw numbers and compute none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import units as ase_units
from ase.data import chemical_symbols
from ase.data.colors import jmol_colors
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from pygschnet.files import replacing
from pygschnet.interpret.attribution import Attribution
from pygschnet.interpret.space import Plane, Surface
from pygschnet.interpret.walks import Walks

KCAL = ase_units.mol / ase_units.kcal
"""kcal/mol in one eV."""

SCALE = "viridis"
"""Colours that grow in lightness and are told apart with any colour vision, or none."""


def draw_contributions(
    names: Sequence[str],
    z: np.ndarray,
    values: Float[np.ndarray, "atoms"],
    spread: Float[np.ndarray, "atoms"] | None,
    label: str,
) -> Figure:
    """A point for each atom, coloured by element, with its spread over seeds.

    Args:
        names: of the atoms.
        z: their atomic numbers.
        values: one for each.
        spread: standard deviations.
        label: of the axis, with unit.
    """
    figure = Figure(figsize=(6.4, 1.2 + 0.22 * len(z)), layout="constrained")
    axes = figure.subplots()
    places, colours = np.arange(len(z)), [tuple(0.9 * jmol_colors[number]) for number in z]
    axes.errorbar(values, places, xerr=spread, fmt="none", ecolor="0.2")
    axes.scatter(values, places, c=colours, edgecolors="0.2", s=50, zorder=3)
    name_rows(axes, names)
    axes.grid(alpha=0.3)
    axes.set_xlabel(label)
    return figure


def draw_planes(
    planes: Sequence[Plane],
    heights: Sequence[float],
    potentials: Sequence[Float[np.ndarray, "probes rows columns"]],
    probes: Sequence[str],
    ranges: Mapping[str, tuple[float, float]],
    positions: Float[np.ndarray, "atoms 3"],
    z: np.ndarray,
) -> Figure:
    """Ω in planes, a row for each plane and a column for each probe, in kcal/mol, with lines of equal Ω.

    Args:
        planes: where.
        heights: of each above the molecule, in Å.
        potentials: Ω in each, in eV.
        probes: the elements of the probe.
        ranges: lowest and highest Ω that the colours tell apart, in eV, by probe.
        positions: of the atoms, in Å.
        z: their atomic numbers.
    """
    height = 0.75 + 2.6 * float(np.ptp(planes[0].y) / np.ptp(planes[0].x))
    figure = Figure(figsize=(3.6 * len(probes), height * len(planes)), layout="constrained")
    panels = figure.subplots(len(planes), len(probes), squeeze=False)
    for row, plane, above, values in zip(panels, planes, heights, potentials, strict=True):
        for axes, probe, value in zip(row, probes, values * KCAL, strict=True):
            low, high = (KCAL * end for end in ranges[probe])
            ends = (plane.x[0], plane.x[-1], plane.y[0], plane.y[-1])
            image = axes.imshow(value, origin="lower", extent=ends, cmap=SCALE, vmin=low, vmax=high)
            levels = np.linspace(low, high, 9)[1:-1]
            axes.contour(plane.x, plane.y, value, levels=levels, colors="white", linewidths=0.5)
            for number, (x, y, _) in zip(z, plane.coordinates(positions), strict=True):
                axes.annotate(chemical_symbols[number], (x, y), ha="center", va="center", fontsize=8, color="white")
            axes.set_title(f"Ω of {probe}, {above:g} Å above", fontsize=9)
            axes.tick_params(labelsize=7)
            figure.colorbar(image, ax=axes, shrink=0.85, extend="both").set_label("kcal/mol", fontsize=8)
        row[0].set_ylabel("Å")
    for axes in panels[-1]:
        axes.set_xlabel("Å")
    return figure


def draw_surfaces(
    names: Sequence[str],
    surfaces: Sequence[Surface],
    potentials: Sequence[Float[np.ndarray, "probes vertices"]],
    probes: Sequence[str],
    ranges: Mapping[str, tuple[float, float]],
) -> Figure:
    """Surfaces coloured by Ω, a row for each probe and a column for each molecule, seen from above their planes.

    Args:
        names: of the molecules.
        surfaces: around them, in coordinates whose third axis is towards the eye.
        potentials: Ω on the vertices, in eV.
        probes: the elements of the probe.
        ranges: lowest and highest Ω that the colours tell apart, in eV, by probe.
    """
    figure = Figure(figsize=(2.5 * len(names) + 0.8, 2.6 * len(probes)), layout="constrained")
    light = np.array([0.3, 0.4, 0.85]) / np.linalg.norm([0.3, 0.4, 0.85])
    reach = max(np.abs(surface.vertices - surface.vertices.mean(0)).max() for surface in surfaces)
    for row, probe in enumerate(probes):
        low, high = ranges[probe]
        panels = []
        for column, (surface, values) in enumerate(zip(surfaces, potentials, strict=True)):
            axes = figure.add_subplot(len(probes), len(names), row * len(names) + column + 1, projection="3d")
            corners = surface.vertices[surface.faces]
            normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
            shade = 0.62 + 0.38 * np.clip(normals @ light, 0, 1)
            share = np.clip((values[row][surface.faces].mean(1) - low) / (high - low), 0, 1)
            colours = colormaps[SCALE](share)
            colours[:, :3] *= shade[:, None]
            axes.add_collection3d(Poly3DCollection(corners, facecolors=colours, edgecolors=colours, linewidths=0.1))
            centre = surface.vertices.mean(0)
            for set_limits, middle in zip((axes.set_xlim, axes.set_ylim, axes.set_zlim), centre, strict=True):
                set_limits(middle - 0.62 * reach, middle + 0.62 * reach)
            axes.set_box_aspect((1, 1, 1))
            axes.view_init(elev=68, azim=-90)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(names[column], fontsize=9)
            panels.append(axes)
        scale = ScalarMappable(Normalize(KCAL * low, KCAL * high), SCALE)
        bar = figure.colorbar(scale, ax=panels, shrink=0.8, extend="both", pad=0.01)
        bar.set_label(f"Ω of {probe}, kcal/mol", fontsize=8)
    return figure


def draw_walks(names: Sequence[str], z: np.ndarray, walks: Walks) -> Figure:
    """Relevances of walks by the atom where they begin, and by how many different atoms they visit.

    Args:
        names: of the atoms.
        z: their atomic numbers.
        walks: of the molecule.
    """
    figure = Figure(figsize=(8.4, 1.2 + 0.22 * len(z)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    colours = [tuple(0.9 * jmol_colors[number]) for number in z]
    left.barh(np.arange(len(z)), KCAL * walks.of_atoms(), color=colours, edgecolor="0.3", linewidth=0.6)
    left.axvline(0, color="0.3", linewidth=0.8)
    name_rows(left, names)
    left.set_xlabel("walks that begin at the atom, kcal/mol")
    orders = KCAL * walks.of_orders()
    bars = right.bar(np.arange(1, len(orders) + 1), orders, color="0.6", edgecolor="0.3")
    right.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    right.axhline(0, color="0.3", linewidth=0.8)
    right.set_xticks(np.arange(1, len(orders) + 1))
    right.set_xlabel("different atoms visited")
    right.set_ylabel("kcal/mol")
    right.margins(y=0.15)
    return figure


def draw_attribution(names: Sequence[str], attribution: Attribution) -> Figure:
    """Relevances of features, a row for each atom, in kcal/mol.

    Args:
        names: of the atoms.
        attribution: of their energies.
    """
    values = KCAL * attribution.relevance
    figure = Figure(figsize=(8.4, 1.4 + 0.2 * len(names)), layout="constrained")
    axes = figure.subplots()
    largest = float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    axes.set_yticks(np.arange(len(names)), names, fontsize=8)
    axes.set_xlabel("feature")
    figure.colorbar(image, ax=axes).set_label("kcal/mol", fontsize=8)
    return figure


def write(figure: Figure, path: Path) -> None:
    """Write a picture whole or not at all, as what its name ends in: .png, .svg, .pdf.

    Args:
        figure: the picture.
        path: of the file.
    """
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """The first row above, and each with its name.

    Args:
        axes: on which rows 0, 1, … have been drawn.
        names: of the rows.
    """
    axes.set_yticks(np.arange(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
