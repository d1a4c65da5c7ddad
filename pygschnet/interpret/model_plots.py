"""Pictures of what a model says of elements, distances and environments. They draw numbers and compute none."""

import numpy as np
from ase.data import chemical_symbols
from ase.data.colors import jmol_colors
from jaxtyping import Float
from matplotlib.figure import Figure

from pygschnet.interpret.attribution import Quality
from pygschnet.interpret.embedding import Embedding
from pygschnet.interpret.plots import KCAL, name_rows
from pygschnet.interpret.statistics import Environments


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
    rows = [row for row in range(len(statistics.names)) if statistics.atoms[row] >= fewest]
    rows.sort(key=lambda row: (statistics.z[row], statistics.names[row] not in chemical_symbols, statistics.mean[row]))
    figure = Figure(figsize=(8.4, 0.8 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colours = [tuple(0.9 * jmol_colors[statistics.z[row]]) for row in rows]
    places = np.arange(len(rows))
    axes.errorbar(
        KCAL * statistics.mean[rows], places, xerr=KCAL * statistics.deviation[rows], fmt="none", ecolor="0.4"
    )
    axes.scatter(KCAL * statistics.mean[rows], places, c=colours, edgecolors="0.2", s=40, zorder=3)
    labels = [f"{statistics.names[row]} ({statistics.atoms[row]:,})" for row in rows]
    name_rows(axes, labels)
    axes.set_xlabel("network's energy of the atom, kcal/mol")
    axes.grid(alpha=0.3)
    return figure
