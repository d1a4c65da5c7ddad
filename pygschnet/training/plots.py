"""Pictures of a run. They draw numbers and compute none."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pygschnet.files import replacing


def plot_learning_curves(curves: dict[str, tuple[np.ndarray, np.ndarray]], units: dict[str, str], path: Path) -> None:
    """Draw quantities against the training step, one panel each, errors on a logarithmic scale.

    Args:
        curves: name → (steps, values).
        units: name → unit.
        path: of the PNG.
    """
    figure = Figure(figsize=(4.2 * len(curves), 3.4), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, (steps, values)) in zip(panels, curves.items(), strict=True):
        panel.plot(steps, values, marker="." if len(steps) < 50 else None, linewidth=1.2)
        if len(values) and min(values) > 0:
            panel.set_yscale("log")
        panel.set_title(name)
        panel.set_xlabel("training step")
        panel.set_ylabel(units[name])
        panel.grid(alpha=0.3, which="both")
    _write(figure, path)


def plot_parity(
    reference: np.ndarray,
    predicted: np.ndarray,
    quantity: str,
    unit: str,
    shown: str,
    mae: float,
    path: Path,
    groups: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Draw predicted against reference values, and the distribution of the errors.

    Energies are shown relative to the mean reference energy.

    Args:
        reference: from the data, with a row for each atom or molecule.
        predicted: by the model.
        quantity: such as "energy".
        unit: of both.
        shown: what these values are, such as "400 test values".
        mae: in `unit`.
        path: of the PNG.
        groups: masks of the rows that get a colour of their own, by name.
    """
    errors = 1000 * (predicted - reference)
    origin = reference.mean() if quantity.startswith("energy") else 0.0
    parts = dict(groups) if groups else {"": np.ones(len(reference), bool)}
    colours = np.empty(reference.shape, dtype="<U2")
    for number, rows in enumerate(parts.values()):
        colours[rows] = f"C{number % 10}"
    figure = Figure(figsize=(8.8, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    points = (reference - origin).ravel(), (predicted - origin).ravel()  # in the order of the data: none hides another
    left.scatter(*points, s=3, c=colours.ravel(), alpha=0.4, linewidths=0, rasterized=True)
    low, high = min(reference.min(), predicted.min()) - origin, max(reference.max(), predicted.max()) - origin
    margin = 0.04 * (high - low) or 1.0
    left.plot([low, high], [low, high], color="black", linewidth=0.8)
    left.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
    left.locator_params(nbins=6)
    relative = f" {'−' if origin > 0 else '+'} {abs(origin):.2f}" if origin else ""
    left.set_xlabel(f"reference {quantity}{relative} ({unit})")
    left.set_ylabel(f"predicted {quantity}{relative} ({unit})")
    left.set_title(shown)
    columns = [errors[rows].ravel() for rows in parts.values()]
    ends = tuple(np.percentile(errors, [0.2, 99.8]))
    palette = [f"C{number % 10}" for number in range(len(parts))]
    right.hist(columns, bins=60, range=ends, stacked=True, label=list(parts), color=palette)
    right.set_xlabel(f"error (m{unit})")
    right.set_ylabel("count")
    right.set_title(f"MAE {1000 * mae:.3g} m{unit}")
    if groups:
        right.legend(frameon=False)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        FigureCanvasAgg(figure).print_png(part)
