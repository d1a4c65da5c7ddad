"""Pictures of explanations. They draw numbers and compute none."""

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
from pygschnet.interpret.attribution import Attribution, Quality
from pygschnet.interpret.embedding import Embedding
from pygschnet.interpret.space import Plane, Surface
from pygschnet.interpret.statistics import Environments
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
    _name_rows(axes, names)
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


def draw_filters(
    cuts: Float[np.ndarray, "filters points points"], extent: float, block: int, columns: int = 8
) -> Figure:
    """10 × 10 Å cuts through the filters of a block as in Fig. 3 of arXiv:1706.08566: blue negative, red positive.

    Args:
        cuts: W at √(x² + y²).
        extent: length of a side in Å.
        block: number of the interaction block.
        columns: of the picture.
    """
    rows = -(-len(cuts) // columns)
    points = cuts.shape[1]
    tiles = np.full((rows * columns, points + 2, points + 2), np.nan)
    tiles[: len(cuts), 1:-1, 1:-1] = cuts
    picture = tiles.reshape(rows, columns, points + 2, points + 2).swapaxes(1, 2).reshape(rows * (points + 2), -1)
    figure = Figure(figsize=(6.4, 5.5 * rows / columns + 0.3), layout="constrained")
    axes = figure.subplots()
    largest = float(np.nanpercentile(np.abs(picture), 99.5)) or 1.0
    image = axes.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"block {block}: {len(cuts)} filters, {extent:g} × {extent:g} Å each", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7, extend="both").set_label("W", fontsize=8)
    return figure


def draw_filter_curves(
    distances: Float[np.ndarray, "distances"], curves: Float[np.ndarray, "blocks distances filters"]
) -> Figure:
    """W(d) of all filters, a panel for each block.

    Args:
        distances: in Å.
        curves: the filters.
    """
    figure = Figure(figsize=(3.2 * len(curves), 2.6), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for number, (axes, filters) in enumerate(zip(panels, curves, strict=True), 1):
        axes.plot(distances, filters, linewidth=0.7, alpha=0.7)
        axes.axhline(0, color="0.3", linewidth=0.6)
        axes.set_title(f"block {number}", fontsize=9)
        axes.set_xlabel("d, Å")
        axes.margins(x=0)
    panels[0].set_ylabel("W(d)")
    return figure


def draw_embedding(embedding: Embedding) -> Figure:
    """The elements in the plane of the first two principal components.

    Args:
        embedding: of a model.
    """
    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axes = figure.subplots()
    first = embedding.components[:, 0]
    second = embedding.components[:, 1] if embedding.components.shape[1] > 1 else np.zeros_like(first)
    axes.scatter(first, second, s=260, c=[tuple(jmol_colors[z]) for z in embedding.elements], edgecolors="0.3")
    for z, x, y in zip(embedding.elements, first, second, strict=True):
        axes.annotate(chemical_symbols[z], (x, y), ha="center", va="center", fontsize=9)
    shares = [f"{100 * share:.0f} %" for share in embedding.explained[:2]] + ["0 %"]
    axes.set_xlabel(f"PC1 ({shares[0]} of the variance)")
    axes.set_ylabel(f"PC2 ({shares[1]})")
    axes.margins(0.18)
    axes.grid(alpha=0.3)
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
    _name_rows(left, names)
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


def draw_quality(quality: Quality) -> Figure:
    """ρ of the signal estimators, over the neurons of the hidden layer, for each element.

    Args:
        quality: on molecules held out.
    """
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.subplots()
    shown = [name for name, values in quality.hidden.items() if np.isfinite(values).any()]
    width = 0.8 / len(shown)
    for column, name in enumerate(shown):
        places = np.arange(len(quality.z)) + (column - (len(shown) - 1) / 2) * width
        median = np.nanmedian(quality.hidden[name], axis=1)
        low, high = np.nanpercentile(quality.hidden[name], [10, 90], axis=1)
        axes.bar(places, median, 0.9 * width, yerr=[median - low, high - median], label=name, ecolor="0.2")
    axes.set_xticks(np.arange(len(quality.z)), [chemical_symbols[z] for z in quality.z])
    axes.set(ylim=(0, 1.02), ylabel="ρ: median over neurons, 10 to 90 %")
    axes.legend(frameon=False, fontsize=8, ncols=len(shown))
    return figure


def draw_environments(statistics: Environments, fewest: int = 30) -> Figure:
    """Energies of atoms by element and environment: mean, and standard deviation over molecules.

    Args:
        statistics: over a data set.
        fewest: atoms of an environment that is drawn.
    """
    counts: np.ndarray = statistics[2]  # `count` is a method of every tuple to type checkers
    rows = [row for row in range(len(statistics.names)) if counts[row] >= fewest]
    rows.sort(key=lambda row: (statistics.z[row], statistics.names[row] not in chemical_symbols, statistics.mean[row]))
    figure = Figure(figsize=(8.4, 0.8 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colours = [tuple(0.9 * jmol_colors[statistics.z[row]]) for row in rows]
    places = np.arange(len(rows))
    axes.errorbar(
        KCAL * statistics.mean[rows], places, xerr=KCAL * statistics.deviation[rows], fmt="none", ecolor="0.4"
    )
    axes.scatter(KCAL * statistics.mean[rows], places, c=colours, edgecolors="0.2", s=40, zorder=3)
    labels = [f"{statistics.names[row]} ({counts[row]:,})" for row in rows]
    _name_rows(axes, labels)
    axes.set_xlabel("network's energy of the atom, kcal/mol")
    axes.grid(alpha=0.3)
    return figure


def write(figure: Figure, path: Path) -> None:
    """Write a picture whole or not at all, as what its name ends in: .png, .svg, .pdf.

    Args:
        figure: the picture.
        path: of the file.
    """
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """The first row above, and each with its name."""
    axes.set_yticks(np.arange(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
